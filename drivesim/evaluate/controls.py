"""Clips that a score must be able to tell from real driving: frozen and shuffled ones, and real video's own floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.seeds import numpy_generator


@dataclass(kw_only=True, slots=True)
class ControlsConfig:
    """Which control rows stand beside each score; all come from the one pass over the real videos."""

    frozen: bool = True  # each real clip's first frame, repeated
    shuffled: bool = True  # each real clip's frames in another order
    floor: bool = True  # one half of the real videos against the other


def frozen_clip(clip_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first frame repeated: right pictures, no motion."""
    return np.repeat(clip_THWC[:1], len(clip_THWC), axis=0)


def shuffled_clip(clip_THWC: NDArray[np.uint8], *key: int | str) -> NDArray[np.uint8]:
    """The frames in an order that `key` fixes, never the natural one: right pictures, wrong motion.

    Raises:
        ValueError: a single frame, which has one order only.
    """
    if len(clip_THWC) < 2:
        raise ValueError("a clip of one frame cannot be shuffled; switch controls.shuffled off")
    rng = numpy_generator("shuffled control", *key)
    natural = np.arange(len(clip_THWC))
    order = rng.permutation(natural)
    while (order == natural).all():
        order = rng.permutation(natural)
    return np.asarray(clip_THWC[order])
