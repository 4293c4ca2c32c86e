"""The kernel distance between two sets of feature vectors: KVD where I3D made them, KID where Inception did.

Legend: N, M vectors, D features, K drives of both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.uncertainty import Interval, Sample, UncertaintyConfig, interval_of, upper_end

Vectors = NDArray[np.float32] | NDArray[np.float64]

_BLOCK_ROWS = 512  # of the kernel matrix that are held at once


def kernel_distance(x_ND: Vectors, y_MD: Vectors) -> float:
    """Squared maximum mean discrepancy under the kernel k(x, y) = (x . y / D + 1)^3, unbiased.

    MMD^2 = sum_{i != j} k(x_i, x_j) / (N (N - 1)) + sum_{i != j} k(y_i, y_j) / (M (M - 1)) - 2 mean k(x_i, y_j)
    (Gretton et al. 2012, lemma 6; Binkowski et al. 2018 for the kernel). Unlike a Fréchet distance it does not
    grow with fewer vectors, and can fall below 0.

    Raises:
        ValueError: fewer than two vectors on a side, different D, or a value that is not finite.
    """
    x_ND, y_MD = _checked(x_ND, y_MD)
    num_x, num_y = len(x_ND), len(y_MD)
    within_x = (_kernel_sum(x_ND, x_ND) - _own_kernel_sum(x_ND)) / (num_x * (num_x - 1))
    within_y = (_kernel_sum(y_MD, y_MD) - _own_kernel_sum(y_MD)) / (num_y * (num_y - 1))
    return within_x + within_y - 2 * _kernel_sum(x_ND, y_MD) / (num_x * num_y)


def kernel_interval(left: Sample, right: Sample, config: UncertaintyConfig) -> Interval:
    """The interval of one kernel distance over drives.

    The estimate leaves out all pairs of vectors of one drive, and not each vector with itself alone: clips of a drive
    are alike, which would raise it. The width is that of the drives' influences, found by leaving out each drive on
    each side; the upper end is that of a squared distance (`upper_end`). For equal distributions the influences vanish
    and the interval is wider than it had to be.

    Raises:
        ValueError: fewer drives than `config.min_drives` on a side.
    """
    _check_drives([left, right], config)
    names = np.unique(np.concatenate([left.drives_N, right.drives_N]))
    estimate, influence = _moved(left, right, names)
    found = interval_of(estimate, influence, [left.num_drives, right.num_drives], config.level)
    found.high = upper_end(found, estimate)
    return found


def kernel_difference(first: Sample, second: Sample, real: Sample, config: UncertaintyConfig) -> Interval:
    """The interval of distance(first, real) - distance(second, real): below 0, the first is nearer.

    Paired: the real drives are the same ones in both distances, and drives of one name in both sets go together.

    Raises:
        ValueError: as `kernel_interval`.
    """
    sides = [first, second, real]
    _check_drives(sides, config)
    names = np.unique(np.concatenate([side.drives_N for side in sides]))
    (a, moved_a), (b, moved_b) = (_moved(side, real, names) for side in (first, second))
    influence = np.array([moved_a[0], -moved_b[0], moved_a[1] - moved_b[1]])
    return interval_of(a - b, influence, [side.num_drives for side in sides], config.level)


def _check_drives(sides: Sequence[Sample], config: UncertaintyConfig) -> None:
    fewest = min(side.num_drives for side in sides)
    if fewest < config.min_drives:
        raise ValueError(f"no interval: {fewest} drives: an interval asks for {config.min_drives} on each side")


def _moved(left: Sample, right: Sample, names_K: NDArray[np.str_]) -> tuple[float, NDArray[np.float64]]:
    """The estimate over pairs of different drives, and (2, K) how each drive moves it on each side."""
    x_ND, y_MD = _checked(left.vectors_ND, right.vectors_ND)
    x_of_drive, y_of_drive = (np.searchsorted(names_K, side.drives_N) for side in (left, right))
    num = len(names_K)
    x_K, y_K = (np.bincount(codes, minlength=num).astype(np.float64) for codes in (x_of_drive, y_of_drive))
    within_x = _LeaveOneOut(_sums_by_drive(x_ND, x_of_drive, x_ND, x_of_drive, num), np.outer(x_K, x_K))
    within_y = _LeaveOneOut(_sums_by_drive(y_MD, y_of_drive, y_MD, y_of_drive, num), np.outer(y_K, y_K))
    across = _LeaveOneOut(_sums_by_drive(x_ND, x_of_drive, y_MD, y_of_drive, num), np.outer(x_K, y_K))
    estimate = within_x.mean + within_y.mean - 2 * across.mean
    without_x = within_x.without_both + within_y.mean - 2 * across.without_row
    without_y = within_x.mean + within_y.without_both - 2 * across.without_column
    influence = [
        (1 - counts / counts.sum()) * (estimate - without) for counts, without in ((x_K, without_x), (y_K, without_y))
    ]
    return estimate, np.array(influence)


class _LeaveOneOut:
    """The mean kernel over pairs of vectors of different drives, and what it becomes without each drive."""

    def __init__(self, sums_KK: NDArray[np.float64], pairs_KK: NDArray[np.float64]) -> None:
        parts = [part - np.diag(np.diag(part)) for part in (sums_KK, pairs_KK)]
        sums, pairs = parts
        self.mean = float(sums.sum() / pairs.sum())
        rows, columns = ([part.sum(axis=axis) for part in parts] for axis in (1, 0))
        self.without_row = (sums.sum() - rows[0]) / (pairs.sum() - rows[1])
        self.without_column = (sums.sum() - columns[0]) / (pairs.sum() - columns[1])
        self.without_both = (sums.sum() - rows[0] - columns[0]) / (pairs.sum() - rows[1] - columns[1])


def _checked(x_ND: Vectors, y_MD: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x_ND, y_MD = (np.asarray(vectors, dtype=np.float64) for vectors in (x_ND, y_MD))
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"features have shapes {x_ND.shape} and {y_MD.shape}, expected (N, D) and (M, D)")
    if min(len(x_ND), len(y_MD)) < 2:
        raise ValueError(f"{len(x_ND)} feature vectors against {len(y_MD)}; a kernel distance needs at least 2 a side")
    if not (np.isfinite(x_ND).all() and np.isfinite(y_MD).all()):
        raise ValueError("features hold NaN or infinite values; look at the frames and the extractor")
    return x_ND, y_MD


def _sums_by_drive(
    x_ND: NDArray[np.float64],
    x_of_drive: NDArray[np.int64],
    y_MD: NDArray[np.float64],
    y_of_drive: NDArray[np.int64],
    num_drives: int,
) -> NDArray[np.float64]:
    """(K, K) sums of k over all pairs of a vector of one drive and a vector of another."""
    members_MK = np.zeros((len(y_MD), num_drives))
    members_MK[np.arange(len(y_MD)), y_of_drive] = 1
    sums_KK = np.zeros((num_drives, num_drives))
    for start in range(0, len(x_ND), _BLOCK_ROWS):
        block = x_ND[start : start + _BLOCK_ROWS]
        by_drive = ((block @ y_MD.T / x_ND.shape[1] + 1) ** 3) @ members_MK
        np.add.at(sums_KK, x_of_drive[start : start + _BLOCK_ROWS], by_drive)
    return sums_KK


def _kernel_sum(x_ND: NDArray[np.float64], y_MD: NDArray[np.float64]) -> float:
    """Sum of k over all pairs, with a few rows of the kernel matrix in memory."""
    blocks = (x_ND[start : start + _BLOCK_ROWS] for start in range(0, len(x_ND), _BLOCK_ROWS))
    return float(sum(((block @ y_MD.T / x_ND.shape[1] + 1) ** 3).sum() for block in blocks))


def _own_kernel_sum(x_ND: NDArray[np.float64]) -> float:
    """Sum of k(x_i, x_i)."""
    return float((((x_ND**2).sum(axis=1) / x_ND.shape[1] + 1) ** 3).sum())


class KernelDistance(Metric):
    """A kernel distance between generated and real frames under one extractor.

    Keeps all features (400 float32 a clip by I3D): a kernel of degree 3 has no smaller sums.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, extractor: Extractor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = extractor
        for side in ("real", "generated"):
            self.add_state(side, default=[], dist_reduce_fx="cat")

    def update(self, frames_BTHWC: NDArray[np.uint8], real: bool) -> None:
        """Adds clips (B, T, H, W, 3), uint8 or floats in [0, 1], to one side."""
        features = self.extractor(frames_BTHWC).to(self.device)
        (self.real if real else self.generated).append(features)

    def compute(self) -> Tensor:
        """The distance, a float64 scalar.

        Raises:
            ValueError: fewer than two feature vectors on a side.
        """
        return torch.tensor(kernel_distance(self._side("generated"), self._side("real")), dtype=torch.float64)

    def _side(self, side: str) -> NDArray[np.float32]:
        features = getattr(self, side)
        if isinstance(features, list) and not features:
            return np.empty((0, self.extractor.feature_dim), dtype=np.float32)
        return np.asarray(dim_zero_cat(features).cpu().numpy())
