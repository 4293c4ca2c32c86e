"""What is known about each cached frame besides its picture: boxes, day or night, number of cars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import MAX_BOXES, UNKNOWN, Boxes2D
from drivesim.core.clip import Clip
from drivesim.core.motion import motion_along
from drivesim.data.captions import Captions


@dataclass(kw_only=True, slots=True)
class Conditions:
    """Of one drive, T frames at the cache's rate; the N boxes of all frames lie in one array."""

    boxes_N4: NDArray[np.float32]  # left, top, right, bottom as shares of the picture, 0..1
    classes_N: NDArray[np.int64]  # index into CLASSES
    offsets: NDArray[np.int64]  # (T + 1,) frame t has boxes offsets[t] to offsets[t + 1], nearest first
    num_cars_T: NDArray[np.int64]  # -1 = unknown
    valid_T: NDArray[np.bool_]  # False = no picture at this time
    is_night: int  # 0 day, 1 night, -1 unknown
    has_boxes: bool  # False = unknown, which is not "none"
    captions: Captions | None = None  # None = nobody captioned it
    ego_path_T3: NDArray[np.float64] | None = None  # x_m, y_m, yaw_rad of the ego car; None = unknown

    def __len__(self) -> int:
        return len(self.valid_T)

    def at(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (T, N, 4) and classes (T, N) of some frames, padded with zeros and -1 to the largest count."""
        counts = self.offsets[frames + 1] - self.offsets[frames]
        most = int(counts.max(initial=0))
        boxes_TN4 = np.zeros((len(frames), most, 4), dtype=np.float32)
        classes_TN = np.full((len(frames), most), UNKNOWN, dtype=np.int64)
        for row, (frame, count) in enumerate(zip(frames, counts, strict=True)):
            start = self.offsets[frame]
            boxes_TN4[row, :count] = self.boxes_N4[start : start + count]
            classes_TN[row, :count] = self.classes_N[start : start + count]
        return boxes_TN4, classes_TN

    def motion_at(self, frames: NDArray[np.int64], gap_s: float) -> NDArray[np.float32]:
        """(T, 2) how the ego car came to each of some evenly spaced frames (`core.motion`); NaN = unknown.

        Unknown, too, where the frame before the first one lies in a gap.
        """
        if self.ego_path_T3 is None:
            return np.full((len(frames), 2), np.nan, dtype=np.float32)
        stride = int(frames[1] - frames[0]) if len(frames) > 1 else 1
        before = frames - stride
        place = np.maximum(before, 0)
        is_known = (before >= 0) & self.valid_T[place]
        before_T3 = np.where(is_known[:, None], self.ego_path_T3[place], np.nan)
        return motion_along(self.ego_path_T3[frames], before_T3, gap_s)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All fields as arrays, to be stored."""
        return {
            "boxes_N4": self.boxes_N4,
            "classes_N": self.classes_N,
            "offsets": self.offsets,
            "num_cars_T": self.num_cars_T,
            "valid_T": self.valid_T,
            "is_night": np.array([self.is_night], dtype=np.int64),
            "has_boxes": np.array([self.has_boxes]),
            **(self.captions.to_arrays() if self.captions is not None else {}),
            **({"ego_path_T3": self.ego_path_T3} if self.ego_path_T3 is not None else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Conditions:
        """The inverse of `to_arrays`."""
        return cls(
            boxes_N4=np.asarray(arrays["boxes_N4"], dtype=np.float32),
            classes_N=np.asarray(arrays["classes_N"], dtype=np.int64),
            offsets=np.asarray(arrays["offsets"], dtype=np.int64),
            num_cars_T=np.asarray(arrays["num_cars_T"], dtype=np.int64),
            valid_T=np.asarray(arrays["valid_T"], dtype=np.bool_),
            is_night=int(np.asarray(arrays["is_night"], dtype=np.int64)[0]),
            has_boxes=bool(np.asarray(arrays["has_boxes"], dtype=np.bool_)[0]),
            captions=Captions.from_arrays(arrays),
            ego_path_T3=np.asarray(arrays["ego_path_T3"], dtype=np.float64) if "ego_path_T3" in arrays else None,
        )


class ConditionsBuilder:
    """Collects the conditions of a drive from its clips, in any number of pieces."""

    def __init__(self, num_frames: int, is_night: bool | None, has_boxes: bool) -> None:
        self.is_night = UNKNOWN if is_night is None else int(is_night)
        self.has_boxes = has_boxes
        self.valid_T = np.zeros(num_frames, dtype=np.bool_)
        self.num_cars_T = np.full(num_frames, UNKNOWN, dtype=np.int64)
        self._boxes: list[NDArray[np.float32]] = [np.zeros((0, 4), dtype=np.float32)] * num_frames
        self._classes: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * num_frames

    def add(self, first: int, clip: Clip) -> None:
        """Takes the frames of a clip as frames `first`, `first` + 1, ..."""
        height, width = clip.size_hw
        size = np.array([width, height, width, height])
        self.valid_T[first : first + len(clip)] = True
        num_cars = clip.num_cars()
        if num_cars is not None:
            self.num_cars_T[first : first + len(clip)] = num_cars
        for frame, boxes in enumerate(clip.boxes or (), start=first):
            nearest = boxes.select(nearest_boxes(boxes))
            self._boxes[frame] = np.clip(nearest.xyxy_px / size, 0, 1).astype(np.float32)
            self._classes[frame] = nearest.class_ids

    def build(self) -> Conditions:
        """All that was added."""
        counts = [len(classes) for classes in self._classes]
        return Conditions(
            boxes_N4=np.concatenate([np.zeros((0, 4), dtype=np.float32), *self._boxes]),
            classes_N=np.concatenate([np.zeros(0, dtype=np.int64), *self._classes]),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            num_cars_T=self.num_cars_T,
            valid_T=self.valid_T,
            is_night=self.is_night,
            has_boxes=self.has_boxes,
        )


def nearest_boxes(boxes: Boxes2D) -> NDArray[np.int64]:
    """Indices of at most MAX_BOXES boxes, nearest first; where the depth is unknown, largest first."""
    sides = boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2]
    by_depth_then_size = np.lexsort((-sides.prod(axis=1), boxes.depth_m))
    return by_depth_then_size[:MAX_BOXES].astype(np.int64)
