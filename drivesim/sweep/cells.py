"""The cells of a sweep: every combination of model, sampling and seed, each with a name that is a folder's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from drivesim.diffusion.settings import PredictionOverrides


@dataclass(kw_only=True, slots=True, frozen=True)
class Cell:
    """One combination; its rollouts are scored at every horizon."""

    model: str  # folder, or name of a shipped model
    label: str  # of the model, unique in the sweep
    steps: int | None  # None = the model's own
    guidance: float | None  # None = the model's own
    seed: int

    @property
    def sampling(self) -> PredictionOverrides:
        """What the prediction samples otherwise than the model does by itself."""
        return PredictionOverrides(steps=self.steps, guidance=self.guidance)

    @property
    def name(self) -> str:
        """Of the cell's folders."""
        parts = [self.label]
        parts += [f"steps{self.steps}"] if self.steps is not None else []
        parts += [f"guidance{self.guidance:g}"] if self.guidance is not None else []
        return "_".join([*parts, f"seed{self.seed}"])


def grid(models: Sequence[str], steps: Sequence[int], guidance: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
    """Every combination, seeds last; empty `steps` or `guidance` = each model's own.

    Raises:
        ValueError: a list that needs a value has none, or names one twice.
    """
    lists: dict[str, Sequence[object]] = {"model": models, "steps": steps, "guidance": guidance, "seed": seeds}
    for name, values in lists.items():
        if not values and name in ("model", "seed"):
            raise ValueError(f"sweep.{name} is empty; give at least one")
        if len(set(values)) < len(values):
            raise ValueError(f"sweep.{name} names a value twice: {list(values)}")
    labels = model_labels(models)
    own: tuple[None] = (None,)
    return [
        Cell(model=model, label=labels[model], steps=step, guidance=scale, seed=seed)
        for model, step, scale, seed in product(models, steps or own, guidance or own, seeds)
    ]


def model_labels(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model: as many last parts of its path as it takes to tell them apart."""
    parts = {model: [part for part in Path(model).parts if part not in ("/", "..", ".")] for model in models}
    longest = max(map(len, parts.values()))
    for num in range(1, longest + 1):
        labels = {model: "-".join(parts[model][-num:]) for model in models}
        if len(set(labels.values())) == len(models):
            return labels
    raise ValueError(f"models whose paths cannot be told apart: {', '.join(models)}; give their full paths")
