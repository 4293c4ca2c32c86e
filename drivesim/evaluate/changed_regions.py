"""Objects that one of two paired videos has and the other lacks: places that differ, alone, for several frames.

Legend: H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.evaluate.videos import Frame

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Mask = NDArray[np.bool_]  # (H, W)

MIN_DIFFERENCE = 16.0  # grey levels; coding noise stays below
MIN_AREA_SHARE = 1.5e-3  # of the picture; smaller places are noise or too far to tell
MAX_AREA_SHARE = 0.35  # of the picture; where more differs, it is not one object
MIN_FRAMES = 3  # frames in which a place must differ
MAX_GAP_FRAMES = 3  # frames after which a place that went out of sight is another one
ONE_PLACE_SHARE = 0.8  # of the squared difference; of a blurred or brightened picture's, no place has so much
_NOISE_FACTOR = 10.0  # times the median difference, where that is more than MIN_DIFFERENCE
_REACH = 0.5  # share of its size by which a place may move or grow until the next frame
_OVERLAP = 0.2  # of intersection over union between a place and a box that are called one


@dataclass(kw_only=True, slots=True)
class Region:
    """A place that differs, over the frames in which it was seen."""

    first_frame: int
    last_frame: int
    first_box: Box  # in the first frame
    box: Box  # in the last frame
    areas_px: list[int] = field(default_factory=list)  # a frame each
    edges: float = 0.0  # strength of edges along its outline, scored video minus reference, summed over frames

    @property
    def area_px(self) -> float:
        """Mean over its frames."""
        return float(np.mean(self.areas_px))

    @property
    def is_added(self) -> bool:
        """Whether the scored video has the object: an object has edges along its outline, the ground behind has not."""
        return self.edges > 0


class RegionTracker:
    """Takes pairs of frames one by one; holds the regions found so far."""

    def __init__(self) -> None:
        self._open: list[Region] = []
        self._closed: list[Region] = []
        self._frame = -1
        self.is_one_place: list[bool] = []  # by frame: nearly all of the difference lies in one place

    def update(self, frame_HWC: Frame, reference_HWC: Frame) -> None:
        """Adds a pair of uint8 RGB frames (H, W, 3).

        Raises:
            ValueError: pictures of different sizes.
        """
        if frame_HWC.shape != reference_HWC.shape:
            raise ValueError(f"frame of {frame_HWC.shape}, reference of {reference_HWC.shape}: sizes differ")
        self._frame += 1
        mask = _differs(frame_HWC, reference_HWC)
        found = _places(mask) if mask.mean() <= MAX_AREA_SHARE else []
        self.is_one_place.append(bool(found) and _share_in(found[0][1], frame_HWC, reference_HWC) >= ONE_PLACE_SHARE)
        if found:
            differs = cv2.absdiff(frame_HWC, reference_HWC).max(axis=-1) > MIN_DIFFERENCE
            edges = _edges(frame_HWC) - _edges(reference_HWC)
            for box, place in found:
                self._extend(box, int(differs[place].sum()), float(edges[_outline(place)].mean()))
        is_open = [region.last_frame >= self._frame - MAX_GAP_FRAMES for region in self._open]
        ended = [region for region, still in zip(self._open, is_open, strict=True) if not still]
        self._closed += [region for region in ended if len(region.areas_px) >= MIN_FRAMES]
        self._open = [region for region, still in zip(self._open, is_open, strict=True) if still]

    def compute(self) -> list[Region]:
        """The regions that lasted for `MIN_FRAMES`, by their first frame."""
        lasting = self._closed + [region for region in self._open if len(region.areas_px) >= MIN_FRAMES]
        return sorted(lasting, key=lambda region: region.first_frame)

    def _extend(self, box: Box, area_px: int, edges: float) -> None:
        """Adds a place to the region that it goes on, or opens one."""
        before = [region for region in self._open if _touch(_grown(region.box), _grown(box))]
        if not before:
            region = Region(first_frame=self._frame, last_frame=self._frame, first_box=box, box=box)
            self._open.append(region)
        else:
            region = max(before, key=lambda region: intersection_over_union(region.box, box))
        if region.last_frame == self._frame and region.areas_px:  # a second part of one object
            region.areas_px[-1] += area_px
            region.box = _around(region.box, box)
        else:
            region.areas_px.append(area_px)
            region.box = box
        region.last_frame = self._frame
        region.edges += edges


def _differs(frame_HWC: Frame, reference_HWC: Frame) -> Mask:
    """(H, W) where the strongest channel differs beyond noise; single pixels left out."""
    # Averaged over 3 x 3, as video codecs keep colours for every other pixel only.
    difference = cv2.absdiff(cv2.blur(frame_HWC, (3, 3)), cv2.blur(reference_HWC, (3, 3))).max(axis=-1)
    limit = max(MIN_DIFFERENCE, _NOISE_FACTOR * float(np.median(difference)))
    mask = (difference > limit).astype(np.uint8)
    square = np.ones((3, 3), dtype=np.uint8)
    return np.asarray(cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, square), cv2.MORPH_OPEN, square) > 0)


def _places(mask: Mask) -> list[tuple[Box, Mask]]:
    """Connected parts that are large enough, the largest first."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    places = []
    for label in sorted(range(1, count), key=lambda label: -int(statistics[label, cv2.CC_STAT_AREA])):
        left, top, width, height, area = (int(value) for value in statistics[label])
        if area >= MIN_AREA_SHARE * mask.size:
            places.append(((float(left), float(top), float(left + width), float(top + height)), labels == label))
    return places


def _share_in(place: Mask, frame_HWC: Frame, reference_HWC: Frame) -> float:
    """The share of all squared difference that lies in a place, 0..1."""
    squared_HW = cv2.absdiff(frame_HWC, reference_HWC).astype(np.float64).sum(axis=-1) ** 2
    return float(squared_HW[place].sum() / squared_HW.sum())


def _outline(place: Mask) -> Mask:
    """The pixels along a place's border."""
    square = np.ones((3, 3), dtype=np.uint8)
    return np.asarray(cv2.morphologyEx(place.astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0)


def _edges(frame_HWC: Frame) -> NDArray[np.float32]:
    """(H, W) strength of edges, the strongest channel's."""
    channels = frame_HWC.astype(np.float32)
    strength = np.hypot(cv2.Sobel(channels, cv2.CV_32F, 1, 0), cv2.Sobel(channels, cv2.CV_32F, 0, 1))
    return np.asarray(strength.max(axis=-1))


def intersection_over_union(a: Box, b: Box) -> float:
    """Of two boxes; 0 = apart."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def box_at(place: Box, boxes: Boxes2D) -> int | None:
    """The box that lies best on a place; None = none does."""
    overlaps = [intersection_over_union(place, tuple(box)) for box in boxes.xyxy_px.tolist()]
    best = int(np.argmax(overlaps)) if overlaps else 0
    return best if overlaps and overlaps[best] >= _OVERLAP else None


def _grown(box: Box) -> Box:
    left, top, right, bottom = box
    x, y = _REACH * (right - left), _REACH * (bottom - top)
    return left - x, top - y, right + x, bottom + y


def _touch(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
