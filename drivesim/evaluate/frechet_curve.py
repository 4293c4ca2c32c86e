"""The Fréchet distance over a rollout's time: sums a time bin, joined in sliding windows.

Legend: N clips, D features, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance


@dataclass(kw_only=True, slots=True)
class FrechetCurve:
    """One distance a window; windows with fewer than two clips on a side have none (nan)."""

    times_s: NDArray[np.float64]  # (W,) middle of each window
    distance: NDArray[np.float64]  # (W,)
    num_clips: list[int]  # (W,) of the window's own side
    num_reference: int  # clips that every window is held against


class BinnedStatistics:
    """Sums of clip features by the time at which a clip begins; memory grows with the bins, not with the clips."""

    def __init__(self, feature_dim: int, bin_s: float) -> None:
        """Bins of `bin_s` seconds from 0 on.

        Raises:
            ValueError: bins of no length.
        """
        if not bin_s > 0:
            raise ValueError(f"time bins of {bin_s} s; they must be longer than 0")
        self.feature_dim, self.bin_s = feature_dim, bin_s
        self._bins: list[FrechetStatistics] = []

    def update(self, times_s: NDArray[np.float64], features_ND: NDArray[np.float32]) -> None:
        """Adds clips: when each begins (N,), and its features (N, D).

        Raises:
            ValueError: times and features of different numbers, a negative time, or features of another size.
        """
        if len(times_s) != len(features_ND) or (np.asarray(times_s) < 0).any():
            raise ValueError(f"{len(times_s)} times for {len(features_ND)} clips; one from 0 s on is needed for each")
        # A time that is a bin's border but for rounding belongs to the bin that begins there.
        positions = np.floor(np.asarray(times_s) / self.bin_s + 1e-6).astype(int)
        for position in np.unique(positions):
            while len(self._bins) <= position:
                self._bins.append(FrechetStatistics.empty(self.feature_dim))
            self._bins[position].update(features_ND[positions == position])

    def merge(self, other: BinnedStatistics) -> None:
        """Adds the clips that `other` has seen."""
        if other.bin_s != self.bin_s:
            raise ValueError(f"bins of {other.bin_s} s cannot join bins of {self.bin_s} s")
        while len(self._bins) < len(other._bins):
            self._bins.append(FrechetStatistics.empty(self.feature_dim))
        for own, added in zip(self._bins, other._bins, strict=False):
            own.merge(added)

    def windows(self, num_bins: int) -> list[FrechetStatistics]:
        """The statistics of every `num_bins` neighbouring bins; of all bins where there are fewer."""
        count = max(1, len(self._bins) - num_bins + 1)
        return [self._joined(self._bins[start : start + num_bins]) for start in range(count)]

    def total(self) -> FrechetStatistics:
        """The statistics of all clips, whatever their time."""
        return self._joined(self._bins)

    def _joined(self, bins: list[FrechetStatistics]) -> FrechetStatistics:
        joined = FrechetStatistics.empty(self.feature_dim)
        for statistics in bins:
            joined.merge(statistics)
        return joined


def joined(sets: Sequence[BinnedStatistics]) -> BinnedStatistics:
    """The statistics of several sets of clips together; at least one."""
    total = BinnedStatistics(sets[0].feature_dim, sets[0].bin_s)
    for statistics in sets:
        total.merge(statistics)
    return total


def leaves_floor_s(curve: FrechetCurve, floor: FrechetCurve) -> float | None:
    """The middle of the first window that is farther than real video ever is from itself; None = there is none."""
    outside = np.flatnonzero(curve.distance > np.nanmax(floor.distance, initial=0.0))
    return float(curve.times_s[outside[0]]) if len(outside) else None


def frechet_curve(
    scored: BinnedStatistics,
    reference: BinnedStatistics,
    num_bins: int,
    covariance: Covariance = Covariance.UNBIASED,
) -> FrechetCurve:
    """Each window of the scored clips against all reference clips.

    A distance is biased upwards by few clips: compare windows with real video's own curve of about as
    many clips, and with each other.

    Args:
        scored: What is followed over time.
        reference: Real clips; all of them stand against every window, so that time alone makes a difference.
        num_bins: Length of the sliding window in bins.
        covariance: 1 / (N - 1) or 1 / N.
    """
    against = reference.total()
    windows = scored.windows(num_bins)
    distances = [
        frechet_distance(window, against, covariance) if window.count >= 2 and against.count >= 2 else float("nan")
        for window in windows
    ]
    return FrechetCurve(
        times_s=(np.arange(len(windows)) + num_bins / 2) * scored.bin_s,
        distance=np.array(distances, dtype=np.float64),
        num_clips=[window.count for window in windows],
        num_reference=against.count,
    )
