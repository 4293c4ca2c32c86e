"""Intervals of Fréchet distances: they hold the truth as often as they say, on sets whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance, frechet_influence
from drivesim.evaluate.uncertainty import (
    Interval,
    IntervalMethod,
    Sample,
    UncertaintyConfig,
    drives_wanted,
    frechet_difference,
    frechet_interval,
    student_quantile,
    weighted_statistics,
    why_no_interval,
)

Array = NDArray[np.float64]
FAST = UncertaintyConfig(num_groups=8)


class World:
    """Two normal distributions with a known distance; clips of a drive share part of their randomness."""

    def __init__(self, num_features: int, seed: int, apart: float = 0.5) -> None:
        self.rng = np.random.default_rng(seed)
        self.std = np.arange(1, num_features + 1) ** -0.5
        rotation, _ = np.linalg.qr(self.rng.normal(size=(num_features, num_features)))
        self.turn = rotation
        self.gap = apart * np.ones(num_features) / np.sqrt(num_features)
        self.scale = 1 + apart * np.linspace(0, 1, num_features)
        # The covariances commute, so the distance has a closed form.
        self.distance = float(self.gap @ self.gap + ((self.std * (self.scale - 1)) ** 2).sum())

    def draw(self, drives: int, clips: int, is_generated: bool, shared: float = 0.3, name: str = "") -> Sample:
        """`clips` of each of `drives`."""
        shape = (drives, clips, len(self.std))
        noise = np.sqrt(shared) * self.rng.normal(size=(drives, 1, shape[2]))
        noise = noise + np.sqrt(1 - shared) * self.rng.normal(size=shape)
        vectors = (noise * self.std * (self.scale if is_generated else 1)).reshape(-1, shape[2])
        vectors = (vectors + (self.gap if is_generated else 0)) @ self.turn
        names = np.repeat([f"{name or is_generated}-{index}" for index in range(drives)], clips)
        return Sample(vectors_ND=vectors, drives_N=names)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_an_interval_of_95_percent_holds_the_truth_in_93_to_97_of_100() -> None:
    world = World(num_features=4, seed=1)
    found = [frechet_interval(world.draw(40, 3, True), world.draw(40, 3, False), FAST) for _ in range(600)]
    assert 0.93 <= np.mean([holds(interval, world.distance) for interval in found]) <= 0.97


def test_the_estimate_is_centred_on_the_truth_where_the_plain_value_is_too_large() -> None:
    world = World(num_features=12, seed=2)
    estimates, values = [], []
    for _ in range(60):
        left, right = world.draw(30, 2, True), world.draw(30, 2, False)
        estimates.append(frechet_interval(left, right, FAST).estimate)
        values.append(distance(left.vectors_ND, right.vectors_ND))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - world.distance) < 3 * error
    assert np.mean(values) - world.distance > 6 * error


def test_a_difference_of_two_sets_is_held_as_often() -> None:
    near, far = World(num_features=3, seed=3, apart=0.4), World(num_features=3, seed=3, apart=0.6)
    truth = near.distance - far.distance
    far.rng = near.rng  # the same seed has given both the same turn; from here on they must not draw the same noise
    found = [
        frechet_difference(near.draw(30, 3, True), far.draw(30, 3, True), near.draw(30, 3, False), FAST)
        for _ in range(200)
    ]
    assert 0.92 <= np.mean([holds(interval, truth) for interval in found]) <= 0.98


def test_a_set_differs_from_itself_by_nothing() -> None:
    world = World(num_features=5, seed=4)
    left, right = world.draw(20, 3, True), world.draw(20, 3, False)
    twin = Sample(vectors_ND=left.vectors_ND.copy(), drives_N=left.drives_N)
    found = frechet_difference(left, twin, right, FAST)
    assert found.estimate == pytest.approx(0, abs=1e-9)
    assert found.high - found.low == pytest.approx(0, abs=1e-9)


def test_drives_of_one_name_are_paired() -> None:
    """A constant is added to every vector: the difference is sharp where the drives are known to be the same."""
    world = World(num_features=5, seed=5)
    left, right = world.draw(20, 3, True), world.draw(20, 3, False)
    moved = left.vectors_ND + 0.05
    paired = frechet_difference(Sample(vectors_ND=moved, drives_N=left.drives_N), left, right, FAST)
    other_names = np.char.add("other ", left.drives_N)
    apart = frechet_difference(Sample(vectors_ND=moved, drives_N=other_names), left, right, FAST)
    assert paired.standard_error < 0.5 * apart.standard_error


def test_clips_of_one_drive_are_not_taken_for_independent() -> None:
    world = World(num_features=4, seed=6)
    left, right = world.draw(20, 10, True, shared=0.9), world.draw(20, 10, False, shared=0.9)
    by_drive = frechet_interval(left, right, FAST)
    own = [
        Sample(vectors_ND=side.vectors_ND, drives_N=np.array([f"{tag}{i}" for i in range(200)]))
        for tag, side in (("a", left), ("b", right))
    ]
    assert by_drive.standard_error > 1.8 * frechet_interval(own[0], own[1], FAST).standard_error


def test_the_bootstrap_is_about_as_wide() -> None:
    world = World(num_features=3, seed=7)
    left, right = world.draw(60, 4, True), world.draw(60, 4, False)
    influence = frechet_interval(left, right, FAST)
    config = UncertaintyConfig(num_groups=8, method=IntervalMethod.BOOTSTRAP, resamples=400)
    drawn = frechet_interval(left, right, config)
    assert drawn.estimate == influence.estimate
    assert (drawn.high - drawn.low) == pytest.approx(influence.high - influence.low, rel=0.25)
    assert drawn == frechet_interval(left, right, config)


def distance(x: Array, y: Array, covariance: Covariance = Covariance.UNBIASED) -> float:
    sides = [FrechetStatistics.empty(x.shape[1]) for _ in range(2)]
    for side, vectors in zip(sides, (x, y), strict=True):
        side.update(vectors)
    return frechet_distance(*sides, covariance)


@pytest.mark.parametrize(("counts", "num_features"), [((40, 30), 6), ((9, 12), 20)])
def test_influence_is_the_derivative_by_a_vectors_weight(counts: tuple[int, int], num_features: int) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(counts[0], num_features)), rng.normal(0.3, 1.5, size=(counts[1], num_features))
    found = frechet_influence(x, y, Covariance.POPULATION)
    step = 1e-6

    def heavier(vectors: Array, index: int, by: float) -> FrechetStatistics:
        """Statistics with weight (1 - by) / N of all and `by` more of one."""
        weights = np.full(len(vectors), (1 - by) / len(vectors))
        weights[index] += by
        mean = weights @ vectors
        scatter = (vectors - mean).T @ np.diag(weights) @ (vectors - mean) * len(vectors)
        return FrechetStatistics(count=len(vectors), mean=mean, scatter=scatter)

    sides = [heavier(vectors, 0, 0.0) for vectors in (x, y)]
    for index in (0, 3):
        for side, vectors in enumerate((x, y)):
            moved = [[heavier(vectors, index, by) if s == side else sides[s] for s in (0, 1)] for by in (step, -step)]
            up, down = (frechet_distance(*pair, Covariance.POPULATION) for pair in moved)
            assert found[side][index] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)
    assert abs(found[0].mean()) < 1e-12 and abs(found[1].mean()) < 1e-12


def test_weights_count_vectors_several_times() -> None:
    rng = np.random.default_rng(9)
    vectors, weights = rng.normal(size=(12, 4)), rng.integers(0, 4, size=12)
    expected = FrechetStatistics.empty(4)
    expected.update(np.repeat(vectors, weights, axis=0))
    found = weighted_statistics(vectors, weights.astype(np.float64))
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probability", [0.9, 0.975])
@pytest.mark.parametrize("freedom", [3.0, 5.5, 20.0, 1e6])
def test_student_quantiles_are_those_of_scipy(probability: float, freedom: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=2e-3)


def test_too_few_vectors_or_drives_say_what_it_takes() -> None:
    world = World(num_features=10, seed=10)
    few_vectors, few_drives, enough = world.draw(5, 2, True), world.draw(3, 10, True), world.draw(10, 3, False)
    assert why_no_interval([enough, enough], FAST) is None
    assert "10 vectors for 10 features" in str(why_no_interval([few_vectors, enough], FAST))
    assert "asks for 4" in str(why_no_interval([enough, few_drives], FAST))
    assert "max_features" in str(why_no_interval([enough, enough], UncertaintyConfig(max_features=9)))
    with pytest.raises(ValueError, match="no interval: 3 drives"):
        frechet_interval(few_drives, enough, FAST)


def test_four_times_the_drives_are_wanted_for_half_the_width() -> None:
    found = Interval(estimate=10.0, low=8.0, high=12.0, level=0.95, standard_error=1.0, num_drives=50)
    assert drives_wanted(found, 0.1) == 200
    assert (
        drives_wanted(Interval(estimate=-0.1, low=0, high=1, level=0.95, standard_error=1, num_drives=5), 0.1) is None
    )


@pytest.mark.parametrize(
    ("field", "value"), [("level", 1.0), ("num_groups", 1), ("resamples", 3), ("min_drives", 3), ("wanted_share", 0.0)]
)
def test_settings_without_meaning_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"uncertainty.{field}"):
        UncertaintyConfig(**{field: value})  # type: ignore[arg-type]
