"""Which detected boxes are which wanted boxes, picture by picture, and kinds of objects by size and distance.

Legend: N found, M wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.evaluate.detector import Detections
from drivesim.evaluate.overlaps import overlap_matrix

Array = NDArray[np.float64]

# Upper ends; the last kind has none.
SIZES: dict[str, float] = {"small": 1 / 10, "medium": 1 / 4, "large": np.inf}  # of the box, as a share of the picture
DISTANCES: dict[str, float] = {"near": 15.0, "middle": 30.0, "far": np.inf}  # metres
UNKNOWN_KIND = -1
SMALLEST = 1 / 32  # height of a box, as a share of the picture's, below which it may be found or not


@dataclass(kw_only=True, slots=True)
class MatchedPicture:
    """What was wanted in one picture and what was found; boxes that may be found or not have no part in it."""

    found_class: NDArray[np.int64]  # (N,) strongest first
    found_score: Array  # (N,)
    found_overlap: Array  # (N,) with the wanted box that it is; 0 = invented
    found_size: NDArray[np.int64]  # (N,) position in SIZES
    found_distance: NDArray[np.int64]  # (N,) position in DISTANCES, by the detector's guess
    wanted_class: NDArray[np.int64]  # (M,)
    wanted_score: Array  # (M,) of the found box that it is; 0 = omitted
    wanted_size: NDArray[np.int64]  # (M,)
    wanted_distance: NDArray[np.int64]  # (M,) UNKNOWN_KIND where nobody said how far it is


def match_picture(
    wanted: Boxes2D, detections: Detections, size_hw: tuple[int, int], min_overlap: float = 0.5
) -> MatchedPicture:
    """Gives each found box, strongest first, the wanted box of its class that it lies on best and that is still free.

    Args:
        wanted: In pixels of the picture.
        detections: Of the picture.
        size_hw: Of the picture.
        min_overlap: Intersection over union from which on two boxes are one.
    """
    height_px = wanted.xyxy_px[:, 3] - wanted.xyxy_px[:, 1]
    is_asked = height_px >= SMALLEST * size_hw[0]
    found = detections.boxes
    overlaps = overlap_matrix(found.xyxy_px, wanted.xyxy_px) * (found.class_ids[:, None] == wanted.class_ids[None])
    mine = np.full(len(found), -1)
    free = np.ones(len(wanted), dtype=bool)
    for index in range(len(found)):
        # Boxes that are asked for come first: one that may be found or not never takes a detection from them.
        for among in (free & is_asked, free & ~is_asked):
            candidates = np.where(among, overlaps[index], 0.0)
            if len(candidates) and candidates.max() >= min_overlap:
                mine[index] = int(candidates.argmax())
                free[mine[index]] = False
                break
    is_mine = mine >= 0
    counts = ~is_mine
    counts[is_mine] = is_asked[mine[is_mine]]
    wanted_score = np.zeros(len(wanted))
    wanted_score[mine[is_mine]] = detections.scores[is_mine]
    overlap = np.where(is_mine, overlaps[np.arange(len(found)), mine] if len(wanted) else 0.0, 0.0)
    return MatchedPicture(
        found_class=found.class_ids[counts],
        found_score=detections.scores[counts],
        found_overlap=overlap[counts],
        found_size=size_kinds(found, size_hw)[counts],
        found_distance=distance_kinds(found)[counts],
        wanted_class=wanted.class_ids[is_asked],
        wanted_score=wanted_score[is_asked],
        wanted_size=size_kinds(wanted, size_hw)[is_asked],
        wanted_distance=distance_kinds(wanted)[is_asked],
    )


def size_kinds(boxes: Boxes2D, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """(N,) positions in SIZES: by the root of the area over the picture's height."""
    sides = boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2]
    return _kinds(np.sqrt(sides.prod(axis=1)) / size_hw[0], list(SIZES.values()))


def distance_kinds(boxes: Boxes2D) -> NDArray[np.int64]:
    """(N,) positions in DISTANCES; UNKNOWN_KIND where the depth is nan."""
    kinds = _kinds(boxes.depth_m, list(DISTANCES.values()))
    return np.where(np.isnan(boxes.depth_m), UNKNOWN_KIND, kinds)


def _kinds(values: Array, ends: list[float]) -> NDArray[np.int64]:
    return np.searchsorted(np.array(ends[:-1]), values, side="right").astype(np.int64)
