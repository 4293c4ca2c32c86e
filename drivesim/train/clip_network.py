"""Trains the evaluators' small clip network: how a clip is played, how the ego car moves, where cars are.

Legend: B clips, T frames.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from drivesim.core.clip import Clip
from drivesim.core.seeds import derive_seed, numpy_generator
from drivesim.train.clip_network_samples import EGO_SCALE, ClipSample, ClipSampling, draw_sample

_LOG = logging.getLogger(__name__)
_REPORT_EVERY = 50  # steps between two lines of the log


class Predictions(Protocol):
    """What the network's heads say, for T frames of B clips."""

    playback: Tensor  # (B, ways of playing) logits
    ego: Tensor  # (B, T, 2)
    num_cars: Tensor  # (B, T)
    nearest: Tensor  # (B, T)
    night: Tensor  # (B, T) logit
    occupancy: Tensor  # (B, T, rows, columns) logits


@dataclass(kw_only=True, slots=True)
class ClipNetworkTraining:
    """How the clip network is trained; the defaults made the weights that ship."""

    num_steps: int = 1200  # optimizer steps
    batch_frames: int = 64  # frames a step: 8 clips of 8 frames, or 4 of 16
    clip_lengths: tuple[int, ...] = (8, 8, 16)  # frames a clip, drawn anew every step
    learning_rate: float = 2e-3  # peak; one-cycle schedule
    weight_decay: float = 1e-2
    num_validation: int = 240  # held-out samples behind the reported accuracy
    seed: int = 0  # initial weights and every sample follow from it
    sampling: ClipSampling = field(default_factory=ClipSampling)  # what is varied between samples


@dataclass(kw_only=True, slots=True)
class ClipNetworkReport:
    """What the trained network gets right on held-out drives."""

    playback_accuracy: dict[str, float]  # share recognised, by way of playing
    way_error_m: float  # mean absolute error of the way between two frames
    yaw_error_deg: float  # mean absolute error of the yaw between two frames
    night_accuracy: float  # share of frames
    occupancy_recall: float  # share of the cells under cars that are found
    occupancy_precision: float  # share of the cells found that lie under cars


def train_clip_network(
    config: ClipNetworkTraining, network: nn.Module, clips: Sequence[Clip], held_out: Sequence[Clip]
) -> ClipNetworkReport:
    """Trains `network` in place and leaves it in evaluation mode.

    Args:
        config: How.
        network: Takes float frames (B, T, 3, H, W) in [-1, 1], gives `Predictions`; has the attributes
            `playbacks`, `input_hw` and `grid_hw`.
        clips: Drives of at least 16 frames, a little larger than the network's input so that crops
            stay sharp. Boxes, ego path and night are used where known, so any video helps.
        held_out: Other drives, for the report.
    """
    if not clips or not held_out:
        raise ValueError("the clip network needs clips to train on and held-out clips to report on")
    torch.manual_seed(derive_seed("clip network", config.seed, "weights"))
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            module.reset_parameters()
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=config.num_steps, pct_start=0.1
    )
    for step in range(config.num_steps):
        batch = draw_batch(config, network, clips, ("train", step))
        losses = batch_losses(network(batch["frames"]), batch)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == config.num_steps - 1:
            parts = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            _LOG.info("clip network step %d of %d: %s", step, config.num_steps, parts)
    network.eval()
    return validate_clip_network(config, network, held_out)


