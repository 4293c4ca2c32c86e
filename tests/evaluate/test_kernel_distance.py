"""The kernel distance against its definition, its closed form, and over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.evaluate import kernel_distance as module
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.kernel_distance import KernelDistance, kernel_distance

Array = NDArray[np.float64]


def by_loops(x: Array, y: Array) -> float:
    """Gretton et al. 2012, lemma 6, pair by pair."""

    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return within_x + within_y - 2 * between


@pytest.mark.parametrize("block_rows", [3, 512])
def test_distance_equals_a_double_loop(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(13, 5)), rng.normal(0.5, 2, size=(8, 5))
    assert kernel_distance(x, y) == pytest.approx(by_loops(x, y), rel=1e-9)


def test_two_points_match_the_closed_form() -> None:
    x, y = np.zeros((4, 7)), np.full((3, 7), 2.0)
    # k(0, 0) = 1, k(y, y) = (4 + 1)^3, k(0, y) = 1
    assert kernel_distance(x, y) == pytest.approx(1 + 125 - 2)


def test_constant_sets_that_are_equal_have_no_distance() -> None:
    assert kernel_distance(np.full((4, 3), 2.0), np.full((9, 3), 2.0)) == pytest.approx(0, abs=1e-12)


def test_the_estimate_is_unbiased_where_both_sides_are_noise_of_one_kind() -> None:
    rng = np.random.default_rng(1)
    distances = [kernel_distance(*rng.normal(size=(2, 10, 4))) for _ in range(400)]
    assert (
        abs(np.mean(distances)) < 3 * np.std(distances) / 20
    )  # of the mean; the diagonals would add 2 (k(x, x) - k(x, y)) / 10
    assert min(distances) < 0


def test_one_vector_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 a side"):
        kernel_distance(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="expected"):
        kernel_distance(np.ones((4, 3)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        kernel_distance(np.full((4, 3), np.nan), np.ones((5, 3)))


class MeanColour:
    """A tiny extractor: mean colour of the clip's first and last frame."""

    name = "mean-colour"
    kind = FeatureKind.CLIP
    feature_dim = 6
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (mean-colour)"

    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        means = torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3)) / 255
        return torch.cat([means[:, 0], means[:, -1]], dim=1)


@pytest.fixture()
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, size=(24, 4, 6, 8, 3), dtype=np.uint8)


def filled(metric: KernelDistance, clips: NDArray[np.uint8], batch: int = 24) -> KernelDistance:
    for start in range(0, len(clips), batch):
        metric.update(clips[start : start + batch], real=True)
        metric.update(clips[start : start + batch] // 2, real=False)
    return metric


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_metric_equals_the_plain_distance_whatever_order_and_batches(clips: NDArray[np.uint8]) -> None:
    features = MeanColour()
    expected = kernel_distance(features(clips // 2).numpy(), features(clips).numpy())
    order = np.random.default_rng(3).permutation(24)
    for batch in (1, 5, 24):
        metric = filled(KernelDistance(MeanColour()), clips[order], batch)
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-9)
    metric.reset()
    with pytest.raises(ValueError, match="0 feature vectors"):
        metric.compute()


@pytest.mark.parametrize("cuts", [[24], [7, 24], [1, 3, 10, 24]])
def test_merged_processes_equal_one(cuts: list[int], clips: NDArray[np.uint8]) -> None:
    whole = filled(KernelDistance(MeanColour()), clips)
    parts = [
        filled(KernelDistance(MeanColour()), clips[start:end]) for start, end in zip([0, *cuts[:-1]], cuts, strict=True)
    ]
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert float(parts[0].compute()) == pytest.approx(float(whole.compute()), rel=1e-9)
