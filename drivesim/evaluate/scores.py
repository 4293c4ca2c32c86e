"""The result of an evaluation: every score with its controls, counts and card."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from drivesim.evaluate.diversity import Diversity
from drivesim.evaluate.drift import Drift
from drivesim.evaluate.futures import Futures
from drivesim.evaluate.protocol import ProtocolCard


class ScoreRow(str, Enum):
    """What stands against the real clips in a row of the table."""

    GENERATED = "generated"
    FROZEN = "frozen start frame"
    SHUFFLED = "shuffled real clips"
    FLOOR = "real against real"


@dataclass(kw_only=True, slots=True)
class Score:
    """One distance."""

    extractor: str
    metric: str  # what it may be called
    row: ScoreRow
    value: float  # lower is nearer to the real clips
    num_left: int  # feature vectors of the row's own side
    num_right: int  # feature vectors of the other side


@dataclass(kw_only=True, slots=True)
class Scores:
    """All that an evaluation found."""

    card: ProtocolCard
    card_sha256: str  # scores with the same one may be compared
    scores: list[Score]
    diversity: list[Diversity]  # one a start frame with several futures
    warnings: list[str]
    report: Path | None = None  # the HTML file
    futures: list[Futures] = field(default_factory=list)  # what futures of one start do, one a start frame
    drift: Drift | None = None  # curves over time; None = not measured

    def value(self, extractor: str, row: ScoreRow = ScoreRow.GENERATED) -> float:
        """One distance.

        Raises:
            ValueError: there is none of that extractor and row; names those there are.
        """
        for score in self.scores:
            if score.extractor == extractor and score.row is row:
                return score.value
        there = ", ".join(f"{score.extractor}: {score.row.value}" for score in self.scores)
        raise ValueError(f"no score of {extractor} for {row.value!r}; there are {there}")
