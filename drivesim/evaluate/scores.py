"""The result of an evaluation: every score with its controls, interval, counts and card."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from drivesim.evaluate.copies import RealNeighbours
from drivesim.evaluate.diversity import Diversity
from drivesim.evaluate.drift import Drift
from drivesim.evaluate.futures import Futures
from drivesim.evaluate.metric_kinds import MetricKind
from drivesim.evaluate.protocol import ProtocolCard
from drivesim.evaluate.published import PublishedResult
from drivesim.evaluate.uncertainty import Interval


class ScoreRow(str, Enum):
    """What stands against the real clips in a row of the table."""

    GENERATED = "generated"
    GENERATED_SHUFFLED = "generated, frames shuffled"
    FROZEN = "frozen start frame"
    SHUFFLED = "shuffled real clips"
    NOISY = "noisy real clips"
    FLOOR = "real against real"
    REAL = "real clips"  # by themselves: what a score without a real side says of real video
    OTHER_PROMPTS = "generated, another's prompt"


@dataclass(kw_only=True, slots=True)
class Score:
    """One number: a distance of two sets, or what a network says of one."""

    extractor: str
    metric: str  # what it may be called
    row: ScoreRow
    value: float  # of these sets, as others compute it
    num_left: int  # feature vectors of the row's own side; clips of a text similarity
    num_right: int  # feature vectors of the other side; 0 = the score has one side alone
    interval: Interval | None = None  # at infinitely many vectors, over drives; None = too few of either
    higher_is_better: bool = False  # distances: lower is nearer to the real clips
    spread: float | None = None  # standard deviation over the splits of an Inception Score
    kind: MetricKind = MetricKind.FRECHET

    @property
    def middle(self) -> str:
        """The interval's estimate in words: a distance is never below 0, though its extrapolation may land there."""
        assert self.interval is not None
        estimate = self.interval.estimate
        if self.kind is MetricKind.FRECHET and estimate < 0:
            return f"0 (extrapolated to {estimate:.2g}: nothing is seen above 0)"
        return f"{estimate:.4g}"


@dataclass(kw_only=True, slots=True)
class ContentBias:
    """How much a metric minds when the generated frames are put in another order; it ought to mind."""

    extractor: str
    metric: str
    rise: float  # score of the shuffled clips minus that of the clips
    share: float | None  # rise over the score of the clips; None = that is 0
    interval: Interval | None = None  # of the rise, at infinitely many vectors; None as in `Score`

    @property
    def in_percent(self) -> str:
        """The share, to stand behind the rise; "" = there is none."""
        return "" if self.share is None else f" ({self.share:+.0%})"

    @property
    def is_seen(self) -> bool:
        """Whether the metric sees the order of frames: the rise, or all of its interval, is above 0."""
        return (self.rise if self.interval is None else self.interval.low) > 0


@dataclass(kw_only=True, slots=True)
class StoredSet:
    """Where the features of one side under one extractor lie."""

    set: str  # "generated" or "real"
    extractor: str
    variant: str
    recipe: str  # folder in the store
    by_name: bool  # files are named after digest and name; else after the digest


@dataclass(kw_only=True, slots=True)
class StoredFeatures:
    """What it takes to find the features of an evaluation again, beside its rows."""

    folder: str  # relative to `scores.json` where it lies below it
    sets: list[StoredSet]


@dataclass(kw_only=True, slots=True)
class Scores:
    """All that an evaluation found."""

    card: ProtocolCard
    card_sha256: str  # scores with the same one may be compared
    scores: list[Score]
    content_bias: list[ContentBias]  # one a clip metric
    published: list[PublishedResult]  # others' results under the same card
    diversity: list[Diversity]  # one a start frame with several futures
    warnings: list[str]
    features: StoredFeatures
    report: Path | None = None  # the HTML file
    futures: list[Futures] = field(default_factory=list)  # what futures of one start do, one a start frame
    neighbours: list[RealNeighbours] = field(default_factory=list)  # of each generated video among real ones
    drift: Drift | None = None  # curves over time; None = not measured

    def value(self, extractor: str, row: ScoreRow = ScoreRow.GENERATED, metric: str | None = None) -> float:
        """One score.

        Args:
            extractor: Its name.
            row: Which row.
            metric: The score's name, where the extractor has several; None = the first one.

        Raises:
            ValueError: there is none of that extractor, row and name; names those there are.
        """
        for score in self.scores:
            if score.extractor == extractor and score.row is row and metric in (None, score.metric):
                return score.value
        there = ", ".join(f"{score.extractor}: {score.row.value} ({score.metric})" for score in self.scores)
        raise ValueError(f"no score {metric or ''} of {extractor} for {row.value!r}; there are {there}")
