"""Seams at chunk borders: the change across a join against the changes beside it, inside the chunks.

Legend: T frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from drivesim.evaluate.curves import Curve

_NEAR_FRAMES = 3  # steps on either side of a border that it is compared with
_FLOOR = 0.25  # grey levels added to every change: where nothing moves, 0 over 0 is no seam


@dataclass(kw_only=True, slots=True)
class Seams:
    """How many times as much changes across a border as inside the chunks; 1 = no seam."""

    num_borders: int
    ratio: float  # geometric mean over borders
    low: float  # of the interval for the ratio
    high: float
    confidence: float


class SeamMeter:
    """Collects borders of any number of videos; keeps one number a border."""

    def __init__(self) -> None:
        self._log_ratios: list[float] = []

    def update(self, change: Curve, fps: float, border_times_s: Sequence[float]) -> None:
        """Adds one video.

        Args:
            change: (T,) change from the frame before, such as `VideoCurves.motion`; not negative.
            fps: Frames a second.
            border_times_s: When the first frame of each chunk but the first is shown; those outside the video are
                left out.
        """
        borders = {frame for time_s in border_times_s if 0 < (frame := round(time_s * fps)) < len(change)}
        for border in sorted(borders):
            steps = range(max(1, border - _NEAR_FRAMES), min(len(change), border + _NEAR_FRAMES + 1))
            inside = [change[step] for step in steps if step not in borders]
            if inside:
                self._log_ratios.append(math.log((change[border] + _FLOOR) / (float(np.mean(inside)) + _FLOOR)))

    def compute(self, confidence: float = 0.95) -> Seams | None:
        """The mean ratio with its interval by the normal approximation; None = fewer than two borders."""
        if len(self._log_ratios) < 2:
            return None
        logs = np.array(self._log_ratios)
        mean = float(logs.mean())
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        return Seams(
            num_borders=len(logs),
            ratio=math.exp(mean),
            low=math.exp(mean - reach),
            high=math.exp(mean + reach),
            confidence=confidence,
        )
