"""Repeated measurements: the mean over seeds with its interval, and the difference of two sets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drivesim.evaluate.uncertainty import student_quantile


@dataclass(kw_only=True, slots=True, frozen=True)
class Repeated:
    """What several seeds say of one number."""

    mean: float
    low: float | None  # ends of the interval of the mean; None = one seed says nothing of others
    high: float | None
    num_seeds: int


def over_seeds(values: Sequence[float], level: float = 0.95) -> Repeated:
    """Mean and Student's interval of independent measurements.

    Args:
        values: One a seed.
        level: Share of intervals that hold the truth, for normal errors.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average; at least one seed is needed")
    num = len(values)
    mean = math.fsum(values) / num
    if num == 1:
        return Repeated(mean=mean, low=None, high=None, num_seeds=1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (num - 1)
    half = _quantile((1 + level) / 2, num - 1) * math.sqrt(variance / num)
    return Repeated(mean=mean, low=mean - half, high=mean + half, num_seeds=num)


def _quantile(probability: float, freedom: int) -> float:
    """Student's quantile: in closed form for two and three seeds, where the expansion is off by 1 % and more."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        share = 2 * probability - 1
        return share * math.sqrt(2 / (1 - share**2))
    return student_quantile(probability, freedom)
