"""A value of one set, how it moves when drives are left out in turn, and the intervals that follow.

The delete-m_j jackknife (Busing, Meijer and van der Leeden 1999): the estimate extrapolates to infinitely many vectors,
the width follows from how the value moves.

Legend: K drives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.wording import number_of
from drivesim.evaluate.uncertainty import Interval, interval_of

Array = NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class Jackknife:
    """A value and what it is without each drive."""

    value: float  # of all vectors
    num_vectors: int
    drives_K: NDArray[np.str_]  # their names, each once
    without_K: Array  # the value without each; not finite = there is none
    shares_K: Array  # of the vectors that each drive has

    def why_no_interval(self, min_drives: int) -> str | None:
        """What it would take; None = there can be an interval."""
        if len(self.drives_K) < min_drives:
            return f"{number_of(len(self.drives_K), 'drive')}: an interval asks for {min_drives}"
        if not (finite_K := np.isfinite(self.without_K)).all():
            return f"there is no score without {self.drives_K[~finite_K][0]}: an interval asks for more drives"
        return None

    @property
    def estimate(self) -> float:
        """At infinitely many vectors."""
        return len(self.drives_K) * self.value - float(((1 - self.shares_K) * self.without_K).sum())

    def influence(self) -> Array:
        """(K,) what each drive adds to the value's deviation, mean 0."""
        influence_K = (1 - self.shares_K) * (self.value - self.without_K)
        return np.asarray(influence_K - influence_K.mean())

    def interval(self, level: float) -> Interval:
        """Student's interval of the value."""
        return interval_of(self.estimate, self.influence()[None], [len(self.drives_K)], level)


def jackknife_difference(first: Jackknife, second: Jackknife, level: float) -> Interval:
    """The interval of first - second. Paired: drives of one name, such as futures of the same start, go together."""
    names = np.unique(np.concatenate([first.drives_K, second.drives_K]))
    influence_SK = np.zeros((2, len(names)))
    for row, (sign, side) in enumerate(((1.0, first), (-1.0, second))):
        influence_SK[row, np.searchsorted(names, side.drives_K)] = sign * side.influence()
    counts = [len(side.drives_K) for side in (first, second)]
    return interval_of(first.estimate - second.estimate, influence_SK, counts, level)
