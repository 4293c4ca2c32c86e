"""One line of a sweep's result: settings, part of the time, and a score with its interval."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from drivesim.core.files import append_row, atomic_path, read_rows
from drivesim.evaluate.metric_kinds import LOWEST
from drivesim.evaluate.scores import Score


@dataclass(kw_only=True, slots=True)
class SweepRow:
    """A score of one cell over one part of the time."""

    model: str  # its label
    steps: int | None  # None = the model's own
    guidance: float | None  # None = the model's own
    seed: int
    begin_s: float
    end_s: float
    metric: str  # what the score is called
    row: str  # what was scored, a value of `ScoreRow`: the generated clips, or a control
    value: float
    num_left: int  # vectors of the row's own side
    num_right: int  # vectors of the other side
    low: float | None = None  # ends of the interval over drives; None = too few
    high: float | None = None
    lowest: float | None = None  # no such value can be below; None = there is no such end


def rows_of_scores(settings: dict[str, Any], scores: Iterable[Score]) -> list[SweepRow]:
    """Rows of the same settings, one a score."""
    return [
        SweepRow(
            **settings,
            metric=score.metric,
            row=score.row.value,
            value=score.value,
            num_left=score.num_left,
            num_right=score.num_right,
            low=None if score.interval is None else score.interval.low,
            high=None if score.interval is None else score.interval.high,
            lowest=LOWEST.get(score.kind),
        )
        for score in scores
    ]


@dataclass(kw_only=True, slots=True)
class FinishedCell:
    """What a cell has scored, and what there is to know of it."""

    rows: list[SweepRow]
    notes: list[str]


class CellLog:
    """The finished cells, one JSON line each; a cell whose inputs have changed since counts as not finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = {row["cell"]: row for row in read_rows(path) if {"cell", "identity", "rows", "notes"} <= set(row)}

    def find(self, cell: str, identity: str) -> FinishedCell | None:
        """A finished cell; None = it has to be scored."""
        held = self._held.get(cell)
        names = {field.name for field in fields(SweepRow)}
        if held is None or held["identity"] != identity or any(set(row) != names for row in held["rows"]):
            return None
        return FinishedCell(rows=[SweepRow(**row) for row in held["rows"]], notes=list(held["notes"]))

    def add(self, cell: str, identity: str, finished: FinishedCell) -> None:
        """Notes that a cell is finished."""
        held = {"cell": cell, "identity": identity, **asdict(finished)}
        append_row(self.path, held)
        self._held[cell] = held


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Writes dataclasses as JSON lines, whole or not at all."""
    with atomic_path(path) as temporary:
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
        temporary.write_text("".join(lines), encoding="utf-8")
