"""The Fréchet distance against closed forms, against scipy, and on the sets where others fail."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance, frechet_influence
from drivesim.evaluate.frechet_metric import FrechetDistance

Array = NDArray[np.float64]


def statistics(features: Array, batch: int | None = None) -> FrechetStatistics:
    result = FrechetStatistics.empty(features.shape[1])
    for start in range(0, len(features), batch or len(features)):
        result.update(features[start : start + (batch or len(features))])
    return result


def gaussian(mean: Array, covariance: Array, count: int = 1000) -> FrechetStatistics:
    """Statistics with exactly this mean and (unbiased) covariance."""
    return FrechetStatistics(count=count, mean=mean, scatter=covariance * (count - 1))


def by_sqrtm(a: FrechetStatistics, b: FrechetStatistics) -> float:
    first, second = a.covariance(), b.covariance()
    root = scipy.linalg.sqrtm(first @ second)
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def test_diagonal_gaussians_match_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    std_a, std_b = rng.uniform(0.1, 3, 12), rng.uniform(0.1, 3, 12)
    mean_a, mean_b = rng.normal(size=12), rng.normal(size=12)
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    found = frechet_distance(gaussian(mean_a, np.diag(std_a**2)), gaussian(mean_b, np.diag(std_b**2)))
    assert found == pytest.approx(expected, rel=1e-6)


def test_rotated_gaussians_that_commute_match_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    std_a, std_b = rng.uniform(0.01, 3, 20), rng.uniform(0.01, 3, 20)
    a = gaussian(np.zeros(20), rotation @ np.diag(std_a**2) @ rotation.T)
    b = gaussian(np.full(20, 0.5), rotation @ np.diag(std_b**2) @ rotation.T)
    assert frechet_distance(a, b) == pytest.approx(5.0 + ((std_a - std_b) ** 2).sum(), rel=1e-6)


def test_gaussians_of_two_dimensions_that_do_not_commute_match_the_closed_form() -> None:
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    # tr (A B)^(1/2) = sqrt(tr A B + 2 sqrt(det A B)) for 2 x 2 matrices
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = 1 + 4 + np.trace(a) + np.trace(b) - 2 * root
    found = frechet_distance(gaussian(np.array([1.0, 0.0]), a), gaussian(np.array([0.0, 2.0]), b))
    assert found == pytest.approx(expected, rel=1e-9)


def test_full_rank_samples_match_scipy_sqrtm() -> None:
    rng = np.random.default_rng(2)
    a = statistics(rng.normal(size=(300, 24)) @ rng.normal(size=(24, 24)))
    b = statistics(rng.normal(size=(280, 24)) @ rng.normal(size=(24, 24)) + 1)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


@pytest.mark.parametrize("count", [2, 10, 200])
def test_identical_sets_have_no_distance_at_any_rank(count: int) -> None:
    features = np.random.default_rng(3).normal(5, 2, size=(count, 64))
    assert abs(frechet_distance(statistics(features), statistics(features))) < 1e-6


def test_fewer_vectors_than_features_match_the_nuclear_norm() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(15, 100)), rng.normal(1, 2, size=(11, 100))
    xc, yc = (x - x.mean(0)) / np.sqrt(14), (y - y.mean(0)) / np.sqrt(10)
    gap = x.mean(0) - y.mean(0)
    expected = gap @ gap + (xc**2).sum() + (yc**2).sum() - 2 * np.linalg.svd(xc @ yc.T, compute_uv=False).sum()
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(expected, rel=1e-9)


def test_many_vectors_of_a_few_dimensions_score_as_in_those_alone() -> None:
    """More vectors than features, whose covariance is singular all the same: rounding must not be rooted."""
    rng = np.random.default_rng(12)
    spread, _ = np.linalg.qr(rng.normal(size=(40, 3)))
    x, y = rng.normal(size=(90, 3)), rng.normal(0.5, 2, size=(80, 3))
    few = frechet_distance(statistics(x), statistics(y))
    assert frechet_distance(statistics(x @ spread.T), statistics(y @ spread.T)) == pytest.approx(few, rel=1e-9)
    assert frechet_distance(statistics(x @ spread.T), statistics(x[::-1] @ spread.T)) < 1e-6
    copies = np.repeat(x[:4] @ spread.T, 20, axis=0)
    assert frechet_distance(statistics(copies), statistics(copies[::-1])) < 1e-6
    for influence in frechet_influence(x @ spread.T, y @ spread.T):
        assert np.isfinite(influence).all()


def test_constant_features_leave_the_distance_of_the_means() -> None:
    a, b = statistics(np.zeros((5, 3))), statistics(np.ones((4, 3)))
    assert frechet_distance(a, b) == pytest.approx(3.0)


@pytest.mark.parametrize("count", [2, 7, 90])
def test_a_constant_set_against_noise_of_any_rank_adds_up_to_means_and_variances(count: int) -> None:
    noise = np.random.default_rng(10).normal(size=(count, 40))
    expected = ((noise.mean(axis=0) - 3) ** 2).sum() + noise.var(axis=0, ddof=1).sum()
    assert frechet_distance(statistics(np.full((5, 40), 3.0)), statistics(noise)) == pytest.approx(expected, rel=1e-9)


def test_one_vector_is_refused_instead_of_scored_as_zero() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(statistics(np.ones((1, 3))), statistics(np.ones((9, 3))))


def test_population_covariance_divides_by_n() -> None:
    features = np.random.default_rng(5).normal(size=(8, 3))
    np.testing.assert_allclose(statistics(features).covariance(Covariance.POPULATION), np.cov(features.T, bias=True))
    np.testing.assert_allclose(statistics(features).covariance(), np.cov(features.T))


@pytest.mark.parametrize("count", [40, 500])
def test_order_and_batches_change_nothing_even_far_from_zero(count: int) -> None:
    rng = np.random.default_rng(6)
    real = rng.normal(1e4, 1, size=(count, 60))
    made = rng.normal(1e4 + 0.3, 1.5, size=(count, 60))
    whole = frechet_distance(statistics(made), statistics(real))
    for batch in (1, 7, 64):
        shuffled = made[rng.permutation(count)]
        assert frechet_distance(statistics(shuffled, batch), statistics(real[::-1], batch)) == pytest.approx(
            whole, rel=1e-9
        )


def test_merged_halves_equal_the_whole() -> None:
    features = np.random.default_rng(7).normal(3, 1, size=(101, 6))
    halves, whole = statistics(features[:30]), statistics(features)
    halves.merge(statistics(features[30:]))
    halves.merge(FrechetStatistics.empty(6))
    assert halves.count == 101
    np.testing.assert_allclose(halves.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(halves.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_packed_statistics_come_back() -> None:
    whole = statistics(np.random.default_rng(8).normal(size=(9, 4)))
    back = FrechetStatistics.unpacked(whole.packed(), 4)
    assert back.count == 9
    np.testing.assert_array_equal(back.scatter, whole.scatter)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        FrechetStatistics.empty(2).update(np.array([[0.0, bad]]))


def test_features_of_another_extractor_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        FrechetStatistics.empty(2).update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="two different extractors"):
        frechet_distance(statistics(np.zeros((3, 2))), statistics(np.zeros((3, 4))))


class MeanColour:
    """A tiny extractor: mean colour of the clip's first and last frame."""

    name = "mean-colour"
    kind = FeatureKind.CLIP
    feature_dim = 6
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (mean-colour)"

    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> torch.Tensor:
        means = torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3))
        return torch.cat([means[:, 0], means[:, -1]], dim=1)


