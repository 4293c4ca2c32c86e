"""Shares and samples: against scipy, closed forms, and known odds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from drivesim.evaluate.binomial import binomial_cdf, clopper_pearson, rank_that_covers, share_below_largest
from drivesim.evaluate.modes import mode_shares

MODES = ("left", "straight", "right")


@pytest.mark.parametrize(("count", "draws"), [(0, 5), (3, 10), (10, 10), (37, 400), (1999, 2000)])
def test_the_interval_is_scipys_exact_one(count: int, draws: int) -> None:
    expected = stats.binomtest(count, draws).proportion_ci(0.95, method="exact")
    assert clopper_pearson(count, draws, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)
    for share in (0.0, 0.03, 0.5, 1.0):
        assert binomial_cdf(count, draws, share) == pytest.approx(stats.binom.cdf(count, draws, share), abs=1e-9)


def test_samples_that_span_a_share_are_as_many_as_wilks_says() -> None:
    assert rank_that_covers(28, 0.9, 0.95) is None
    assert rank_that_covers(29, 0.9, 0.95) == 29  # 1 - 0.9^29 = 0.953
    assert rank_that_covers(46, 0.9, 0.95) == 45  # the textbook's sample for the second largest
    assert share_below_largest(29, 0.95) == pytest.approx(0.05 ** (1 / 29))


def test_known_odds_lie_in_the_intervals_of_most_samples() -> None:
    odds = {"left": 3.0, "straight": 4.0, "right": 3.0}
    rng = np.random.default_rng(0)
    held = [
        all(
            share.holds_odds
            for share in mode_shares(rng.choice(MODES, 48, p=[0.3, 0.4, 0.3]).tolist(), MODES, odds=odds)
        )
        for _ in range(100)
    ]
    assert np.mean(held) >= 0.93


def test_shares_far_from_the_odds_are_told_apart() -> None:
    labels = ["straight"] * 40 + ["left"] * 8
    shares = {share.mode: share for share in mode_shares(labels, MODES, odds={"left": 1, "straight": 1, "right": 1})}
    assert shares["right"].count == 0
    assert shares["right"].low == 0.0
    assert [shares[mode].holds_odds for mode in MODES] == [False, False, False]
    assert mode_shares(labels, MODES)[0].holds_odds is None


def test_what_has_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no modes: back"):
        mode_shares(["back"], MODES)
    with pytest.raises(ValueError, match="odds for left"):
        mode_shares(["left"], MODES, odds={"left": 1.0})
    with pytest.raises(ValueError, match="0 draws"):
        mode_shares([], MODES)
    with pytest.raises(ValueError, match="between 0 and 1"):
        clopper_pearson(1, 2, 95.0)
