"""Nearest real neighbours: a generated clip nearer to real ones than real drives are to each other is a copy.

Legend: N generated clips, M real clips, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COPY_FACTOR = 0.5  # of the distance that real clips of different drives hardly ever fall below
_HARDLY_EVER = 0.01  # share of real clips
_BLOCK = 256  # rows whose distances are held at once

Features = NDArray[np.float32] | NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class NearestReal:
    """Distances of clips to their nearest real clips, in the features' own unit."""

    distance: NDArray[np.float64]  # (N,) of each generated clip to its nearest real one
    index: NDArray[np.int64]  # (N,) of that real clip
    real_distance: NDArray[np.float64]  # (M,) of each real clip to the nearest of another drive
    limit: float  # below it, a clip counts as a copy

    @property
    def is_copy(self) -> NDArray[np.bool_]:
        """(N,) which generated clips are copies."""
        return self.distance < self.limit

    @property
    def ratio(self) -> float:
        """Median distance of generated clips over that of real ones: far below 1 = the training set is repeated."""
        middle = float(np.median(self.real_distance))
        return float(np.median(self.distance)) / middle if middle > 0 else float("inf")


def nearest_real(generated_ND: Features, real_MD: Features, drives: Sequence[str]) -> NearestReal:
    """Holds generated clips against real ones, beside real clips against those of other drives.

    The limit is `COPY_FACTOR` times the distance that 1 % of the real clips fall below: two drives
    through one town may look alike, but hardly ever twice as much alike as the most alike ones.

    Args:
        generated_ND: Features of the generated clips.
        real_MD: Features of the real clips, of the same network.
        drives: (M,) the drive of each real clip; clips of one drive are no neighbours of each other.

    Raises:
        ValueError: sizes that do not fit, no clips, or fewer than two drives.
    """
    if generated_ND.ndim != 2 or real_MD.ndim != 2 or generated_ND.shape[1] != real_MD.shape[1]:
        raise ValueError(f"features of {generated_ND.shape} and {real_MD.shape}; expected (N, D) and (M, D)")
    if len(drives) != len(real_MD) or len(generated_ND) == 0:
        raise ValueError(f"{len(drives)} drives for {len(real_MD)} real clips and {len(generated_ND)} generated ones")
    drive_ids = np.unique(np.asarray(drives), return_inverse=True)[1]
    if drive_ids.size == 0 or drive_ids.max() < 1:
        raise ValueError("real clips of one drive; at least two drives tell how near different drives come")
    distance, index = _nearest(generated_ND, real_MD)
    real_distance, _ = _nearest(real_MD, real_MD, drive_ids)
    limit = COPY_FACTOR * float(np.quantile(real_distance, _HARDLY_EVER))
    return NearestReal(distance=distance, index=index, real_distance=real_distance, limit=limit)


def _nearest(
    from_ND: Features, to_MD: Features, drive_ids: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance and position of the nearest of `to_MD`; with drive ids of both (N = M), of another drive."""
    distances, positions = [], []
    for start in range(0, len(from_ND), _BLOCK):
        block = from_ND[start : start + _BLOCK].astype(np.float64)
        # Differences, not the expanded square: copies have to come out as 0.
        squares = np.stack([np.square(to_MD - row).sum(axis=1) for row in block])
        if drive_ids is not None:
            squares[drive_ids[start : start + _BLOCK, None] == drive_ids[None]] = np.inf
        positions.append(squares.argmin(axis=1))
        distances.append(np.sqrt(squares.min(axis=1)))
    return np.concatenate(distances), np.concatenate(positions)
