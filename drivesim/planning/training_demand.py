"""What a training run asks for: its own loss and optimizer, run for two steps on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivesim.core.wording import number_of
from drivesim.models.autoencoder import Autoencoder, encode, frames_at_once
from drivesim.nn.video_convolution import counted_as
from drivesim.planning.as_on_device import AsOnDevice
from drivesim.planning.demand import Demand, Phase, part_sizes, weight_bytes
from drivesim.planning.rollout_demand import sampled
from drivesim.planning.speed import Work
from drivesim.planning.tally import Tally
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.dreambooth import AT_ONCE, ClassPictures
from drivesim.train.folders import Parts
from drivesim.train.initial_parts import with_fresh_parts
from drivesim.train.optim import make_optimizer
from drivesim.train.recipe import Recipe
from drivesim.train.recipes import RECIPES, trained_parts
from drivesim.train.stage import Stage

# The recipe that writes a model folder; None = no recipe does.
FindRecipe = Callable[[str], TrainConfig | None]
_PRECISIONS = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


def training_demand(
    config: TrainConfig, parts: Parts, num_cached: int | None = None, *, is_validated: bool = True
) -> Demand:
    """Counts a training run without its data and without memory.

    Args:
        config: the stage and its settings.
        parts: what `blank_stage_parts` gives.
        num_cached: frames of the source at the cache's rate; None = unknown.
        is_validated: whether the source holds drives out, to validate on.
    """
    recipe = RECIPES[StageName(config.stage)]
    low, everything = _precision(config.trainer.precision)
    with torch.device("meta"):
        stage = recipe.stage(config, parts).to("meta", everything)
        batches = {
            is_training: _cast(recipe.example_batch(config, parts, is_training=is_training), everything)
            for is_training in ((True, False) if is_validated else (True,))
        }
    with counted_as(has_groups=low is None):
        demand = _steps(stage, config, batches, low)
    demand.parts = part_sizes(parts, trained_parts(config))
    if makes_class_pictures(config, parts):
        demand.phases.insert(0, _class_pictures(parts, demand.resident))
    if not recipe.learns_from_pictures:
        demand.phases.insert(0, _caching(parts["autoencoder"], config, num_cached or 0))
    return demand


def blank_stage_parts(config: TrainConfig, find_recipe: FindRecipe) -> Parts:
    """All parts of a stage, without weights.

    Args:
        config: the stage and its settings.
        find_recipe: the recipe behind an `init` that is not there yet: its parts are made in place of those.

    Raises:
        ValueError: parts of `init` that are neither there nor made by a recipe, or do not fit.
    """
    recipe = RECIPES[StageName(config.stage)]
    parts: Parts = {}
    if recipe.needs:
        assert config.init is not None
        before = None if Path(config.init).is_dir() else find_recipe(config.init)
        if before is None:
            parts = _blank_parts(recipe, config.init)
        else:
            earlier = blank_stage_parts(before, find_recipe)
            parts = {name: earlier[name] for name in recipe.needs}
    with torch.device("meta"):
        return with_fresh_parts(config, parts)


def makes_class_pictures(config: TrainConfig, parts: Parts) -> bool:
    """Whether a stage samples pictures of a subject's class before its first step."""
    return "class_pictures" in parts and config.dreambooth.prior_weight > 0


def _blank_parts(recipe: Recipe, init: str) -> Parts:
    try:
        return recipe.folders.blank(init, recipe.needs)
    except ValueError as error:
        if Path(init).is_dir():
            raise
        raise ValueError(
            f"init={init}: {error}; no shipped recipe writes that folder, so the sizes of {', '.join(recipe.needs)} "
            "are not known"
        ) from error


def _precision(name: str) -> tuple[torch.dtype | None, torch.dtype]:
    """The 16-bit type of mixed precision (None = not mixed) and the type of weights and batches."""
    bits, _, kind = name.partition("-")
    low = _PRECISIONS[bits]
    return (low, torch.float32) if kind == "mixed" else (None, low)


