"""The shipped detector: boxes with class, score and distance, and day or night, from pictures of any size.

Legend: T frames, H x W pixels, h x w cells, K classes, N objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from drivesim.core.boxes import Boxes2D
from drivesim.core.devices import exact_float32
from drivesim.core.files import sha256_file
from drivesim.core.picture import crop_to_aspect, resize_area
from drivesim.evaluate.detector_network import INPUT_HW, STRIDE_PX, DetectorMaps, DetectorNetwork
from drivesim.evaluate.frames import as_uint8
from drivesim.evaluate.overlaps import overlap_matrix

WEIGHTS = Path(__file__).parent / "weights" / "toytown_detector.safetensors"
_PICTURES_AT_ONCE = 16
_MOST = 100  # objects a picture

Array = NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class DetectorConfig:
    """What counts as found."""

    score: float = 0.3  # from here on an object counts as there; average precision looks at all of them
    lowest_score: float = 0.05  # objects below are not kept at all
    same_object: float = 0.55  # of intersection over union: of two boxes the stronger one stays, whatever their classes

    def __post_init__(self) -> None:
        """Refuses what finds nothing or everything."""
        for name in ("score", "lowest_score", "same_object"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"detector.{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.lowest_score > self.score:
            raise ValueError(f"detector.lowest_score {self.lowest_score} is above detector.score {self.score}")


@dataclass(kw_only=True, slots=True)
class Detections:
    """What was found in one picture, strongest first."""

    boxes: Boxes2D  # in pixels of that picture; depth_m is the network's guess, visibility is not known
    scores: Array  # (N,) 0..1
    night: float  # probability of night

    def confident(self, score: float) -> Boxes2D:
        """The boxes that count as there."""
        return self.boxes.select(self.scores >= score)


@dataclass(kw_only=True, slots=True)
class Detector:
    """The network with its file's digest, which goes on every card."""

    config: DetectorConfig = field(default_factory=DetectorConfig)
    network: DetectorNetwork
    fingerprint: str  # sha256 of the weights

    @classmethod
    def shipped(cls, config: DetectorConfig | None = None) -> Detector:
        """The one that was trained on toytown; see `evaluation/toytown-detector`."""
        config = config or DetectorConfig()
        return cls(config=config, network=DetectorNetwork.load(WEIGHTS), fingerprint=sha256_file(WEIGHTS))

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, frames_THWC: NDArray[np.uint8]) -> list[Detections]:
        """The objects of each frame.

        Args:
            frames_THWC: RGB; of another shape than 1 x 2, the middle part is looked at.

        Raises:
            ValueError: no 8-bit RGB pictures.
        """
        frames = as_uint8(frames_THWC)
        if frames.ndim != 4:
            raise ValueError(f"the detector takes frames (T, H, W, 3), these are {frames.shape}")
        part, (top, left) = crop_to_aspect(frames, INPUT_HW[1] / INPUT_HW[0])
        found: list[Detections] = []
        for start in range(0, len(part), _PICTURES_AT_ONCE):
            pictures = resize_area(part[start : start + _PICTURES_AT_ONCE], INPUT_HW)
            inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            found += read_maps(self.network(inputs), self.config)
        for picture in found:
            picture.boxes = picture.boxes.scaled(INPUT_HW, (part.shape[1], part.shape[2]))
            picture.boxes.xyxy_px += [left, top, left, top]
        return found


def read_maps(maps: DetectorMaps, config: DetectorConfig) -> list[Detections]:
    """The objects in pixels of INPUT_HW: cells that are the strongest of their neighbours, doubles left out."""
    scores_BKhw = maps.objects_BKhw.sigmoid()
    is_peak = scores_BKhw == functional.max_pool2d(scores_BKhw, 3, stride=1, padding=1)
    scores_BKhw = torch.where(is_peak, scores_BKhw, torch.zeros(()))
    num_cells = scores_BKhw.shape[-2] * scores_BKhw.shape[-1]
    found = []
    for index, scores_Khw in enumerate(scores_BKhw):
        strongest = scores_Khw.flatten().topk(min(_MOST, scores_Khw.numel()))
        keep = strongest.values >= config.lowest_score
        scores, places = strongest.values[keep].double().numpy(), strongest.indices[keep]
        cells = (places % num_cells).numpy()
        rows, columns = np.divmod(cells, scores_Khw.shape[-1])
        sides = maps.sides_B4hw[index].flatten(1)[:, cells].T.double().numpy()
        centre = (np.stack([columns, rows], axis=1) + 0.5) * STRIDE_PX
        corners = np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1)
        boxes = Boxes2D(
            xyxy_px=np.clip(corners, 0, [INPUT_HW[1], INPUT_HW[0], INPUT_HW[1], INPUT_HW[0]]),
            class_ids=(places // num_cells).numpy(),
            depth_m=maps.log_depth_Bhw[index].flatten()[cells].exp().double().numpy(),
            visibility=np.full(len(cells), np.nan),
        )
        stay = _without_doubles(boxes, config.same_object)
        night = float(maps.night_B[index].sigmoid())
        found.append(Detections(boxes=boxes.select(stay), scores=scores[stay], night=night))
    return found


def _without_doubles(boxes: Boxes2D, limit: float) -> NDArray[np.int64]:
    """Indices of the boxes, strongest first, without those that lie on a stronger one."""
    overlaps = overlap_matrix(boxes.xyxy_px, boxes.xyxy_px)
    stay: list[int] = []
    for index in range(len(boxes)):
        if not stay or overlaps[index, stay].max() < limit:
            stay.append(index)
    return np.array(stay, dtype=np.int64)
