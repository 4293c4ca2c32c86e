"""Trains the evaluators' detector on toytown: heatmaps by a focal loss, borders by their overlap.

Legend: B pictures, K classes, h x w cells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from drivesim.core.boxes import CLASSES, ObjectClass
from drivesim.core.files import atomic_path
from drivesim.core.picture import resize_area
from drivesim.core.seeds import derive_seed, numpy_generator, torch_generator
from drivesim.families.driving import DrivingModel
from drivesim.models.autoencoder import decode, encode
from drivesim.train.detector_pictures import DetectorPicture, DetectorVariation, Redraw, draw_sample
from drivesim.train.detector_targets import DetectorTargets, collate, must_be_found

N = TypeVar("N", bound=nn.Module)

_LOG = logging.getLogger(__name__)
RARE = frozenset({ObjectClass.BUS, ObjectClass.MOTORCYCLE, ObjectClass.BICYCLE})
_REPORT_EVERY = 50  # steps between two lines of the log


class Maps(Protocol):
    """What the network says of B pictures."""

    objects_BKhw: Tensor  # logit
    sides_B4hw: Tensor  # left, top, right, bottom borders' distances from the cell's centre, pixels
    log_depth_Bhw: Tensor
    night_B: Tensor  # logit


@dataclass(kw_only=True, slots=True)
class DetectorTraining:
    """How the detector is trained; `evaluation/toytown-detector` says how the weights that ship were."""

    num_steps: int = 1500  # optimizer steps
    batch_size: int = 8  # pictures a step
    learning_rate: float = 2e-3  # between warm-up and decay
    warmup_steps: int = 50  # over which it rises
    decay_share: float = 0.4  # of the steps, over which it falls to 0; before, a longer training is the same one
    weight_decay: float = 1e-2
    rare_share: float = 0.0  # of the samples, from pictures that show a bus, a motorcycle or a bicycle
    seed: int = 0  # initial weights and every sample follow from it
    checkpoint_steps: int = 100  # a killed training goes on from the last multiple
    variation: DetectorVariation = field(default_factory=DetectorVariation)  # what is varied between samples


def train_detector(
    config: DetectorTraining,
    make_network: Callable[[], N],
    pictures: Sequence[DetectorPicture],
    checkpoint: Path | None = None,
) -> tuple[N, dict[str, float]]:
    """Trains a network that is made here, so that its first weights follow from the seed as well.

    Args:
        config: How.
        make_network: Its network takes float pictures (B, 3, H, W) in [-1, 1], gives `Maps`, and has the attributes
            `input_hw` and `stride_px`.
        pictures: What to learn from.
        checkpoint: File from which a killed training goes on; None = it starts over.

    Returns:
        The network in evaluation mode, and the last step's losses by name.
    """
    if not pictures:
        raise ValueError("the detector needs pictures to train on")
    torch.manual_seed(derive_seed("detector", config.seed, "weights"))
    network = make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(config, step))
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    losses: dict[str, Tensor] = {}
    rare = [picture for picture in pictures if shows_rare(picture)] if config.rare_share > 0 else []
    for step in range(_resume(parts, checkpoint), config.num_steps):
        batch, targets = draw_batch(config, network, pictures, rare, step)
        with torch.autocast("cpu", torch.bfloat16):  # half the time
            maps = network(batch.to(memory_format=torch.channels_last))
        losses = detector_losses(maps, targets, network)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == config.num_steps - 1:
            text = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            _LOG.info("detector step %d of %d: %s", step, config.num_steps, text)
        if checkpoint is not None and (step + 1) % config.checkpoint_steps == 0:
            with atomic_path(checkpoint) as temporary:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, temporary)
    network.eval()
    return network, {name: value.item() for name, value in losses.items()}


def _rate(config: DetectorTraining, step: int) -> float:
    """The learning rate of a step over that of the middle of the training."""
    left = (config.num_steps - step) / max(config.decay_share * config.num_steps, 1)
    return min(1.0, (step + 1) / config.warmup_steps, max(left, 0.0))


def _resume(parts: dict[str, Any], checkpoint: Path | None) -> int:
    """Restores network, optimizer and schedule; the step to go on with."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def shows_rare(picture: DetectorPicture) -> bool:
    """Whether a picture must show a road user of a rare class."""
    ids = [index for index, class_id in enumerate(picture.boxes.class_ids) if CLASSES[class_id] in RARE]
    return any(must_be_found(picture.boxes, index) for index in ids)