def _cast(batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def _steps(stage: Stage, config: TrainConfig, batches: dict[bool, dict[str, Tensor]], low: Any) -> Demand:
    """What stays in memory, and the phases of steps and validations; in the order in which Lightning does them."""
    stage.train()
    stage.frozen.eval()
    optimizer, _ = make_optimizer(stage.trained, config.optim, config.trainer.max_steps)
    tally = Tally()
    _step(stage, optimizer, config, batches[True], tally, low)  # the first one makes the optimizer's state
    tally.begin()
    work = _step(stage, optimizer, config, batches[True], tally, low)
    state = _state_bytes(optimizer)
    step = Phase(
        name="training step",
        peak_bytes=tally.peak_bytes - state,
        heap_bytes=max(0, tally.peak_heap_bytes - state),
        work=work,
        count=config.trainer.max_steps,
    )
    resident = {
        "trained weights": weight_bytes(stage.trained),
        "frozen weights": weight_bytes(stage.frozen),
        "averaged weights": weight_bytes(stage.ema),
        "optimizer state": state,
        "batch": sum(t.numel() * t.element_size() for t in batches[True].values()),
    }
    if config.trainer.devices > 1:
        resident["gradients in the making"] = sum(
            p.numel() * p.element_size() for p in stage.trained.parameters() if p.requires_grad
        )
    phases = [step]
    if False in batches:
        phases.append(_validation(stage, optimizer, config, batches[False], tally, low))
    return Demand(parts=[], resident=resident, phases=phases)


def _validation(
    stage: Stage, optimizer: torch.optim.Optimizer, config: TrainConfig, batch: dict[str, Tensor], tally: Tally,
    low: Any,
) -> Phase:  # fmt: skip
    """A batch of a validation, of whose items each process takes its part."""
    tally.begin()
    with tally, AsOnDevice(low), torch.no_grad():
        stage.eval()
        with stage.ema.swapped_in():
            stage.loss(batch, torch.Generator())
    state = _state_bytes(optimizer)
    num_items = -(-config.loader.num_val_items // config.trainer.devices)
    num_batches = -(-num_items // len(next(iter(batch.values()))))
    return Phase(
        name="validation batch",
        peak_bytes=tally.peak_bytes - state,
        heap_bytes=max(0, tally.peak_heap_bytes - state),
        work=Work.of(tally),
        count=config.trainer.max_steps // config.trainer.validate_every * num_batches,
    )


def _step(
    stage: Stage, optimizer: torch.optim.Optimizer, config: TrainConfig, batch: dict[str, Tensor], tally: Tally,
    low: Any,
) -> Work:  # fmt: skip
    """One optimizer step; as in Lightning, the gradients of the step before are freed between forward and backward.

    Of many batches of a step two are run: the others are as the second.
    """
    work = [Work()]
    for micro in range(min(config.trainer.accumulate, 2)):
        with tally, AsOnDevice(low):
            loss = stage.loss(batch, torch.Generator())["loss"]
            if micro == 0:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            del loss
        work.append(Work.of(tally))
    with tally:
        optimizer.step()
    others = config.trainer.accumulate - len(work) + 1
    return Work.of(tally).plus(work[-1].plus(work[-2], -1), others)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in values if value.is_meta)


def _caching(autoencoder: Autoencoder, config: TrainConfig, num_cached: int) -> Phase:
    """Encoding of the source's frames, before the first step."""
    height, width = config.size_hw
    num = frames_at_once(height, width)
    with Tally() as tally, AsOnDevice():
        encode(autoencoder, np.zeros((num, height, width, 3), dtype=np.uint8))
    return Phase(
        name=f"latents of {number_of(num, 'frame')}",
        peak_bytes=tally.peak_bytes,
        heap_bytes=tally.peak_heap_bytes,
        work=Work.of(tally),
        count=num_cached / num,
    )


def _class_pictures(parts: Parts, resident: dict[str, int]) -> Phase:
    """Sampling of a subject's class, before the first step, by a copy of the model that was not trained."""
    pictures: ClassPictures = parts["class_pictures"]
    model = parts | {name: copy.deepcopy(parts[name]).float().eval() for name in ("backbone", "text_encoder")}
    held = SimpleNamespace(sampling=pictures.sampling)
    phase = sampled(
        f"{AT_ONCE} class pictures", -(-pictures.config.num_class_pictures // AT_ONCE), (held, "sampling"),
        lambda: replace(pictures, sampling=held.sampling).made(model, range(AT_ONCE)),
    )  # fmt: skip
    copies = weight_bytes(model["backbone"]) + weight_bytes(model["text_encoder"])
    # All that is there of the training by then is its weights.
    later = sum(size for name, size in resident.items() if not name.endswith("weights"))
    phase.peak_bytes = max(0, phase.peak_bytes + copies - later)
    return phase
