"""How the ego car drives, as two numbers a frame: speed and yaw rate.

Axes: T frames, 2 = speed in m/s, yaw rate in rad/s (left positive). NaN = unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_FASTEST_MPS, _FASTEST_DEG_PER_S = 70.0, 180.0  # that a car on a road drives


@dataclass(kw_only=True, slots=True)
class MotionSegment:
    """Some seconds of even driving."""

    seconds: float  # how long
    speed_mps: float  # metres a second
    yaw_deg_per_s: float = 0.0  # degrees a second to the left; negative = to the right

    def __post_init__(self) -> None:
        """Refuses what nobody can drive."""
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"motion.segments: seconds={self.seconds}; must be a number above 0")
        if not (math.isfinite(self.speed_mps) and math.isfinite(self.yaw_deg_per_s)):
            raise ValueError(
                f"motion.segments: speed_mps={self.speed_mps}, yaw_deg_per_s={self.yaw_deg_per_s}; must be numbers"
            )
        if abs(self.speed_mps) > _FASTEST_MPS or abs(self.yaw_deg_per_s) > _FASTEST_DEG_PER_S:
            raise ValueError(
                f"motion.segments: speed_mps={self.speed_mps}, yaw_deg_per_s={self.yaw_deg_per_s}; "
                f"no car does more than {_FASTEST_MPS:g} m/s and {_FASTEST_DEG_PER_S:g} degrees a second"
            )


@dataclass(kw_only=True, slots=True)
class MotionConfig:
    """How the ego car is to drive, from the start frame on; when the segments are over, the model chooses."""

    segments: list[MotionSegment] = field(default_factory=list)  # one after the other; [] = the model chooses
    in_turn: list[str] = field(default_factory=list)  # names of motions that futures take in turn; [] = none

    def __post_init__(self) -> None:
        """Refuses two answers to one question."""
        if self.segments and self.in_turn:
            raise ValueError(
                f"motion.in_turn: {', '.join(self.in_turn)}, beside {len(self.segments)} segments for all futures; "
                "give one of both"
            )


def motion_at(segments: Sequence[MotionSegment], times_s: NDArray[np.float64], gap_s: float) -> NDArray[np.float32]:
    """(T, 2) motion that leads to frames at some times, NaN where nothing is said of the gap before a frame.

    To its first frame the car is taken to have come as it goes on.

    Args:
        segments: one after the other, from second 0 on.
        times_s: (T,) of the frames.
        gap_s: seconds between frames, over which speed and yaw rate are averaged.
    """
    ends_s = np.cumsum([0.0, *(segment.seconds for segment in segments)])
    rates_S2 = np.array([[s.speed_mps, math.radians(s.yaw_deg_per_s)] for s in segments]).reshape(-1, 2)
    driven = np.concatenate([np.zeros((1, 2)), np.cumsum(rates_S2 * np.diff(ends_s)[:, None], axis=0)])
    before_s = np.maximum(times_s - gap_s, 0.0)
    steps = [np.interp(before_s + gap_s, ends_s, of) - np.interp(before_s, ends_s, of) for of in driven.T]
    is_said = before_s + gap_s < ends_s[-1] + 1e-6
    return np.where(is_said[:, None], np.stack(steps, axis=1) / gap_s, np.nan).astype(np.float32)


def motion_along(path_T3: NDArray[np.float64], before_T3: NDArray[np.float64], gap_s: float) -> NDArray[np.float32]:
    """(T, 2) motion that leads to each frame.

    Args:
        path_T3: x_m, y_m, yaw_rad of the ego car at the frames.
        before_T3: the same, `gap_s` seconds before each; NaN where that is not known.
        gap_s: from one frame to the next.
    """
    step_T3 = path_T3 - before_T3
    # Forward is the way between the two headings: a car that turns does not slide.
    heading_T = before_T3[:, 2] + _turned(step_T3[:, 2]) / 2
    forward_T = step_T3[:, 0] * np.cos(heading_T) + step_T3[:, 1] * np.sin(heading_T)
    return np.stack([forward_T, _turned(step_T3[:, 2])], axis=1).astype(np.float32) / np.float32(gap_s)


def _turned(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in (-pi, pi]."""
    return -np.remainder(np.pi - angle, 2 * np.pi) + np.pi
