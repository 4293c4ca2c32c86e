"""Settings of sweeps, of claims and of tests of a model's inputs; light to import, unlike what runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from drivesim.evaluate.condition_use import MIN_ITEMS, MIN_SEEDS
from drivesim.evaluate.settings import Span
from drivesim.families.stages import StagesConfig
from drivesim.sweep.cells import Cell, grid


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """Settings whose every combination is rolled out and scored; several values of one are a list."""

    start: list[str] = field(default_factory=list)  # scenes, pictures, videos, VIDEO@SECONDS; empty = no sweep
    model: list[str] = field(default_factory=lambda: ["toytown"])  # model folders, or names of shipped models
    steps: list[int] = field(default_factory=list)  # sampling steps of the prediction; empty = each model's own
    guidance: list[float] = field(default_factory=list)  # of the prediction, 1 = none; empty = each model's own
    seed: list[int] = field(default_factory=lambda: [0])  # repeated measurements: tables have their mean and interval
    seconds: list[float] = field(default_factory=lambda: [10.0])  # horizons: scores of the first so many seconds
    window_s: float | None = None  # also scores of sliding windows of this length, half of it apart; None = none
    futures: int = 4  # of each start, seed and setting
    is_night: bool | None = None  # of starts that are pictures or videos; None = unknown
    stages: StagesConfig = field(default_factory=StagesConfig)  # which stages follow the prediction
    device: str = "cpu"  # torch device

    def validate(self) -> None:
        """Raises ValueError for what makes no sweep."""
        if not self.seconds or not all(0 < seconds < math.inf for seconds in self.seconds):
            raise ValueError(f"sweep.seconds is {self.seconds}; give numbers above 0")
        if self.futures < 1:
            raise ValueError(f"sweep.futures is {self.futures}; must be 1 or more")
        if self.window_s is not None and not 0 < self.window_s <= max(self.seconds):
            raise ValueError(f"sweep.window_s is {self.window_s}; it must be above 0 and at most {max(self.seconds):g}")
        self.cells()

    def cells(self) -> list[Cell]:
        """Every combination of model, sampling and seed."""
        return grid(self.model, self.steps, self.guidance, self.seed)

    def spans(self) -> list[Span]:
        """The horizons, then the sliding windows."""
        found = [Span(begin_s=0.0, end_s=seconds) for seconds in sorted(set(self.seconds))]
        if self.window_s is not None:
            step = self.window_s / 2
            num = math.floor((max(self.seconds) - self.window_s) / step + 1e-9) + 1
            found += [Span(begin_s=k * step, end_s=k * step + self.window_s) for k in range(num)]
        return list(dict.fromkeys(found))


@dataclass(kw_only=True, slots=True)
class ConditionUseConfig:
    """A model whose inputs are taken away, shuffled and swapped, to see what changes, how much, and where."""

    start: list[str] = field(default_factory=list)  # driving: scenes, folders of them, pictures, VIDEO@SECONDS
    prompts: list[str] = field(default_factory=list)  # of a text-to-video model; both empty = no such test
    model: str | None = None  # shipped model or model folder; None = toytown, or toytown_text for prompts
    seeds: list[int] = field(default_factory=lambda: [0, 1])  # outputs of each input; at least 2
    steps: int | None = None  # sampling steps; None = the model's own
    is_night: bool | None = None  # of starts that are pictures or videos; None = unknown
    device: str = "cpu"  # torch device

    @property
    def is_asked_for(self) -> bool:
        """Whether anything is to be tested."""
        return bool(self.start or self.prompts)

    def validate(self) -> None:
        """Raises ValueError for what makes no test."""
        if self.start and self.prompts:
            raise ValueError("condition_use.start is for driving models, condition_use.prompts for text; give one")
        if self.prompts and self.is_night is not None:
            raise ValueError("condition_use.is_night is of pictures and videos; a prompt says it in words")
        if len(set(self.seeds)) < max(MIN_SEEDS, len(self.seeds)):
            raise ValueError(f"condition_use.seeds is {self.seeds}; give at least {MIN_SEEDS} different ones")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("condition_use.prompts: each once")
        if self.prompts and len(self.prompts) < MIN_ITEMS:
            raise ValueError(f"condition_use.prompts: {len(self.prompts)}; it takes at least {MIN_ITEMS}")


class Measure(str, Enum):
    """What is done with an arm's model on drives that it was not trained on."""

    ROLLOUT = "rollout"  # start frames are continued
    RECONSTRUCTION = "reconstruction"  # clips are encoded and decoded
    UPSAMPLING = "upsampling"  # clips are made small and upsampled


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """A training of `drivesim train`, once for each seed."""

    name: str  # folders are called after it
    overrides: list[str]  # as on the command line; seed, init and out are set for it
    warm_start: bool = False  # begins with the weights that `claims.model` has of the parts that it trains


@dataclass(kw_only=True, slots=True)
class ArmConfig:
    """One side of a claim."""

    name: str  # in the table
    training: str  # name of the training whose model it is
    guidance: float | None = None  # of rollouts; None = the model's own
    parts_off: list[str] = field(default_factory=list)  # parts of the model that are left out, such as video_decoder


@dataclass(kw_only=True, slots=True)
class ClaimConfig:
    """What the paper found, and how it is measured here."""

    name: str  # short
    says: str  # one sentence
    measure: Measure
    arms: list[ArmConfig]  # two; the paper found the first one nearer to real video


@dataclass(kw_only=True, slots=True)
class ClaimsConfig:
    """Claims, the trainings that they need, and how much is measured."""

    claims: list[ClaimConfig] = field(default_factory=list)  # in the order of the table
    trainings: list[TrainingConfig] = field(default_factory=list)  # by name
    only: list[str] = field(default_factory=list)  # names of the claims that are run; empty = all
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # each: fresh weights, order of data, noise
    model: str = "toytown"  # whose parts all arms begin with
    train: list[str] = field(default_factory=list)  # overrides for all trainings, such as trainer.max_steps=10
    num_clips: int = 32  # held-out clips or start frames that a unit is measured on
    results: str = "evaluation/paper-claims"  # folder of results and table

    def __post_init__(self) -> None:
        """Refuses claims that name what is not there."""
        trainings = {training.name for training in self.trainings}
        for claim in self.claims:
            if len(claim.arms) != 2:
                raise ValueError(f"claim {claim.name}: {len(claim.arms)} arms; a claim sets two against each other")
            unknown = sorted({arm.training for arm in claim.arms} - trainings)
            if unknown:
                raise ValueError(f"claim {claim.name}: no training {', '.join(unknown)}; there are {sorted(trainings)}")
        unknown = sorted(set(self.only) - {claim.name for claim in self.claims})
        if unknown:
            valid = ", ".join(claim.name for claim in self.claims)
            raise ValueError(f"claims.only: unknown {', '.join(unknown)}; valid: {valid}")
        if not self.seeds or self.num_clips < 2:
            raise ValueError(f"claims.seeds={self.seeds}, claims.num_clips={self.num_clips}; give a seed and 2 clips")
