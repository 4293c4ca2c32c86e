"""What is known of a future: how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from drivesim.core.files import append_row, read_rows


@dataclass(kw_only=True, slots=True)
class Progress:
    """A future has added a chunk."""

    future: int
    num_frames: int  # made so far, those of an earlier, stopped run included
    total_frames: int


OUT_OF_MEMORY = "out of memory: "  # how the cause of such a failure begins


@dataclass(kw_only=True, slots=True)
class Row:
    """How a future ended; one line of rows.jsonl."""

    ok: bool
    future: int
    start: str  # name of the start frame
    seed: int  # of the run; with start and future it fixes every frame
    frames: int  # in the video, or made before the failure
    seconds: float  # wall time of the run that ended it
    video: str | None = None  # file name in the run folder; None = failed
    sha256: str | None = None  # of that file
    error: str | None = None  # the cause, one line
    traceback: str | None = None  # where it happened


Events = Generator[Progress | Row, None, None]  # what a pool reports, in the order it happens


def write_row(path: Path, row: Row) -> None:
    """Adds a row to rows.jsonl."""
    append_row(path, asdict(row))


def last_rows(path: Path) -> dict[int, Row]:
    """Each future's last row, by future; a resumed run adds rows and deletes none."""
    names = {field.name for field in fields(Row)}
    return {row["future"]: Row(**row) for row in read_rows(path) if _is_row(row, names)}


def _is_row(row: dict[str, Any], names: Iterable[str]) -> bool:
    return set(row) == set(names)
