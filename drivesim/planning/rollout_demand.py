"""What a rollout asks for: the model's own calls, run on the meta device at the shapes of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.boxes import MAX_BOXES
from drivesim.diffusion.settings import PredictionOverrides, SamplingConfig, TextSamplingConfig
from drivesim.families.drive import Said
from drivesim.families.driving import DrivingModel, facts_with, model_facts
from drivesim.families.fitting import check_fit
from drivesim.families.folder import blank_parts, find_model, part_names
from drivesim.families.memory import MemoryConfig
from drivesim.families.stages import StagesConfig
from drivesim.families.text import TextModel
from drivesim.models.autoencoder import keep_from_overflow
from drivesim.models.stored_weights import set_weight_type
from drivesim.planning.as_on_device import AsOnDevice
from drivesim.planning.demand import Demand, Phase, part_sizes, weight_bytes
from drivesim.planning.speed import Work
from drivesim.planning.tally import LARGEST_HEAP_BLOCK, Tally
from drivesim.rollout.cascade import WINDOWS_AT_ONCE
from drivesim.rollout.plan import Plan
from drivesim.rollout.run import RolloutConfig

# Frames of which the work of decoding, and of what follows it, is counted: so many that some are decoded with all their
# neighbours and that there are several portions to upsample.
_FINISHED_AT_ONCE = 48


@dataclass(kw_only=True, slots=True)
class BlankModel:
    """A model without weights, which takes no memory."""

    model: DrivingModel
    parts: dict[str, Any]


def blank_model(
    folder_or_name: str,
    sampling: PredictionOverrides,
    stages: StagesConfig | None = None,
    dtype: torch.dtype = torch.float32,
    memory: MemoryConfig | None = None,
    find_recipe: Callable[[str], Any] = lambda model: None,
) -> BlankModel:
    """Builds a model on the meta device.

    Args:
        folder_or_name: which.
        sampling: what differs from the model's own.
        stages: which stages behind the prediction run, and how; None = all that the model has.
        dtype: of the weights.
        memory: how the rollout needs less of it; None = no change.
        find_recipe: the recipe that writes a model folder, for one that is not there yet; None = no recipe does.

    Raises:
        ValueError: no such model, or parts that do not fit together.
    """
    recipe = None if Path(folder_or_name).is_dir() else find_recipe(folder_or_name)
    if recipe is None:
        folder = find_model(folder_or_name)
        facts = model_facts(folder, stages)
        parts = blank_parts(folder, part_names(facts))
    else:
        from drivesim.planning.unmade_model import check_whole, unmade_model  # Lightning takes seconds to import

        made = unmade_model(recipe, find_recipe)
        check_whole(made, folder_or_name)
        facts = facts_with(made.index, stages or StagesConfig())
        parts = {name: made.parts[name] for name in part_names(facts)}
    check_fit(facts, parts)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            set_weight_type(part, dtype)
    keep_from_overflow(parts["autoencoder"])
    offload_to = "meta" if memory is not None and memory.offload else None
    model = DrivingModel(parts, facts, "", predict_sampling=sampling, memory=memory, offload_to=offload_to)
    return BlankModel(model=model, parts=parts)


def future_plan(config: RolloutConfig, model: DrivingModel | TextModel) -> Plan:
    """The calls of one future."""
    return Plan(
        num_frames=config.num_frames(model),
        frames_per_call=model.num_frames,
        num_given=model.num_given,
        frames_per_gap=model.frames_per_gap,
        gaps_at_once=model.gaps_at_once,
    )


def rollout_demand(config: RolloutConfig, blank: BlankModel, said: Said, *, is_designed: bool) -> Demand:
    """Counts one process that makes all futures, one after the other.

    Args:
        config: futures, length.
        blank: what `blank_model` gives.
        said: of the video. Clips that are told how the ego car drives may have a guidance of their own; all are
            counted as the first.
        is_designed: whether the start frame is made from a scene.
    """
    model = blank.model
    plan = future_plan(config, model)
    latent = (model.autoencoder.config.latent_channels, *model.video_unet.backbone.config.sample_size)
    num_chunks = config.futures * plan.num_chunks
    phases = _beginning(model, latent) if is_designed else [_encoding(model)]
    given = torch.zeros(1, model.num_given, *latent, device="meta")
    predict = alone(model, lambda: model.predict(given, generators=[torch.Generator()], conditions=[said]))
    phases.append(sampled("predicting key frames", num_chunks, (model, "predict_sampling"), predict))
    if model.num_passes:
        phases.append(_filling_in(model, num_chunks, latent))
    phases.append(finishing(config, model))
    networks = [part for part in blank.parts.values() if isinstance(part, torch.nn.Module)]
    chunk = chunk_blocks(model.size_hw, model.small_hw, plan)
    return Demand(
        parts=part_sizes(blank.parts),
        resident=resident_weights(model, networks),
        phases=phases,
        passing={"frames of a chunk": sum(chunk), "video encoder": encoder_bytes(model.size_hw)},
        passing_heap_bytes=sum(size for size in chunk if size <= LARGEST_HEAP_BLOCK),
    )


def finishing(config: RolloutConfig, model: DrivingModel) -> Phase:
    """Decoding of so many frames as one step gives, and what follows it."""
    plan, num_channels = future_plan(config, model), model.autoencoder.config.latent_channels
    num_frames = min(plan.chunk(0).num_new, _FINISHED_AT_ONCE)
    latents = torch.zeros(num_frames, num_channels, *model.latent_hw, device="meta")
    return sampled(
        f"finishing {num_frames} frames", config.futures * plan.num_frames / num_frames,
        (model.finishing.upsampling, "sampling"),
        alone(model, lambda: model.finish({}, latents, key=(0,), is_last=True)),
    )  # fmt: skip


def _encoding(model: DrivingModel) -> Phase:
    picture_1HWC = np.zeros((1, *model.size_hw, 3), dtype=np.uint8)
    return counted("encoding the start", 1, alone(model, lambda: model.encode(picture_1HWC)))


def _beginning(model: DrivingModel, latent: tuple[int, ...]) -> list[Phase]:
    """What makes a start frame from a scene: its latents, and the picture of them."""
    drawn = torch.zeros(*latent, device="meta")
    return [
        sampled("designing the start", 1, (model, "design_sampling"), alone(model, lambda: _design(model))),
        sampled(
            "drawing the start",
            1,
            (model.finishing.alone, "sampling"),
            alone(model, lambda: model.picture(drawn, key=(0,))),
        ),
    ]


def _design(model: DrivingModel) -> None:
    unknown = DrivingConditions.unknown(1, "meta")
    unknown.boxes_BN4 = torch.zeros(1, MAX_BOXES, 4, device="meta")
    unknown.classes_BN = torch.zeros(1, MAX_BOXES, dtype=torch.int64, device="meta")
    model.design(unknown, [torch.Generator()])


def _filling_in(model: DrivingModel, num_chunks: int, latent: tuple[int, ...]) -> Phase:
    """All passes of interpolation, in batches of windows; the number of batches is that of a whole chunk."""
    assert model.interpolator is not None
    factor = int(model.interpolator.temporal.config.num_frames) - 1
    gaps = [(model.num_frames - model.num_given) * factor**number for number in range(model.num_passes)]
    calls = sum(-(-gap // WINDOWS_AT_ONCE) for gap in gaps)
    windows = min(WINDOWS_AT_ONCE, max(gaps))
    ends = torch.zeros(windows, 2, *latent, device="meta")
    generators = [torch.Generator() for _ in range(windows)]

    def run() -> None:
        model.interpolate(ends, 0, generators=generators, conditions=[None] * windows)

    return sampled("filling in frames", num_chunks * calls, (model, "interpolate_sampling"), alone(model, run))


def resident_weights(model: DrivingModel | TextModel, networks: Iterable[torch.nn.Module]) -> dict[str, int]:
    """Bytes of networks that are always on the device; those that wait for their stage are counted where they run."""
    return {"weights": 0 if model.offload.device else sum(weight_bytes(network) for network in networks)}


def alone(model: DrivingModel | TextModel, run: Callable[[], object], stage: str | None = None) -> Callable[[], None]:
    """A run that begins with all networks away that may wait, so that those it fetches are counted with it.

    Args:
        model: whose networks.
        run: of one stage or several.
        stage: to fetch the networks of, for a run that does not do so itself; None = it does.
    """

    def run_alone() -> None:
        model.offload.leave()
        if stage is not None:
            model.offload.bring(stage)
        run()

    return run_alone


def counted(name: str, count: float, run: Callable[[], object]) -> Phase:
    """Work that is run once to be counted.

    Args:
        name: of the phase.
        count: how often it is run.
        run: on the meta device.
    """
    with Tally() as tally, AsOnDevice(), torch.no_grad():
        run()
    peaks = {"peak_bytes": tally.peak_bytes, "heap_bytes": tally.peak_heap_bytes}
    return Phase(name=name, work=Work.of(tally), count=count, **peaks)


def sampled(name: str, count: float, settings: tuple[Any, str], run: Callable[[], object]) -> Phase:
    """A sampling loop, of which the first steps are run and the others are as those after the first.

    Args:
        name: of the phase.
        count: how often it is run.
        settings: who holds the loop's settings, and under which name; None = there is no loop.
        run: with the settings as they are then.
    """
    owner, attribute = settings
    if owner is None:
        return counted(name, count, run)
    whole: SamplingConfig = getattr(owner, attribute)
    # Multistep samplers remember one step; where deep levels are reused, steps differ up to the next whole one.
    cycle = whole.deep_every if isinstance(whole, TextSamplingConfig) else 1
    works = []
    try:
        for steps in sorted({1, min(whole.steps, 1 + cycle)}):
            setattr(owner, attribute, replace(whole, steps=steps))
            phase = counted(name, count, run)
            works.append(phase.work)
    finally:
        setattr(owner, attribute, whole)
    if whole.steps > 1 + cycle:
        phase.work = works[-1].plus(works[-1].plus(works[0], -1), (whole.steps - 1 - cycle) / cycle)
    return phase


def chunk_blocks(size_hw: tuple[int, int], small_hw: tuple[int, int], plan: Plan) -> list[int]:
    """Bytes of a chunk's pictures, piece by piece and joined: as bytes, and before upsampling as 32-bit numbers."""
    (height, width), (small_height, small_width) = size_hw, small_hw
    num_numbers = 3 * plan.chunk(0).num_new
    return 2 * [num_numbers * height * width, 4 * num_numbers * small_height * small_width]


def encoder_bytes(size_hw: tuple[int, int]) -> int:
    """What x264 holds at preset superfast, which looks at no frames ahead: as much as 8 with their half-pixel planes.

    A frame is 4 planes of luma and 2 of chroma at a quarter. Measured: 19 MB of 512 x 1024 pixels.
    """
    height, width = size_hw
    return int(8 * 4.5 * height * width)
