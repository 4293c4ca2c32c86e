"""The Fréchet distance between two sets of feature vectors, from streamed float64 statistics.

Legend: N vectors, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from drivesim.core.wording import number_of


class Covariance(str, Enum):
    """How the scatter is divided; published scores differ by it, so the protocol card states it."""

    UNBIASED = "unbiased"  # 1 / (N - 1): google, pytorch-fid, torchmetrics, torch-fidelity
    POPULATION = "population"  # 1 / N: StyleGAN-V, Long Video GAN, cd-fvd


@dataclass(slots=True)
class FrechetStatistics:
    """Count, mean and scatter of feature vectors, merged by Chan, Golub and LeVeque's update.

    Sums of squares would lose digits where |mean| >> std; this form does not, and the order and
    the batches in which vectors arrive change the result by rounding alone.
    """

    count: int
    mean: NDArray[np.float64]  # (D,)
    scatter: NDArray[np.float64]  # (D, D) sum of outer products of the deviations from the mean

    @classmethod
    def empty(cls, feature_dim: int) -> FrechetStatistics:
        """The statistics of no vectors."""
        return cls(count=0, mean=np.zeros(feature_dim), scatter=np.zeros((feature_dim, feature_dim)))

    @property
    def feature_dim(self) -> int:
        """D."""
        return len(self.mean)

    def reset(self) -> None:
        """Forgets all vectors."""
        self.count = 0
        self.mean = np.zeros_like(self.mean)
        self.scatter = np.zeros_like(self.scatter)

    def update(self, features: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """Adds vectors (N, D); N may be 0.

        Raises:
            ValueError: another D, or a value that is not finite.
        """
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise ValueError(f"features have shape {features.shape}, expected (N, {self.feature_dim})")
        if not np.isfinite(features).all():
            raise ValueError("features hold NaN or infinite values; look at the frames and the extractor")
        if len(features) == 0:
            return
        mean = features.mean(axis=0)
        centred = features - mean
        self.merge(FrechetStatistics(len(features), mean, centred.T @ centred))

    def merge(self, other: FrechetStatistics) -> None:
        """Adds the vectors that `other` has seen."""
        if other.feature_dim != self.feature_dim:
            raise ValueError(f"statistics of {other.feature_dim} features cannot join those of {self.feature_dim}")
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.count * other.count / total)
        self.mean = self.mean + delta * (other.count / total)
        self.count = total

    def covariance(self, kind: Covariance = Covariance.UNBIASED) -> NDArray[np.float64]:
        """The covariance matrix (D, D).

        Raises:
            ValueError: fewer than two vectors; a covariance of 0 there would pass for a result.
        """
        if self.count < 2:
            raise ValueError(f"{number_of(self.count, 'feature vector')}; a covariance needs at least 2")
        return self.scatter / (self.count - 1 if kind is Covariance.UNBIASED else self.count)

    def packed(self) -> NDArray[np.float64]:
        """All of it as one vector (1 + D + D * D,), for states that travel between processes."""
        return np.concatenate([[float(self.count)], self.mean, self.scatter.ravel()])

    @classmethod
    def unpacked(cls, values: NDArray[np.float64], feature_dim: int) -> FrechetStatistics:
        """The inverse of `packed`."""
        if values.shape != (1 + feature_dim + feature_dim**2,):
            raise ValueError(f"packed statistics have shape {values.shape}, not that of {feature_dim} features")
        scatter = values[1 + feature_dim :].reshape(feature_dim, feature_dim)
        return cls(count=round(float(values[0])), mean=values[1 : 1 + feature_dim], scatter=scatter)


def frechet_distance(
    a: FrechetStatistics,
    b: FrechetStatistics,
    covariance: Covariance = Covariance.UNBIASED,
    root_eps: float | None = None,
) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), exact for covariances of any rank.

    With S = L L^T, tr (S1 S2)^(1/2) is the sum of the singular values of L1^T L2. Directions
    without variance are left out of L, so that no square root of rounding noise enters, which is
    what spoils `sqrtm` for fewer vectors than features (Dowson and Landau 1982 for the distance).

    Args:
        a: One side.
        b: The other.
        covariance: How the scatter is divided.
        root_eps: Singular values below it stay as they are where their root belongs, as in TensorFlow-GAN (1e-10) and
            its ports; None = all are rooted.

    Raises:
        ValueError: fewer than two vectors on a side, or different feature sizes.
    """
    if a.feature_dim != b.feature_dim:
        raise ValueError(f"features of {a.feature_dim} against {b.feature_dim} values: two different extractors")
    covariance_a, covariance_b = a.covariance(covariance), b.covariance(covariance)
    if root_eps is None:
        root_a, root_b = _root(covariance_a, a.count - 1), _root(covariance_b, b.count - 1)
        roots = np.linalg.svd(root_a.T @ root_b, compute_uv=False) if root_a.size and root_b.size else np.zeros(1)
    else:
        values, vectors = np.linalg.eigh(covariance_a)
        root_a = (vectors * _partly_rooted(values, root_eps)) @ vectors.T
        roots = _partly_rooted(np.linalg.eigvalsh(root_a @ covariance_b @ root_a), root_eps)
    overlap = float(roots.sum())
    gap = a.mean - b.mean
    distance = float(gap @ gap + np.trace(covariance_a) + np.trace(covariance_b)) - 2 * overlap
    return max(distance, 0.0)  # below 0 by rounding alone


