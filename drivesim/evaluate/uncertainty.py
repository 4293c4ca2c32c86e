"""Intervals of Fréchet distances and of their differences, over drives, at infinitely many vectors.

A distance of finite sets is too large by about a / N + b / M. The estimate takes that away by leaving out parts of the
drives of both sides in turn, which extrapolates linearly in 1 / N and 1 / M at once; the interval around it comes from
the influence of each drive, or from drives drawn with replacement. The plain percentiles of such draws would hold the
truth hardly ever: each draw is biased once more.

Legend: N vectors, K drives of all samples, G groups, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from drivesim.core.seeds import numpy_generator
from drivesim.core.wording import number_of
from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance, frechet_influence

Array = NDArray[np.float64]


class IntervalMethod(str, Enum):
    """Where the width of an interval comes from; both go by drives."""

    INFLUENCE = "influence"  # variance of the drives' influences, Student's t
    BOOTSTRAP = "bootstrap"  # drives drawn with replacement: spread around their own mean


@dataclass(kw_only=True, slots=True)
class UncertaintyConfig:
    """How sure a score is."""

    method: IntervalMethod = IntervalMethod.INFLUENCE  # of the width; the estimate is the same
    level: float = 0.95  # share of intervals that hold the truth
    num_groups: int = 20  # parts of the drives that are left out in turn
    resamples: int = 200  # of the bootstrap
    seed: int = 0  # of the bootstrap
    min_drives: int = 4  # of a side; fewer say nothing of other drives, and Student's quantile asks for 4
    max_features: int = 512  # a larger metric gets no interval: its eigenvalue problems take minutes
    rough_drives: int = 20  # fewer drives of a side make the extrapolation swing: worth a warning at the floor
    wanted_share: float = 0.1  # a half-width above this share of the score is worth a warning

    def __post_init__(self) -> None:
        """Refuses what makes no interval."""
        if not 0 < self.level < 1:
            raise ValueError(f"uncertainty.level is {self.level}; it must lie between 0 and 1")
        for name, least in (("num_groups", 2), ("resamples", 20), ("min_drives", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"uncertainty.{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.wanted_share > 0:
            raise ValueError(f"uncertainty.wanted_share is {self.wanted_share}; it must be above 0")


@dataclass(kw_only=True, slots=True, eq=False)
class Sample:
    """Vectors of one set with the drive of each; drives of one name are one drive, in whatever samples they occur."""

    vectors_ND: Array
    drives_N: NDArray[np.str_]
    num_drives: int = field(init=False)

    def __post_init__(self) -> None:
        """Checks shapes and counts drives."""
        if self.vectors_ND.ndim != 2 or self.drives_N.shape != self.vectors_ND.shape[:1]:
            raise ValueError(f"{self.drives_N.shape} drives for vectors of shape {self.vectors_ND.shape}")
        self.vectors_ND = np.asarray(self.vectors_ND, dtype=np.float64)
        self.num_drives = len(np.unique(self.drives_N))


@dataclass(kw_only=True, slots=True)
class Interval:
    """What is known of a distance, or of a difference of two, at infinitely many vectors on both sides."""

    estimate: float  # may be below 0 where the truth is about 0
    low: float
    high: float
    level: float
    standard_error: float
    num_drives: int  # of the side that has fewest


def why_no_interval(samples: Sequence[Sample], config: UncertaintyConfig) -> str | None:
    """What it would take; None = there can be an interval."""
    num_features = samples[0].vectors_ND.shape[1]
    fewest = min(len(sample.vectors_ND) for sample in samples)
    drives = min(sample.num_drives for sample in samples)
    if num_features > config.max_features:
        return f"{num_features} features, above uncertainty.max_features {config.max_features}"
    if fewest <= num_features:
        vectors = number_of(fewest, "vector")
        return f"{vectors} for {num_features} features: an interval asks for more vectors than features"
    if drives < config.min_drives:
        return f"{number_of(drives, 'drive')}: an interval asks for {config.min_drives} on each side"
    return None


def frechet_interval(
    left: Sample, right: Sample, config: UncertaintyConfig, covariance: Covariance = Covariance.UNBIASED
) -> Interval:
    """The interval of one distance; its ends are not below 0.

    A distance is a sum of squares, so its error grows with its root: with the half-width w at the plain
    value V, the upper end is the truth T that solves T = estimate + w (T / V)^(1/2). The lower end takes
    w as it is. With w alone, 3 to 8 of 100 truths lie above the upper end, and hardly any below the lower
    one (simulated).

    Raises:
        ValueError: too few vectors or drives; `why_no_interval` says so beforehand.
    """
    contrast = _Contrast([(1.0, left, right)], covariance)
    found = contrast.interval(config)
    value = contrast.value()
    found.high = upper_end(found, value)
    found.low, found.high = max(found.low, 0.0), max(found.high, 0.0)
    return found


def upper_end(interval: Interval, value: float) -> float:
    """The upper end of the interval of a squared distance, whose error grows with its root.

    Args:
        interval: With ends that are equally far from the estimate, or wider above.
        value: At which the error was found; nothing changes where it is not above 0.
    """
    if value <= 0:
        return interval.high
    step = (interval.high - interval.estimate) ** 2 / (2 * value)
    root = math.sqrt(max(step**2 + 2 * step * interval.estimate, 0.0))
    return max(interval.high, interval.estimate + step + root)


def frechet_difference(
    first: Sample,
    second: Sample,
    real: Sample,
    config: UncertaintyConfig,
    covariance: Covariance = Covariance.UNBIASED,
) -> Interval:
    """The interval of distance(first, real) - distance(second, real): below 0, the first is nearer.

    Paired: the real drives are the same ones in both distances, and drives of one name in both sets, such as futures of
    the same start, go together.

    Raises:
        ValueError: as `frechet_interval`.
    """
    return _Contrast([(1.0, first, real), (-1.0, second, real)], covariance).interval(config)


def drives_wanted(interval: Interval, wanted_share: float) -> int | None:
    """Drives at which the half-width is that share of the estimate; None = the estimate is not above 0."""
    if interval.estimate <= 0:
        return None
    half = (interval.high - interval.low) / 2
    return math.ceil(interval.num_drives * (half / (wanted_share * interval.estimate)) ** 2)


class _Contrast:
    """A sum of signed distances whose samples may share drives."""

    def __init__(self, terms: Sequence[tuple[float, Sample, Sample]], covariance: Covariance) -> None:
        self.terms = terms
        self.covariance = covariance
        self.samples = list(dict.fromkeys(sample for _, *pair in terms for sample in pair))
        self.drives = np.unique(np.concatenate([sample.drives_N for sample in self.samples]))
        self.codes = {sample: np.searchsorted(self.drives, sample.drives_N) for sample in self.samples}
        counts = [np.bincount(self.codes[sample], minlength=len(self.drives)) for sample in self.samples]
        self.shares_SK = np.array([count / count.sum() for count in counts])  # of each sample's vectors, by drive

    def interval(self, config: UncertaintyConfig) -> Interval:
        """Estimate and width."""
        if problem := why_no_interval(self.samples, config):
            raise ValueError(f"no interval: {problem}")
        estimate = self._extrapolated(config.num_groups)
        error, freedom = self._standard_error()
        if config.method is IntervalMethod.BOOTSTRAP:
            draws = self._bootstrap(config)
            low, high = np.quantile(draws, [(1 - config.level) / 2, (1 + config.level) / 2]) - draws.mean()
        else:
            high = student_quantile((1 + config.level) / 2, freedom) * error
            low = -high
        return Interval(
            estimate=estimate,
            low=estimate - float(high),
            high=estimate - float(low),
            level=config.level,
            standard_error=error,
            num_drives=min(sample.num_drives for sample in self.samples),
        )

    def value(self, weights_K: Array | None = None) -> float:
        """The sum when drives count as often as `weights_K` says; None = once."""
        weights_K = np.ones(len(self.drives)) if weights_K is None else weights_K
        return float(np.dot([sign for sign, _, _ in self.terms], self._distances(weights_K)))

    def _distances(self, weights_K: Array) -> list[float]:
        """Each term's distance when drives count as often as `weights_K` says."""
        statistics = {s: weighted_statistics(s.vectors_ND, weights_K[self.codes[s]]) for s in self.samples}
        return [frechet_distance(statistics[a], statistics[b], self.covariance) for _, a, b in self.terms]

    def _extrapolated(self, num_groups: int) -> float:
        """The value at infinitely many vectors: the delete-m_j jackknife (Busing, Meijer and van der Leeden 1999).

        With f_g the share that group g has of the vectors, a value V + a / N gives back V from
        G V(all) - sum_g (1 - f_g) V(without g).
        """
        num_groups = min(num_groups, *(sample.num_drives for sample in self.samples))
        groups_K = self._groups(num_groups)
        shares = {
            sample: np.bincount(groups_K, weights=shares_K, minlength=num_groups)
            for sample, shares_K in zip(self.samples, self.shares_SK, strict=True)
        }
        total = num_groups * self.value()
        for group in range(num_groups):
            without = self._distances((groups_K != group).astype(np.float64))
            for (sign, a, b), distance in zip(self.terms, without, strict=True):
                total -= sign * (1 - (shares[a][group] + shares[b][group]) / 2) * distance
        return total

    def _groups(self, num_groups: int) -> NDArray[np.int64]:
        """A group for each drive, of nearly equal shares in every sample: the largest drives are placed first."""
        loads_SG = np.zeros((len(self.samples), num_groups))
        groups_K = np.zeros(len(self.drives), dtype=np.int64)
        for drive in np.argsort(-self.shares_SK.sum(axis=0), kind="stable"):
            members = self.shares_SK[:, drive] > 0
            groups_K[drive] = np.argmin(loads_SG[members].sum(axis=0))
            loads_SG[:, groups_K[drive]] += self.shares_SK[:, drive]
        return groups_K

    def _standard_error(self) -> tuple[float, float]:
        """The first-order error from the drives' influences, and its degrees of freedom (Welch, Satterthwaite)."""
        influence = {sample: np.zeros(len(self.drives)) for sample in self.samples}
        for sign, *pair in self.terms:
            each = frechet_influence(pair[0].vectors_ND, pair[1].vectors_ND, self.covariance)
            for sample, values_N in zip(pair, each, strict=True):
                summed = np.bincount(self.codes[sample], weights=values_N, minlength=len(self.drives))
                influence[sample] += sign * summed / len(values_N)
        return error_over_drives(
            np.array([influence[sample] for sample in self.samples]), [sample.num_drives for sample in self.samples]
        )

    def _bootstrap(self, config: UncertaintyConfig) -> Array:
        """Values for drives drawn with replacement; drives that occur in the same samples are drawn together."""
        rng = numpy_generator("bootstrap over drives", config.seed)
        patterns = (self.shares_SK > 0).T
        strata = [np.flatnonzero((patterns == pattern).all(axis=1)) for pattern in np.unique(patterns, axis=0)]
        draws = np.empty(config.resamples)
        for index in range(config.resamples):
            weights_K = np.zeros(len(self.drives))
            for members in strata:
                weights_K[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
            draws[index] = self.value(weights_K)
        return draws


def error_over_drives(influence_SK: Array, num_drives_S: Sequence[int]) -> tuple[float, float]:
    """The first-order standard error of a value, and its degrees of freedom (Welch, Satterthwaite).

    Args:
        influence_SK: What drive K in sample S adds to the value's deviation: its share of the sample's vectors times
            their mean influence; 0 where the sample has none of it. A drive in several samples counts as one.
        num_drives_S: Drives of each sample.
    """
    sums_K = np.zeros(influence_SK.shape[1])
    variances = []
    for influence_K, num_drives in zip(influence_SK, num_drives_S, strict=True):
        scaled = influence_K * math.sqrt(num_drives / (num_drives - 1))
        variances.append(float(scaled @ scaled))
        sums_K += scaled
    bounds = [num_drives - 1 for num_drives in num_drives_S]
    slack = sum(variance**2 / bound for variance, bound in zip(variances, bounds, strict=True))
    freedom = sum(variances) ** 2 / slack if slack > 0 else float(min(bounds))
    return math.sqrt(float(sums_K @ sums_K)), freedom


def interval_of(estimate: float, influence_SK: Array, num_drives_S: Sequence[int], level: float) -> Interval:
    """Student's interval around an estimate, with the error of `error_over_drives`."""
    error, freedom = error_over_drives(influence_SK, num_drives_S)
    half = student_quantile((1 + level) / 2, freedom) * error
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        level=level,
        standard_error=error,
        num_drives=min(num_drives_S),
    )


def weighted_statistics(vectors_ND: Array, weights_N: Array) -> FrechetStatistics:
    """The statistics of vectors that count as often as whole, non-negative `weights_N` say."""
    kept = weights_N > 0
    vectors, weights = vectors_ND[kept], weights_N[kept]
    if len(vectors) == 0:
        return FrechetStatistics.empty(vectors_ND.shape[1])
    mean = weights @ vectors / weights.sum()
    centred = (vectors - mean) * np.sqrt(weights)[:, None]
    return FrechetStatistics(count=round(float(weights.sum())), mean=mean, scatter=centred.T @ centred)


def student_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t by its expansion around the normal one (Abramowitz and Stegun 26.7.5).

    Relative error below 1 % at 95 % from 3 degrees of freedom on.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
