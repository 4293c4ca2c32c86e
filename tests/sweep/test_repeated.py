"""Means over seeds and their intervals, against scipy's Student distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from drivesim.sweep.repeated import over_seeds


@pytest.mark.parametrize("num_seeds", [2, 3, 4, 7])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_students(num_seeds: int, level: float) -> None:
    values = np.random.default_rng(num_seeds).normal(5.0, 2.0, num_seeds)
    found = over_seeds(values.tolist(), level)
    low, high = stats.t.interval(level, num_seeds - 1, loc=values.mean(), scale=stats.sem(values))
    # Exact for two and three seeds; beyond, the expansion is good to 1 % of the half-width.
    tolerance = 1e-9 if num_seeds <= 3 else 0.01 * (high - low)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=tolerance)


def test_one_seed_has_no_interval_and_none_is_refused() -> None:
    found = over_seeds([3.5])
    assert (found.mean, found.low, found.high, found.num_seeds) == (3.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([])
