"""What the folder of a rollout says of its videos: given frames, which start they share, how they were to drive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drivesim.core.files import read_json, read_rows
from drivesim.core.motion import MotionSegment
from drivesim.core.run_folder import IDENTITY_FILE, ROWS_FILE

_START = "start_sha256"  # of a rollout's start frame; null = prompts alone


def given_frames(generated: str) -> int | None:
    """Given frames at the front of each video of rollouts: 1 with a start frame, 0 without.

    Args:
        generated: the folder of a rollout, of several (`-m`), or one video of a rollout.

    Returns:
        None = not known: no folder of a rollout, or some have a start frame and some have none.
    """
    place = Path(generated)
    folder = place.parent if place.is_file() else place
    records = [read_json(path) for path in (folder / IDENTITY_FILE, *sorted(folder.glob(f"*/{IDENTITY_FILE}")))
               if path.is_file()]  # fmt: skip
    counts = {0 if record[_START] is None else 1 for record in records if _START in record}
    return counts.pop() if len(counts) == 1 else None


def start_of(path: Path | None) -> str | None:
    """The start frame that a video of a rollout shares with all futures of it, by name and bytes; None = not known."""
    record = _record(path)
    sha256 = record.get(_START)
    return f"start {record.get('start')} {sha256[:12]}" if isinstance(sha256, str) else None


def asked_motion(path: Path | None) -> list[MotionSegment]:
    """How a video of a rollout was to drive; [] = nobody said."""
    said = _record(path)
    if path is not None and said.get("in_turn"):
        futures = [row["future"] for row in read_rows(path.parent / ROWS_FILE) if row.get("video") == path.name]
        said = said["in_turn"][futures[-1] % len(said["in_turn"])] if futures else {}
    return [MotionSegment(**segment) for segment in said.get("motion", [])]


def _record(path: Path | None) -> dict[str, Any]:
    """What the folder of a video says of its run; {} = it is no run's."""
    place = None if path is None else path.parent / IDENTITY_FILE
    record = read_json(place) if place is not None and place.is_file() else None
    return record if isinstance(record, dict) else {}
