"""Numbers over pictures of many scenes whose intervals come from drawing scenes with replacement.

Legend: S scenes, R resamples, N found objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drivesim.core.seeds import numpy_generator

Array = NDArray[np.float64]


class SceneMeasure(Protocol):
    """A number that follows from how often each scene is counted."""

    def value(self, weights_S: Array) -> float:
        """The number; nan where nothing is left to measure."""


@dataclass(kw_only=True, slots=True)
class Ratio:
    """Sum over scenes of one number over the sum of another: a share, or a mean."""

    above_S: Array
    below_S: Array

    def value(self, weights_S: Array) -> float:
        """See `SceneMeasure`."""
        below = float(weights_S @ self.below_S)
        return float(weights_S @ self.above_S) / below if below > 0 else float("nan")


@dataclass(kw_only=True, slots=True)
class AveragePrecision:
    """Area below precision over recall of one class, all points of it (Everingham et al. 2015, VOC 2010 and later)."""

    scene_N: NDArray[np.int64]  # of each found object, strongest first
    is_right_N: NDArray[np.bool_]
    num_wanted_S: Array

    def value(self, weights_S: Array) -> float:
        """See `SceneMeasure`."""
        num_wanted = float(weights_S @ self.num_wanted_S)
        if num_wanted <= 0:
            return float("nan")
        weights_N = weights_S[self.scene_N]
        right, found = np.cumsum(weights_N * self.is_right_N), np.cumsum(weights_N)
        precision = np.divide(right, found, out=np.zeros_like(right), where=found > 0)
        # The best precision at this recall or a higher one.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(right, prepend=0.0) * best).sum() / num_wanted)


@dataclass(kw_only=True, slots=True)
class MeanOf:
    """The mean of several measures, those that are nan left out."""

    parts: Sequence[SceneMeasure]

    def value(self, weights_S: Array) -> float:
        """See `SceneMeasure`."""
        values = np.array([part.value(weights_S) for part in self.parts])
        return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else float("nan")


@dataclass(kw_only=True, slots=True)
class Estimate:
    """A number with the interval that scenes drawn with replacement give it."""

    value: float
    low: float  # nan = too few scenes
    high: float


def estimate(measure: SceneMeasure, num_scenes: int, *, level: float, resamples: int, seed: int) -> Estimate:
    """The number and its percentile bootstrap interval by scene (Efron 1979); no interval below 3 scenes.

    Every measure is given the same resamples, so that their intervals belong together.
    """
    value = measure.value(np.ones(num_scenes))
    low = high = float("nan")
    if num_scenes >= 3:
        drawn_RS = scene_counts(num_scenes, resamples, seed)
        values = np.array([measure.value(weights_S) for weights_S in drawn_RS])
        if (~np.isnan(values)).any():
            tail = (1 - level) / 2
            low, high = (float(end) for end in np.nanquantile(values, [tail, 1 - tail]))
    return Estimate(value=value, low=low, high=high)


def scene_counts(num_scenes: int, resamples: int, seed: int) -> Array:
    """(R, S) how often each scene was drawn."""
    rng = numpy_generator("scenes with replacement", seed)
    return rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size=resamples).astype(np.float64)
