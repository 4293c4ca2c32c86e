"""How much boxes lie on one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def overlap_matrix(first_N4: Array, second_M4: Array) -> Array:
    """(N, M) intersection over union of boxes left, top, right, bottom; 0 = apart."""
    corner = np.maximum(first_N4[:, None, :2], second_M4[None, :, :2])
    sides = np.clip(np.minimum(first_N4[:, None, 2:], second_M4[None, :, 2:]) - corner, 0, None)
    shared = sides.prod(axis=-1)
    together = areas(first_N4)[:, None] + areas(second_M4)[None] - shared
    return np.asarray(np.divide(shared, together, out=np.zeros_like(shared), where=together > 0))


def areas(boxes_N4: Array) -> Array:
    """(N,) of boxes left, top, right, bottom."""
    return np.asarray((boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(axis=-1))
