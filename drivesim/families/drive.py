"""What a person may say of a drive, which a driving model's frames then follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.motion import MotionSegment, motion_at


@dataclass(kw_only=True, slots=True, frozen=True)
class DriveFacts:
    """Of one video, from its start frame on."""

    is_night: bool | None = None  # None = unknown
    motion: tuple[MotionSegment, ...] = ()  # how the ego car drives; () = the model chooses

    def __post_init__(self) -> None:
        """Refuses what is no segment, such as a name, of which the command line alone knows what it stands for."""
        if not all(isinstance(segment, MotionSegment) for segment in self.motion):
            raise ValueError(
                f"motion: {self.motion}; segments are wanted, such as MotionSegment(seconds=2, speed_mps=8)"
            )

    def over(self, before: DriveFacts | None) -> DriveFacts:
        """What is said here, and of what is not what was said before."""
        before = before or DriveFacts()
        is_night = before.is_night if self.is_night is None else self.is_night
        return DriveFacts(is_night=is_night, motion=self.motion or before.motion)

    def facts(self) -> dict[str, Any]:
        """Plain keys and values; motion only where it is given."""
        said: dict[str, Any] = {"is_night": self.is_night}
        return said | ({"motion": [asdict(segment) for segment in self.motion]} if self.motion else {})


Said: TypeAlias = DriveFacts | None  # what is said of a video; None = nothing


def labels_of(said: Sequence[Said], size_hw: tuple[int, int]) -> DrivingConditions:
    """What image layers are told of videos with frames of `size_hw`: day or night, where it is known."""
    unknown: list[None] = [None] * len(said)
    return DrivingConditions.of_pictures(
        unknown, size_hw, [None if drive is None else drive.is_night for drive in said], unknown
    )


def motion_of(said: Sequence[Said], starts_s: Sequence[float] | None, num_frames: int, fps: float) -> Tensor | None:
    """What temporal layers are told of clips, (B, T, 2) on the CPU (`core.motion`); None = nothing of any.

    Args:
        said: of each clip's video.
        starts_s: when in its video the first frame of each clip is shown; None = at the beginning.
        num_frames: of a clip.
        fps: of its frames.
    """
    if not any(drive is not None and drive.motion for drive in said):
        return None
    frames_s = np.arange(num_frames) / fps
    told = [
        motion_at(() if drive is None else drive.motion, start_s + frames_s, 1 / fps)
        for drive, start_s in zip(said, starts_s or [0.0] * len(said), strict=True)
    ]
    return None if np.isnan(told).all() else torch.from_numpy(np.stack(told))
