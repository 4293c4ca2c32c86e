"""What the detector should answer for labelled pictures, cell by cell.

Legend: B pictures, K classes, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.boxes import CLASSES, Boxes2D
from drivesim.train.detector_pictures import DetectorSample

SEEN = 0.35  # of a box from which on it must be found
MIN_HEIGHT_PX = 4.0  # of the input; smaller boxes may be found or not
MIN_WIDTH_PX = 2.0
_SPREAD = 0.12  # deviation of a heatmap's peak, as a share of the box's side
_MIN_SPREAD_CELLS = 0.35
_SECOND = 0.95  # highest value beside the peak
_CORE = 0.4  # of the peak, from which on a cell answers for the box's borders

Array = NDArray[np.float32]


@dataclass(kw_only=True, slots=True)
class DetectorTargets:
    """Of B pictures."""

    objects_BKhw: Tensor  # 0..1, 1 = a box of the class is centred in the cell
    counts_BKhw: Tensor  # 0 where an object may be found or not
    borders_B4hw: Tensor  # left, top, right, bottom in pixels of the box that the cell answers for
    depth_Bhw: Tensor  # metres
    weight_Bhw: Tensor  # 0 = the cell answers for no box; sums to 1 a box
    night_B: Tensor  # 0 or 1


def collate(samples: Sequence[DetectorSample], stride_px: int) -> tuple[Tensor, DetectorTargets]:
    """Pictures (B, 3, H, W) and their targets."""
    pictures = torch.from_numpy(np.stack([sample.picture_CHW for sample in samples]))
    grid_hw = (pictures.shape[-2] // stride_px, pictures.shape[-1] // stride_px)
    found = [targets_of(sample.boxes, grid_hw, stride_px) for sample in samples]
    objects, counts, borders, depth, weight = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    night = torch.tensor([float(sample.is_night) for sample in samples])
    return pictures, DetectorTargets(
        objects_BKhw=objects,
        counts_BKhw=counts,
        borders_B4hw=borders,
        depth_Bhw=depth,
        weight_Bhw=weight,
        night_B=night,
    )


def targets_of(boxes: Boxes2D, grid_hw: tuple[int, int], stride_px: int) -> tuple[Array, Array, Array, Array, Array]:
    """Of one picture: objects (K, h, w), counts (K, h, w), borders (4, h, w), depth (h, w), weight (h, w).

    Far boxes are written first, so that where two meet the near one is answered for.
    """
    height, width = grid_hw
    objects = np.zeros((len(CLASSES), height, width), dtype=np.float32)
    counts = np.ones_like(objects)
    borders = np.zeros((4, height, width), dtype=np.float32)
    depth, weight = np.zeros((2, height, width), dtype=np.float32)
    y, x = ((np.arange(count) + 0.5) * stride_px for count in grid_hw)
    for index in np.argsort(-np.nan_to_num(boxes.depth_m), kind="stable"):
        left, top, right, bottom = boxes.xyxy_px[index]
        class_id = boxes.class_ids[index]
        if not must_be_found(boxes, int(index)):
            inside = ((x >= left) & (x < right))[None] & ((y >= top) & (y < bottom))[:, None]
            counts[class_id][inside] = 0.0
            continue
        peak = np.exp(-_squares(y, top, bottom, stride_px)[:, None] - _squares(x, left, right, stride_px)[None])
        # The cell of the centre is the peak itself, wherever in the cell the centre lies.
        row = min(int((top + bottom) / 2 / stride_px), height - 1)
        column = min(int((left + right) / 2 / stride_px), width - 1)
        peak = (peak / peak[row, column]).clip(max=_SECOND).astype(np.float32)
        peak[row, column] = 1.0
        objects[class_id] = np.maximum(objects[class_id], peak)
        core = peak >= _CORE
        borders[:, core] = np.array([left, top, right, bottom], dtype=np.float32)[:, None]
        depth[core] = boxes.depth_m[index]
        weight[core] = peak[core] / peak[core].sum()
    counts[objects > _CORE] = 1.0
    return objects, counts, borders, depth, weight


def must_be_found(boxes: Boxes2D, index: int) -> bool:
    """Whether a box is seen and large enough; of the others nothing is asked."""
    left, top, right, bottom = boxes.xyxy_px[index]
    return bool(boxes.visibility[index] >= SEEN and bottom - top >= MIN_HEIGHT_PX and right - left >= MIN_WIDTH_PX)


def _squares(places_px: NDArray[np.float64], low: float, high: float, stride_px: int) -> NDArray[np.float64]:
    """Half the squared distances from a side's middle, in deviations of its peak."""
    spread = max(_SPREAD * (high - low), _MIN_SPREAD_CELLS * stride_px)
    return np.asarray(0.5 * np.square((places_px - (low + high) / 2) / spread))
