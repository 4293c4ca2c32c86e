"""Which way a car drives, from its front camera's video alone: how far the far field slides sideways.

Legend: T frames, h x w pixels of a grey strip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.picture import resize_area
from drivesim.evaluate.videos import Frame

_HEIGHT_PX = 64  # pictures are brought to this height first
_MAX_GROWTH_PX = 6  # by which the two halves of the far field may part from one frame to the next, each
_SLIDE_COST = 0.016  # of the two halves' correlation, a pixel: of places that look alike, the near one counts


class EgoTurn(str, Enum):
    """What the ego car does over a clip."""

    LEFT = "left"
    STRAIGHT = "straight"
    RIGHT = "right"


@dataclass(kw_only=True, slots=True)
class EgoMotionConfig:
    """The camera, and what counts as a turn."""

    horizontal_fov_deg: float = 64.0  # of the pictures
    rows: tuple[float, float] = (0.31, 0.56)  # of the far field, from the top, shares of the height; horizon at 0.5
    fps: float = 4.0  # of the frames that it was tried on; nearer ones damp it
    max_turn_deg: float = 13.0  # from frame to frame; what turns faster is not found
    scale: float = 0.85  # degrees turned a degree found: houses at a corner are not infinitely far (toytown)
    turn_deg: float = 40.0  # from here on a clip is a turn, not straight

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        if not 0 < self.horizontal_fov_deg < 180:
            raise ValueError(f"a field of view of {self.horizontal_fov_deg} degrees; it must be between 0 and 180")
        if not 0 <= self.rows[0] < self.rows[1] <= 1:
            raise ValueError(f"rows {self.rows}; expected two shares of the height, the upper one first")
        if not 0 < self.max_turn_deg < self.horizontal_fov_deg / 2:
            raise ValueError(f"max_turn_deg is {self.max_turn_deg}; it must be below half the field of view")


def yaw_steps_deg(frames: Iterable[Frame], config: EgoMotionConfig | None = None) -> NDArray[np.float64]:
    """(T - 1,) degrees to the left that a camera turns from each frame to the next; right is negative.

    A turn slides everything far away by one distance, while driving on moves its left and right half
    apart. Each half of a strip around the horizon is compared with the next frame at all shifts, by
    its upright edges; slide and growth of the highest normalised correlation, the slide refined by a
    parabola, give the angle by the pinhole model.

    On 40 toytown drives of 20 s at 4 frames a second, 64 x 128: correlation with the true steps 0.95, of
    whole drives 0.97 (root mean square error 12 degrees), 37 of 40 on the same side of +-40 degrees.

    Args:
        frames: uint8 RGB (H, W, 3) each, of one size, of a camera that looks ahead.
        config: The camera; None = toytown's.
    """
    config = config or EgoMotionConfig()
    steps = []
    before: NDArray[np.float32] | None = None
    for frame in frames:
        edges_hw = _upright_edges(frame, config)
        if before is not None:
            focal_px = edges_hw.shape[1] / 2 / np.tan(np.radians(config.horizontal_fov_deg) / 2)
            max_shift = max(1, round(focal_px * np.tan(np.radians(config.max_turn_deg))))
            slide_px = _slide_px(before, edges_hw, max_shift)  # to the right in a left turn
            steps.append(config.scale * np.degrees(np.arctan(slide_px / focal_px)))
        before = edges_hw
    return np.array(steps, dtype=np.float64)


def ego_turn(steps_deg: NDArray[np.float64], config: EgoMotionConfig | None = None) -> EgoTurn:
    """Left, straight or right, by the sum of the yaw steps."""
    config = config or EgoMotionConfig()
    total = float(steps_deg.sum())
    if abs(total) < config.turn_deg:
        return EgoTurn.STRAIGHT
    return EgoTurn.LEFT if total > 0 else EgoTurn.RIGHT


def _upright_edges(frame_HWC: Frame, config: EgoMotionConfig) -> NDArray[np.float32]:
    """(h, w) change of grey level to the right, in the far field's rows."""
    height, width = frame_HWC.shape[:2]
    small = resize_area(frame_HWC, (_HEIGHT_PX, max(1, round(width * _HEIGHT_PX / height))))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    top, bottom = (round(share * _HEIGHT_PX) for share in config.rows)
    return np.asarray(cv2.Sobel(grey[top:bottom], cv2.CV_32F, 1, 0), dtype=np.float32)


def _slide_px(before_hw: NDArray[np.float32], now_hw: NDArray[np.float32], max_shift: int) -> float:
    """Pixels to the right by which a strip slides, growth left out; 0 where it has no edges."""
    middle = before_hw.shape[1] // 2
    left = _correlation(before_hw, now_hw, (max_shift, middle), max_shift)
    right = _correlation(before_hw, now_hw, (middle, before_hw.shape[1] - max_shift), max_shift)
    if left is None or right is None:
        return 0.0
    shifts = np.arange(-max_shift, max_shift + 1)
    sums = np.full((_MAX_GROWTH_PX + 1, len(shifts)), -2.0)
    # The left half moves by slide - growth, the right one by slide + growth.
    for growth in range(min(_MAX_GROWTH_PX, max_shift) + 1):
        inner = slice(growth, len(shifts) - growth)
        sums[growth, inner] = left[: len(shifts) - 2 * growth] + right[2 * growth :]
    score = sums.max(axis=0) - _SLIDE_COST * np.abs(shifts)
    best = int(score.argmax())
    if not 0 < best < len(score) - 1:
        return float(shifts[best])
    before, here, after = (float(value) for value in score[best - 1 : best + 2])
    bend = before - 2 * here + after
    return float(shifts[best]) + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def _correlation(
    before_hw: NDArray[np.float32], now_hw: NDArray[np.float32], columns: tuple[int, int], max_shift: int
) -> NDArray[np.float64] | None:
    """(2 max_shift + 1,) normalised correlation of some columns with the next strip at each shift; None = no edges."""
    template = before_hw[:, columns[0] : columns[1]]
    searched = now_hw[:, columns[0] - max_shift : columns[1] + max_shift]
    if not template.any() or not searched.any():
        return None
    return np.asarray(cv2.matchTemplate(searched, template, cv2.TM_CCORR_NORMED)[0], dtype=np.float64)
