"""A clip: consecutive frames with all that is known about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D, Boxes3D
from drivesim.core.camera import Camera


@dataclass(kw_only=True, slots=True)
class Clip:
    """Consecutive frames at one rate. None = not known, never "none of them"."""

    name: str  # unique in its data set
    drive: str  # clips of one drive are not independent
    frames_THWC: NDArray[np.uint8]  # RGB
    fps: float
    timestamps_us: NDArray[np.int64]  # (T,)
    boxes: tuple[Boxes2D, ...] | None = None  # one a frame
    boxes_3d: tuple[Boxes3D, ...] | None = None  # one a frame, camera axes
    is_night: bool | None = None
    camera: Camera | None = None  # for pictures of this clip's size
    ego_path: NDArray[np.float64] | None = None  # (T, 3) x_m, y_m, yaw_rad in the first frame's ego system

    def __len__(self) -> int:
        return len(self.frames_THWC)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames_THWC.shape[1], self.frames_THWC.shape[2]

    def num_cars(self) -> NDArray[np.int64] | None:
        """(T,) cars, trucks and buses in each frame; None = unknown."""
        if self.boxes is None:
            return None
        return np.array([boxes.num_cars() for boxes in self.boxes], dtype=np.int64)

    def validate(self) -> None:
        """Raises ValueError when the parts do not belong together."""
        frames = self.frames_THWC
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"clip {self.name}: frames are {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3)")
        for name in ("timestamps_us", "boxes", "boxes_3d", "ego_path"):
            value = getattr(self, name)
            if value is not None and len(value) != len(frames):
                raise ValueError(f"clip {self.name}: {len(value)} {name} for {len(frames)} frames")
        if self.camera is not None and self.camera.size_hw != self.size_hw:
            raise ValueError(f"clip {self.name}: camera for {self.camera.size_hw}, frames are {self.size_hw}")
