"""The one door for frames: uint8 passes, floats in [0, 1] are rounded to 8 bits, everything else is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_uint8(frames: Any, name: str = "frames") -> NDArray[np.uint8]:
    """Frames (..., H, W, 3) as uint8.

    Args:
        frames: uint8, or floats in [0, 1], which are rounded, never truncated; arrays or CPU tensors.
        name: For messages.

    Raises:
        ValueError: NaN, values outside [0, 1] (floats in 0..255 or -1..1), another type or shape.
    """
    array = np.asarray(frames)
    if array.ndim < 3 or array.shape[-1] != 3:
        raise ValueError(f"{name}: shape {array.shape}; expected (..., height, width, 3), RGB last")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name}: type {array.dtype}; expected uint8, or floats in [0, 1]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite pixels; find where they arise, a score of them would mean nothing")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low < 0 or high > 1:
        raise ValueError(
            f"{name}: floats between {low:g} and {high:g}; expected [0, 1]. "
            "Pictures in 0..255 belong in uint8, pictures in -1..1 become (x + 1) / 2"
        )
    return np.asarray(np.rint(array * 255.0), dtype=np.uint8)