def draw_batch(
    config: DetectorTraining,
    network: nn.Module,
    pictures: Sequence[DetectorPicture],
    rare: Sequence[DetectorPicture],
    step: int,
) -> tuple[Tensor, DetectorTargets]:
    """The batch of a step, fixed by the seed and the step.

    Args:
        config: How.
        network: For its input.
        pictures: What to learn from.
        rare: Those of them that show a rare class; none = there are none.
        step: Number of the step.
    """
    rng = numpy_generator("detector", config.seed, "batch", step)
    shape: Any = network.input_hw
    stride: Any = network.stride_px
    samples = []
    for _ in range(config.batch_size):
        is_rare = config.rare_share > 0 and rng.random() < config.rare_share
        samples.append(draw_sample(rare if is_rare and rare else pictures, shape, rng, config.variation))
    return collate(samples, stride)


def detector_losses(maps: Maps, targets: DetectorTargets, network: nn.Module) -> dict[str, Tensor]:
    """The weighted losses by name."""
    num_boxes = targets.weight_Bhw.sum().clamp(min=1)
    stride: Any = network.stride_px
    return {
        "objects": focal_loss(maps.objects_BKhw, targets.objects_BKhw, targets.counts_BKhw) / num_boxes,
        "borders": 2.0 * _border_loss(maps.sides_B4hw, targets, stride) / num_boxes,
        "depth": 0.3 * _depth_loss(maps.log_depth_Bhw, targets) / num_boxes,
        "night": 0.2 * functional.binary_cross_entropy_with_logits(maps.night_B.float(), targets.night_B),
    }


def focal_loss(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Sum over cells of the focal loss for peaks with slopes (Law and Deng 2018, eq. 1; alpha 2, beta 4)."""
    logits = logits.float()
    share = logits.sigmoid()
    is_peak = targets == 1
    found = -(1 - share).square() * functional.logsigmoid(logits)
    missed = -share.square() * functional.logsigmoid(-logits) * (1 - targets).pow(4)
    return (torch.where(is_peak, found, missed) * counts).sum()


def _border_loss(sides_B4hw: Tensor, targets: DetectorTargets, stride_px: int) -> Tensor:
    """Sum over boxes of 1 - generalised intersection over union (Rezatofighi et al. 2019)."""
    used = targets.weight_Bhw > 0
    places = used.nonzero()
    centre = (places[:, [2, 1]].float() + 0.5) * stride_px
    sides = sides_B4hw.permute(0, 2, 3, 1)[used].float()
    found = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], dim=1)
    wanted = targets.borders_B4hw.permute(0, 2, 3, 1)[used]
    shared = _area(torch.maximum(found[:, :2], wanted[:, :2]), torch.minimum(found[:, 2:], wanted[:, 2:]))
    around = _area(torch.minimum(found[:, :2], wanted[:, :2]), torch.maximum(found[:, 2:], wanted[:, 2:]))
    together = _area(found[:, :2], found[:, 2:]) + _area(wanted[:, :2], wanted[:, 2:]) - shared
    overlap = shared / together.clamp(min=1e-6) - (around - together) / around.clamp(min=1e-6)
    return ((1 - overlap) * targets.weight_Bhw[used]).sum()


def _area(corner: Tensor, opposite: Tensor) -> Tensor:
    return (opposite - corner).clamp(min=0).prod(dim=1)


def _depth_loss(log_depth_Bhw: Tensor, targets: DetectorTargets) -> Tensor:
    used = targets.weight_Bhw > 0
    wanted = targets.depth_Bhw[used].clamp(min=1.0).log()
    return (
        functional.smooth_l1_loss(log_depth_Bhw[used].float(), wanted, reduction="none") * targets.weight_Bhw[used]
    ).sum()


def redraw_by(model: DrivingModel, largest_noise: float = 0.5) -> Redraw:
    """Pictures as a model's autoencoder gives them back, with noise in the latents as of an unfinished sampling.

    Args:
        model: Gives size and autoencoder.
        largest_noise: Deviation of the noise, at most, where that of the latents is 1.
    """

    def redraw(frames_MHWC: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        latents = encode(model.autoencoder, resize_area(frames_MHWC, model.small_hw))
        strength = torch.from_numpy(rng.uniform(0, largest_noise, size=(len(latents), 1, 1, 1))).float()
        noise = torch.randn(latents.shape, generator=torch_generator(int(rng.integers(2**31))))
        return decode(model.autoencoder, latents + (strength * noise).to(latents))

    return redraw