def frechet_influence(
    x: NDArray[np.float64], y: NDArray[np.float64], covariance: Covariance = Covariance.UNBIASED
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How the distance moves with the weight of each single vector, at any rank.

    d tr (S1 S2)^(1/2) = tr (T dS1) / 2 for the map T with T S1 T = S2. With S1 = L1 L1^T and the singular
    value decomposition L1^T L2 = U s V^T, the half form x^T T x of a vector is sum_k s_k (U^T L1^+ x)_k^2;
    the rest of the distance is plain. A first-order (von Mises) term: its variance is that of the distance.

    Args:
        x: (N, D) vectors of one side, N at least 2.
        y: (M, D) vectors of the other.
        covariance: As in `frechet_distance`.

    Returns:
        (N,) and (M,), each of mean 0: the mean of n draws moves the distance by the mean of their influences.
    """
    sides, statistics = (x, y), []
    for vectors in sides:
        statistics.append(FrechetStatistics.empty(vectors.shape[1]))
        statistics[-1].update(vectors)
    first, second = (_eigen(side.covariance(covariance), side.count - 1) for side in statistics)
    left, overlap, right = np.linalg.svd(_scaled(*first).T @ _scaled(*second), full_matrices=False)
    gap = statistics[0].mean - statistics[1].mean
    result = []
    for vectors, side, (values, basis), turn, sign in zip(
        sides, statistics, (first, second), (left, right.T), (1.0, -1.0), strict=True
    ):
        centred = vectors - side.mean
        whitened = centred @ (basis / np.sqrt(values)) @ turn
        influence = 2 * sign * centred @ gap + (centred**2).sum(axis=1) - whitened**2 @ overlap
        result.append(influence - influence.mean())
    return result[0], result[1]


def _partly_rooted(values: NDArray[np.float64], root_eps: float) -> NDArray[np.float64]:
    """Roots of singular values; eigenvalues below 0, which rounding makes, have their size as singular value."""
    sizes = np.abs(values)
    return np.where(sizes < root_eps, sizes, np.sqrt(sizes))


def _root(covariance: NDArray[np.float64], max_rank: int) -> NDArray[np.float64]:
    """L (D, R) with L L^T = covariance, R the numerical rank, at most `max_rank`."""
    return _scaled(*_eigen(covariance, max_rank))


def _scaled(values: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors * np.sqrt(values))


def _eigen(covariance: NDArray[np.float64], max_rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The eigenvalues (R,) above rounding, at most `max_rank`, and their vectors (D, R)."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:max_rank], vectors[:, ::-1][:, :max_rank]
    keep = values > len(covariance) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    return values[keep], vectors[:, keep]
