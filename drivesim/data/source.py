"""What a source of real driving offers: drives in splits, clips at a wanted rate and size, and its problems."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from drivesim.core.clip import Clip
from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions

SPLITS = ("train", "val", "test")
ALL = "all"  # of the splits


class ProblemKind(str, Enum):
    """What can be wrong with a data set; the value is what the report prints."""

    UNREADABLE = "unreadable file"
    TRUNCATED = "truncated file"
    MISSING_IMAGE = "missing image"
    MISSING_POSE = "missing pose"
    MISSING_VIDEO = "missing video"
    NO_CAPTION = "no caption"
    SAME_NAME = "name taken twice"
    TOO_SHORT = "too few frames"
    VARYING_RATE = "varying frame rate"
    WRONG_RATE = "wrong frame rate"
    GAP = "gap in time"
    BROKEN_BOX = "broken box"
    BOX_OUTSIDE = "box outside the picture"
    SAME_CLIP = "same clip in two splits"


@dataclass(kw_only=True, slots=True, frozen=True)
class Problem:
    """One thing that is wrong with one drive or file."""

    where: str  # drive or file name
    kind: ProblemKind
    detail: str  # numbers, times, the cause


@dataclass(kw_only=True, slots=True)
class Drive:
    """One recording without cuts. Splits are made of whole drives."""

    name: str  # unique in its source
    split: str  # one of SPLITS
    duration_s: float  # the last frame's own duration included
    fps: float  # native rate: one over the median time between frames
    num_frames: int  # native frames
    size_hw: tuple[int, int]  # native picture, pixels
    is_night: bool | None = None  # None = unknown


class ClipSource(Protocol):
    """Where clips come from. Times are seconds since the drive's first frame."""

    @property
    def name(self) -> str:
        """Short name of the data set."""

    @property
    def fingerprint(self) -> str:
        """Changes when what the source serves changes; keys the caches."""

    @property
    def has_boxes(self) -> bool:
        """Whether clips come with boxes."""

    @property
    def mixes_rates(self) -> bool:
        """Whether drives come from many recorders, so that one at another rate than the others is nothing wrong."""

    def drives(self, split: str) -> list[Drive]:
        """The drives of a split that can be read, by name."""

    def timestamps_s(self, drive: str) -> NDArray[np.float64]:
        """(num_frames,) times of a drive's native frames; the first is 0."""

    def read(self, drive: str, *, start_s: float, num_frames: int, fps: float, size_hw: tuple[int, int]) -> Clip:
        """A clip at a wanted rate: of each wanted time the nearest native frame, cropped to shape, then resized.

        Raises:
            ValueError: unknown drive, a rate above the native one, a time without a frame, or a
                damaged picture.
        """

    def problems(self) -> list[Problem]:
        """What is wrong with the drives, whether served or not."""


@runtime_checkable
class CaptionedSource(Protocol):
    """A source whose clips come with captions, too."""

    has_captions: bool

    def captions(self, drive: str, conditions: Conditions, fps: float) -> Captions:
        """What can be said of the clip that begins at each cached frame of a drive.

        Args:
            drive: its name.
            conditions: what is known of its frames.
            fps: of the frames.
        """


@runtime_checkable
class MovingSource(Protocol):
    """A source that knows where its ego cars drove."""

    def ego_path(self, drive: str, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T, 3) x_m, y_m, yaw_rad of a drive's ego car at some times, in its system at the first (x ahead, y left).

        Args:
            drive: its name.
            times_s: since the drive's first frame.
        """


def problems_line(source: ClipSource) -> str | None:
    """What a person who did not ask for the problems is told of them: how many, and the first; None where none is."""
    problems = source.problems()
    if not problems:
        return None
    first = f"{problems[0].where}: {problems[0].kind.value}: {problems[0].detail}"
    if len(problems) == 1:
        return f"1 problem in the data: {first}"
    return f"{len(problems)} problems in the data, the first: {first}; drivesim prepare lists them"


def drives_of(source: ClipSource, split: str) -> list[Drive]:
    """The drives of a split, or of `ALL`.

    Raises:
        ValueError: no such split, or there is no drive in it; names those that have some.
    """
    if split != ALL:
        check_split(split)
    by_split = {name: source.drives(name) for name in SPLITS}
    found = [drive for name, drives in by_split.items() if split in (name, ALL) for drive in drives]
    if not found:
        others = ", ".join(f"{name} has {len(drives)}" for name, drives in by_split.items() if drives)
        raise ValueError(f"{source.name}: no drive in split {split}; {others or 'nor in any other'}")
    return found


def check_split(split: str) -> str:
    """The split, if it is one.

    Raises:
        ValueError: it is not; names the valid ones.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return split
