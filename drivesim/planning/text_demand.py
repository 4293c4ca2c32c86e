"""What a rollout of a text-to-video model asks for: its own calls, run on the meta device, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from drivesim.core.seeds import Key
from drivesim.diffusion.settings import TextSamplingConfig
from drivesim.families.finishing import Finishing
from drivesim.families.folder import find_model
from drivesim.families.prompts import Prompts
from drivesim.families.text import TextModel, key_frames_for, text_facts
from drivesim.families.text_fitting import check_text_fit
from drivesim.families.text_parts import blank_text_parts
from drivesim.families.text_published import INDEX, published_parts
from drivesim.families.text_upscale import LatentUpscaling
from drivesim.models.stored_weights import set_weight_type
from drivesim.planning.demand import Demand, Part, Phase
from drivesim.planning.rollout_demand import (
    alone,
    chunk_blocks,
    counted,
    encoder_bytes,
    future_plan,
    resident_weights,
    sampled,
)
from drivesim.planning.tally import LARGEST_HEAP_BLOCK
from drivesim.planning.text_rollout import PUBLISHED
from drivesim.rollout.text import TextRolloutCommand

_DECODED_AT_ONCE = 24  # frames of which the work of decoding is counted: some have all their neighbours
_KEY: tuple[Key, ...] = (0,)


def blank_text_model(command: TextRolloutCommand) -> TextModel:
    """The model of a rollout without weights, on the meta device.

    Raises:
        ValueError: no such model, or parts that do not fit together.
    """
    if command.model == PUBLISHED:
        index = command.stages.kept(dict(INDEX))
        parts = published_parts()
        if index.get("rates") is None:
            parts.interpolation_unet = parts.interpolation = parts.rate_label = None
        if "video_decoder" in index:
            parts.video_decoder = None
        if "upscaler" in index:
            parts.upscaler = None
        if "upscaler_temporal" in index:
            parts.upscaler_temporal = None
    else:
        folder = find_model(command.model)
        index = text_facts(folder, command.stages)
        parts = blank_text_parts(folder, index, command.sources())
    check_text_fit(index, parts)
    for network in parts.networks().values():
        set_weight_type(network, command.dtype())
    parts.keep_from_overflow()
    key_frames = command.key_frames
    if key_frames is None and command.seconds is not None:
        key_frames = key_frames_for(index, command.seconds)
    return TextModel(
        parts, index, "", key_frames=key_frames, size_hw=command.size_hw, samplings=command.samplings(),
        memory=command.memory, offload_to="meta" if command.memory.offload else None,
    )  # fmt: skip


@dataclass(slots=True)
class _Settings:
    """How a stage of a model is sampled, as an attribute that a count may change for a while."""

    model: TextModel
    stage: str

    @property
    def sampling(self) -> TextSamplingConfig:
        return self.model.samplings[self.stage]

    @sampling.setter
    def sampling(self, value: TextSamplingConfig) -> None:
        self.model.samplings[self.stage] = value


def text_demand(command: TextRolloutCommand, model: TextModel) -> Demand:
    """Counts one process that makes all videos, one after the other."""
    plan, said = future_plan(command, model), Prompts(prompts=["a car"])
    latent, futures = model.latent_shape, command.futures
    phases = []
    if command.start is not None:
        picture = np.zeros((1, *model.start_hw, 3), dtype=np.uint8)
        phases.append(counted("encoding the start", 1, alone(model, lambda: model.encode(picture))))
    given = torch.zeros(1, 0 if command.start is None else 1, *latent, device="meta")
    keys = (_Settings(model, "key_frames"), "sampling")
    predict = alone(model, lambda: model.predict(given, generators=[_any()], conditions=[said]))
    phases.append(sampled("key frames", futures, keys, predict))
    phases += [_filling_in(model, number, futures * plan.num_chunks, said) for number in range(model.num_passes)]
    phases.append(decoding(command, model))
    upscaling = model.finishing.upsampling
    if isinstance(upscaling, LatentUpscaling):
        phases += _upscaling(model, upscaling, plan.num_frames, futures, said)
    chunk = chunk_blocks(model.size_hw, model.start_hw, plan)
    networks = model.parts.networks()
    return Demand(
        parts=[
            Part(name=name, num_parameters=sum(p.numel() for p in network.parameters()), is_trained=False)
            for name, network in networks.items()
        ],
        resident=resident_weights(model, networks.values()),
        phases=phases,
        passing={"frames of a chunk": sum(chunk), "video encoder": encoder_bytes(model.size_hw)},
        passing_heap_bytes=sum(size for size in chunk if size <= LARGEST_HEAP_BLOCK),
    )


def _any() -> torch.Generator:
    return torch.Generator()


def _filling_in(model: TextModel, number: int, num_steps: int, said: Prompts) -> Phase:
    """A pass of interpolation in one step of a rollout."""
    assert model.interpolator is not None
    windows = model.gaps_at_once * (int(model.interpolator.temporal.config.num_frames) - 1) ** number
    ends = torch.zeros(windows, 2, *model.latent_shape, device="meta")

    def run() -> None:
        model.interpolate(
            ends, number, generators=[_any() for _ in range(windows)], conditions=[said] * windows,
            starts_s=[0.0] * windows,
        )  # fmt: skip

    name = f"frames between, {windows} windows to {model.rates[number]:g} fps"
    return sampled(name, num_steps, (_Settings(model, "interpolate"), "sampling"), alone(model, run))


def decoding(command: TextRolloutCommand, model: TextModel) -> Phase:
    """Decoding of some frames, before they are made larger."""
    num_frames, whole = command.num_frames(model), model.finishing
    small = Finishing(
        model.parts.image.vae, model.parts.video_decoder, None, fps=model.fps, tile=whole.tile, chunk=whole.chunk,
        bring=whole.bring,
    )  # fmt: skip
    at_once = min(num_frames, _DECODED_AT_ONCE)
    piece = torch.zeros(at_once, *model.latent_shape, device="meta")
    run = alone(model, lambda: small.push({}, piece, key=_KEY, is_last=True))
    return counted(f"decoding {at_once} frames", command.futures * num_frames / at_once, run)


def _upscaling(
    model: TextModel, upscaling: LatentUpscaling, num_frames: int, futures: int, said: Prompts
) -> list[Phase]:
    low_hw = model.start_hw
    at_once = min(num_frames, upscaling.portion)
    step = upscaling.portion - upscaling.overlap
    portions = 1 + max(0, -(-(num_frames - upscaling.portion) // step))
    low = torch.zeros(at_once, 3, *low_hw, device="meta")
    large = torch.zeros(1, upscaling.image.unet.config.out_channels, *low_hw, device="meta")
    return [
        sampled(
            f"upscaling {at_once} frames", futures * portions, (upscaling, "sampling"),
            alone(model, lambda: upscaling.make(low, first_frame=0, key=_KEY, conditions=said), "upsample"),
        ),
        counted(
            "decoding a large frame", futures * num_frames,
            alone(model, lambda: upscaling.pictures(large, first_frame=0), "upsample"),
        ),
    ]  # fmt: skip