@pytest.fixture()
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(9).integers(0, 256, size=(24, 4, 6, 8, 3), dtype=np.uint8)


def test_metric_streams_and_equals_the_plain_distance(clips: NDArray[np.uint8]) -> None:
    metric = FrechetDistance(MeanColour())
    for start in range(0, 12, 5):
        metric.update(clips[:12][start : start + 5], real=True)
    metric.update(clips[12:], real=False)
    extractor = MeanColour()
    expected = frechet_distance(
        statistics(extractor(clips[12:]).double().numpy()), statistics(extractor(clips[:12]).double().numpy())
    )
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-9)
    metric.reset()
    assert metric.real.abs().sum() == 0


def test_metrics_of_two_processes_reduce_to_one(clips: NDArray[np.uint8]) -> None:
    whole, first, second = (FrechetDistance(MeanColour()) for _ in range(3))
    for metric, part in ((whole, clips), (first, clips[:7]), (second, clips[7:])):
        metric.update(part, real=True)
        metric.update(part[::-1] // 2, real=False)
    gathered = torch.stack([first.real, second.real])  # what torchmetrics hands to the reduction after a gather
    torch.testing.assert_close(first._reductions["real"](gathered), whole.real, rtol=1e-12, atol=1e-7)
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(whole.compute()), rel=1e-9)


def of_tensorflow_gan(x: Array, y: Array, eps: float) -> float:
    """The distance by singular value decompositions with a threshold, written out."""

    def root(matrix: Array) -> Array:
        u, s, vh = np.linalg.svd(matrix)
        return (u * np.where(s < eps, s, np.sqrt(s))) @ vh

    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    half = root(a)
    gap = x.mean(axis=0) - y.mean(axis=0)
    return float(np.trace(a + b) - 2 * np.trace(root(half @ b @ half)) + gap @ gap)


@pytest.mark.parametrize(("num", "eps"), [(40, 1e-10), (5, 1e-10), (40, 0.5)])
def test_small_singular_values_are_not_rooted_where_a_protocol_says_so(num: int, eps: float) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(num, 8)), rng.normal(0.2, 1.3, size=(num, 8))
    sides = [FrechetStatistics.empty(8) for _ in range(2)]
    for side, vectors in zip(sides, (x, y), strict=True):
        side.update(vectors)
    found = frechet_distance(*sides, root_eps=eps)
    assert found == pytest.approx(of_tensorflow_gan(x, y, eps), rel=1e-9)
    exact = frechet_distance(*sides)
    assert (found == pytest.approx(exact, rel=1e-6)) == (eps < 0.1)
