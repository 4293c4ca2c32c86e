"""A whole drive in pieces that fit in memory, going on past gaps and damaged frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.clip import Clip
from drivesim.data.sampling import frame_times
from drivesim.data.source import ClipSource

_FRAMES_AT_ONCE = 32


@dataclass(kw_only=True, slots=True)
class Piece:
    """Consecutive frames of a drive, or one frame that cannot be read."""

    first: int  # number of its first frame; frame k is at k / fps
    clip: Clip | None  # None = cannot be read
    error: str = ""  # why


def num_frames_at(source: ClipSource, drive: str, fps: float) -> int:
    """Times k / fps within a drive, those in gaps included."""
    return len(frame_times(source.timestamps_s(drive), fps)[0])


def read_drive(source: ClipSource, drive: str, fps: float, size_hw: tuple[int, int]) -> Iterator[Piece]:
    """All frames of a drive at `fps`, in order; times inside a gap are left out."""
    _, is_there = frame_times(source.timestamps_s(drive), fps)
    for first, last in _runs(is_there):
        yield from _read_run(source, drive, first, last, fps=fps, size_hw=size_hw)


def _runs(is_there: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Spans [first, last) of frames without a gap, at most _FRAMES_AT_ONCE long."""
    runs: list[tuple[int, int]] = []
    for frame in np.flatnonzero(is_there):
        if runs and runs[-1][1] == frame and frame - runs[-1][0] < _FRAMES_AT_ONCE:
            runs[-1] = (runs[-1][0], int(frame) + 1)
        else:
            runs.append((int(frame), int(frame) + 1))
    return runs


def _read_run(
    source: ClipSource, drive: str, first: int, last: int, *, fps: float, size_hw: tuple[int, int]
) -> Iterator[Piece]:
    """A run of frames; where it fails, its halves, down to the frame that is damaged."""
    try:
        clip = source.read(drive, start_s=first / fps, num_frames=last - first, fps=fps, size_hw=size_hw)
    except (ValueError, OSError) as error:
        if last - first == 1:
            yield Piece(first=first, clip=None, error=str(error))
            return
        halfway = (first + last) // 2
        yield from _read_run(source, drive, first, halfway, fps=fps, size_hw=size_hw)
        yield from _read_run(source, drive, halfway, last, fps=fps, size_hw=size_hw)
        return
    yield Piece(first=first, clip=clip)
