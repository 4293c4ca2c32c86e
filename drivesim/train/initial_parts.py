"""The parts that a training begins with: those of `init`, fresh ones, and those of a warm start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from drivesim.models.autoencoder import downsampling
from drivesim.models.stored_weights import check_shapes, network_shapes
from drivesim.models.temporal_stack import TemporalStack
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.recipes import RECIPES, trained_parts


def check_sources(config: TrainConfig, find_experiment: Callable[[str], str | None]) -> None:
    """Refuses model folders that are not there and that another recipe writes.

    Args:
        config: of the training.
        find_experiment: the shipped recipe that writes a model folder; None = there is none.

    Raises:
        ValueError: one of `init`, `joins`, `warm_start`; says which recipe makes it.
    """
    given = [("init", config.init), *(("joins", source) for source in config.joins), ("warm_start", config.warm_start)]
    for key, source in given:
        experiment = None if source is None or Path(source).is_dir() else find_experiment(source)
        if experiment is not None:
            raise ValueError(
                f"{key}={source}: no such model folder yet; drivesim train experiment={experiment} makes it, or give "
                f"another {key}="
            )


def judge_parts(config: TrainConfig) -> None:
    """Refuses parts that do not fit before any weight is read or anything is written.

    Raises:
        ValueError: `init`, `warm_start` or `joins` is no model with the parts that are needed, in sizes that fit, or
            what comes out would be a model whose parts do not fit together.
    """
    recipe, trained = RECIPES[StageName(config.stage)], trained_parts(config)
    recipe.folders.check(config, trained)
    parts = _made(config, recipe.folders.judged, torch.device("meta"))
    recipe.folders.check_outcome(config, parts, trained, recipe.facts(config, parts))


def initial_parts(config: TrainConfig) -> Parts:
    """Frozen parts from `init`, fresh or warm-started ones for the stage.

    Raises:
        ValueError: as in `judge_parts`.
    """
    return _made(config, RECIPES[StageName(config.stage)].folders.load, torch.device("cpu"))


def with_fresh_parts(config: TrainConfig, parts: Parts) -> Parts:
    """Parts of `init` and those that the stage makes, on torch's default device.

    Raises:
        ValueError: parts that do not fit the stage.
    """
    check_size(config, parts)
    parts = parts | RECIPES[StageName(config.stage)].make(config, parts)
    _check_whole_latents(config, parts)
    return parts


def _made(config: TrainConfig, read: Callable[[str, Iterable[str]], Parts], device: torch.device) -> Parts:
    recipe = RECIPES[StageName(config.stage)]
    parts: Parts = {}
    if recipe.needs:
        assert config.init is not None
        parts = read(config.init, recipe.needs)
    with device:
        parts = with_fresh_parts(config, parts)
    if config.warm_start is not None:
        for name, warm in read(config.warm_start, trained_parts(config)).items():
            with device:
                parts[name] = _of_kind(parts[name], warm)
            _warm_start(parts[name], warm, f"warm_start={config.warm_start}: part {name!r} does not fit")
    return parts


def _of_kind(part: Any, warm: Any) -> Any:
    """Temporal layers that learn frame positions as numbers where those that they begin with hold them so."""
    if not (isinstance(part, TemporalStack) and isinstance(warm, TemporalStack)) or not warm.config.position_table:
        return part
    return TemporalStack(**part.shape() | {"position_table": True})


def _warm_start(part: Any, warm: Any, place: str) -> None:
    """Loads weights; those that a part of an earlier kind lacks may stay fresh where the part says so.

    Raises:
        ValueError: weights of another part; begins with `place`.
    """
    own, weights = part.state_dict(), warm.state_dict()
    fresh = tuple(getattr(part, "may_be_fresh", ()))
    weights |= {name: w for name, w in own.items() if name not in weights and any(mark in name for mark in fresh)}
    check_shapes({name: tuple(w.shape) for name, w in weights.items()}, network_shapes(part), place)
    is_judged = any(w.is_meta for w in own.values())  # nothing can be copied there
    part.load_state_dict(weights, assign=is_judged)


def _check_whole_latents(config: TrainConfig, parts: Parts) -> None:
    """Raises ValueError where pictures do not become whole latents."""
    if "autoencoder" not in parts:
        return
    f, scale = downsampling(parts["autoencoder"]), RECIPES[StageName(config.stage)].scale(config)
    _check_divides(config, f // math.gcd(f, scale))


def _check_divides(config: TrainConfig, step: int) -> None:
    if any(side % step for side in config.size_hw):
        nearest = [max(step, round(side / step) * step) for side in config.size_hw]
        raise ValueError(f"size_hw={list(config.size_hw)} does not divide by {step}; the nearest is {nearest}")


def check_size(config: TrainConfig, parts: Parts) -> None:
    """Raises ValueError where pictures have a size that the parts of `init` cannot take, or were not made for."""
    if "backbone" not in parts:
        return
    f, net = downsampling(parts["autoencoder"]), parts["backbone"].config
    if StageName(config.stage).is_text:  # convolutional in space: any size that can be halved often enough
        low = RECIPES[StageName(config.stage)].scale(config)
        _check_divides(config, f * 2 ** (len(net.block_out_channels) - 1) // low)
        return
    made_for = [side * f for side in net.sample_size]
    if list(config.size_hw) != made_for:
        raise ValueError(f"size_hw={list(config.size_hw)}, but init={config.init} was trained on {made_for}")