def draw_batch(
    config: ClipNetworkTraining, network: nn.Module, clips: Sequence[Clip], key: tuple[str, int]
) -> dict[str, Tensor]:
    """A batch with every way of playing equally often; `key` fixes it."""
    rng = numpy_generator("clip network", config.seed, *key)
    num_frames = int(config.clip_lengths[int(rng.integers(len(config.clip_lengths)))])
    playbacks: Any = network.playbacks
    offset = int(rng.integers(len(playbacks)))
    samples = []
    for position in range(max(1, config.batch_frames // num_frames)):
        index = (offset + position) % len(playbacks)
        shape: Any = (network.input_hw, network.grid_hw)
        samples.append(draw_sample(clips, num_frames, (index, playbacks[index]), shape, rng, config.sampling))
    return _collate(samples)


def _collate(samples: list[ClipSample]) -> dict[str, Tensor]:
    num_frames = len(samples[0].frames_TCHW)

    def stacked(name: str) -> Tensor:
        values = [np.asarray(getattr(sample, name), dtype=np.float32) for sample in samples]
        # a label not known for a whole clip comes as one nan frame
        values = [np.repeat(v, num_frames, axis=0) if v.shape[:1] == (1,) else v for v in values]
        return torch.from_numpy(np.stack(values))

    return {
        "frames": stacked("frames_TCHW"),
        "playback": torch.tensor([sample.playback for sample in samples]),
        "ego": stacked("ego"),
        "num_cars": stacked("num_cars"),
        "nearest": stacked("nearest"),
        "night": torch.tensor([sample.night for sample in samples])[:, None].expand(-1, num_frames),
        "occupancy": stacked("occupancy"),
    }


def batch_losses(predictions: Predictions, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weighted losses by name; labels that are not known take no part."""
    occupancy = functional.binary_cross_entropy_with_logits
    return {
        "playback": functional.cross_entropy(predictions.playback, batch["playback"], ignore_index=-1)
        if (batch["playback"] >= 0).any()
        else predictions.playback.sum() * 0,
        "ego": 0.5 * _known(functional.smooth_l1_loss, predictions.ego, batch["ego"]),
        "num_cars": 0.5 * _known(functional.smooth_l1_loss, predictions.num_cars, batch["num_cars"]),
        "nearest": 0.5 * _known(functional.smooth_l1_loss, predictions.nearest, batch["nearest"]),
        "night": 0.2 * _known(occupancy, predictions.night, batch["night"]),
        "occupancy": 2.0 * _known(occupancy, predictions.occupancy, batch["occupancy"]),
    }


def _known(loss: Any, predicted: Tensor, target: Tensor) -> Tensor:
    """A loss over the targets that are not nan; 0 where there are none."""
    known = ~torch.isnan(target)
    result: Tensor = loss(predicted[known], target[known]) if known.any() else predicted.sum() * 0
    return result


@torch.no_grad()
def validate_clip_network(
    config: ClipNetworkTraining, network: nn.Module, held_out: Sequence[Clip]
) -> ClipNetworkReport:
    """The report on held-out drives, varied as in training."""
    playbacks: Any = network.playbacks
    right, seen = np.zeros(len(playbacks)), np.zeros(len(playbacks))
    errors: list[Tensor] = []
    nights: list[Tensor] = []
    cells = torch.zeros(3)  # found and under a car, found, under a car
    step = 0
    while seen.sum() < config.num_validation and step < config.num_validation:
        batch = draw_batch(config, network, held_out, ("validation", step))
        predicted: Predictions = network(batch["frames"])
        for index in range(len(playbacks)):
            mine = batch["playback"] == index
            seen[index] += int(mine.sum())
            right[index] += int((predicted.playback[mine].argmax(dim=1) == index).sum())
        errors.append((predicted.ego - batch["ego"]).abs().flatten(0, 1))
        known = ~torch.isnan(batch["night"])
        nights.append(((predicted.night > 0) == (batch["night"] > 0.5))[known].float())
        found, under = predicted.occupancy > 0, batch["occupancy"] > 0.5
        cells += torch.stack([(found & under).sum(), found.sum(), under.sum()])
        step += 1
    error = torch.cat(errors).nanmean(dim=0) * torch.from_numpy(EGO_SCALE)
    return ClipNetworkReport(
        playback_accuracy={name: float(right[i] / max(seen[i], 1)) for i, name in enumerate(playbacks)},
        way_error_m=float(error[0]),
        yaw_error_deg=float(torch.rad2deg(error[1])),
        night_accuracy=float(torch.cat(nights).mean()),
        occupancy_recall=float(cells[0] / cells[2].clamp(min=1)),
        occupancy_precision=float(cells[0] / cells[1].clamp(min=1)),
    )
