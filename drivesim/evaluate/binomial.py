"""Exact statements about shares from counts: intervals of a share, and how much of a population a sample spans."""

from __future__ import annotations

import math
from collections.abc import Callable


def binomial_cdf(count: int, num_draws: int, share: float) -> float:
    """Probability of at most `count` hits in `num_draws` draws of a share."""
    if count < 0:
        return 0.0
    if count >= num_draws or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    log_hit, log_miss, log_all = math.log(share), math.log1p(-share), math.lgamma(num_draws + 1)
    terms = (
        math.exp(
            log_all
            - math.lgamma(hits + 1)
            - math.lgamma(num_draws - hits + 1)
            + hits * log_hit
            + (num_draws - hits) * log_miss
        )
        for hits in range(count + 1)
    )
    return min(1.0, math.fsum(terms))


def clopper_pearson(count: int, num_draws: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934): holds it at least as often as `confidence` says.

    Raises:
        ValueError: no draws, more hits than draws, or a confidence outside (0, 1).
    """
    if not 0 <= count <= num_draws or num_draws < 1:
        raise ValueError(f"{count} hits in {num_draws} draws; an interval needs 1 draw and at most as many hits")
    _check_confidence(confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _share_where(lambda share: 1 - binomial_cdf(count - 1, num_draws, share) < tail)
    high = 1.0 if count == num_draws else _share_where(lambda share: binomial_cdf(count, num_draws, share) > tail)
    return low, high


def rank_that_covers(num_samples: int, share: float, confidence: float) -> int | None:
    """The smallest rank r for which the r-th smallest of the samples is above `share` of the population.

    By order statistics alone, whatever the distribution (Wilks 1941), with at least that confidence.
    None = not even the largest sample is: more samples are needed.
    """
    _check_confidence(confidence)
    ranks = range(1, num_samples + 1)
    return next((rank for rank in ranks if binomial_cdf(rank - 1, num_samples, share) >= confidence), None)


def share_below_largest(num_samples: int, confidence: float) -> float:
    """The share of the population that lies below the largest of the samples, with that confidence (Wilks 1941)."""
    _check_confidence(confidence)
    return float((1 - confidence) ** (1 / num_samples)) if num_samples else 0.0


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence}; it must be between 0 and 1")


def _share_where(holds_below: Callable[[float], bool]) -> float:
    """The share up to which a condition holds, by bisection to 1e-13."""
    low, high = 0.0, 1.0
    for _ in range(43):
        middle = (low + high) / 2
        low, high = (middle, high) if holds_below(middle) else (low, middle)
    return (low + high) / 2
