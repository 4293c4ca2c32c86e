"""How true decoded videos are to the real ones that their latents came from, in time above all.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.frechet_metric import FrechetDistance


@dataclass(kw_only=True, slots=True)
class Reconstruction:
    """Errors of decoded videos; 0 everywhere = the real ones."""

    num_clips: int
    clip_distance: float  # Fréchet distance of decoded clips from the real ones
    change_error: float  # grey levels of 255: how far frame-to-frame changes are from the real changes, pixel by pixel
    error: float  # grey levels of 255, frame by frame


def clip_errors(real_THWC: NDArray[np.uint8], decoded_THWC: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean absolute errors of a clip in grey levels: of what changes from frame to frame, and of its frames.

    Both clips have one shape and two frames at least. A change error of 0 says that they flicker alike.
    """
    error_THWC = decoded_THWC.astype(np.float32) - real_THWC
    # (decoded - real) changes by what the changes differ: |(x' - x) - (y' - y)| = |(x' - y') - (x - y)|
    return float(np.abs(np.diff(error_THWC, axis=0)).mean()), float(np.abs(error_THWC).mean())


class ReconstructionMeter:
    """Collects one decoder's videos, clip by clip; keeps sums alone.

    A picture that is wrong in the same way in every frame has an error and no change error. What flickers has both, and
    a clip distance that one frame alone would not show.
    """

    def __init__(self, extractor: Extractor) -> None:
        """Takes a network of clips; its name says what `clip_distance` may be called."""
        self._distance = FrechetDistance(extractor)
        self._errors = np.zeros(2)  # sum over clips of the means
        self._num_clips = 0

    def update(self, real_THWC: NDArray[np.uint8], decoded_THWC: NDArray[np.uint8]) -> None:
        """Adds one clip.

        Raises:
            ValueError: clips of different shapes, or of a single frame.
        """
        if real_THWC.shape != decoded_THWC.shape or len(real_THWC) < 2:
            raise ValueError(
                f"real clip {real_THWC.shape}, decoded clip {decoded_THWC.shape}; "
                "expected equal shapes, 2 frames at least"
            )
        self._distance.update(real_THWC[None], real=True)
        self._distance.update(decoded_THWC[None], real=False)
        self._errors += clip_errors(real_THWC, decoded_THWC)
        self._num_clips += 1

    def compute(self) -> Reconstruction:
        """Means over all clips.

        Raises:
            ValueError: fewer than two clips.
        """
        distance = float(self._distance.compute())
        change_error, error = self._errors / self._num_clips
        return Reconstruction(
            num_clips=self._num_clips, clip_distance=distance, change_error=float(change_error), error=float(error)
        )
