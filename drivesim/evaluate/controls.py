"""Clips that a score must be able to tell from real driving: frozen, shuffled, noisy ones; and real video's floor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from drivesim.core.seeds import numpy_generator

NOISE_LEVELS = 15.0  # standard deviation of the noisy control, in grey levels of 255


class Variant(str, Enum):
    """What is done to a clip before an extractor sees it."""

    PLAIN = "plain"  # nothing
    FROZEN = "frozen"
    SHUFFLED = "shuffled"
    NOISY = "noisy"

    @property
    def is_random(self) -> bool:
        """Whether a generator takes part, keyed by the video's name."""
        return self in (Variant.SHUFFLED, Variant.NOISY)


@dataclass(kw_only=True, slots=True)
class ControlsConfig:
    """Which control rows stand beside each score; all come from the one pass over the real videos."""

    frozen: bool = True  # each real clip's first frame, repeated
    shuffled: bool = True  # each clip's frames in another order, of both sides
    noisy: bool = True  # each real clip with noise on it
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


def noisy_clip(clip_THWC: NDArray[np.uint8], *key: int | str) -> NDArray[np.uint8]:
    """The clip with normal noise of `NOISE_LEVELS` on every value, fixed by `key`: right motion, worse pictures."""
    noise = numpy_generator("noisy control", *key).standard_normal(clip_THWC.shape, dtype=np.float32)
    return np.clip(np.rint(clip_THWC + NOISE_LEVELS * noise), 0, 255).astype(np.uint8)


def varied_clip(clip_THWC: NDArray[np.uint8], variant: Variant, *key: int | str) -> NDArray[np.uint8]:
    """The clip as `variant` says; `key` fixes what is random in it."""
    if variant is Variant.FROZEN:
        return frozen_clip(clip_THWC)
    if variant is Variant.SHUFFLED:
        return shuffled_clip(clip_THWC, *key)
    if variant is Variant.NOISY:
        return noisy_clip(clip_THWC, *key)
    return clip_THWC
