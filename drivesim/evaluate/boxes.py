"""Whether designed pictures show cars where their boxes are: error inside boxes against shuffled boxes.

Legend: H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.core.wording import number_of

_EDGE_BLUR_PX = 1.5  # edges count as the same when they are about this near


@dataclass(kw_only=True, slots=True)
class BoxErrors:
    """Mean absolute differences of a picture from its reference, in grey levels of 255."""

    inside: float  # pixels, inside the boxes
    outside: float  # pixels, elsewhere
    inside_edges: float  # strength of edges, whatever the colour, inside the boxes
    outside_edges: float  # strength of edges, elsewhere


@dataclass(kw_only=True, slots=True)
class BoxObedience:
    """Own boxes against shuffled boxes, averaged over scenes; gains are positive when boxes are obeyed."""

    num_scenes: int
    own: BoxErrors  # of pictures designed from the scene's own boxes
    shuffled: BoxErrors  # of pictures designed from another scene's boxes
    inside_gain: float  # mean over scenes of shuffled.inside - own.inside
    inside_gain_error: float  # standard error of it
    outside_gain: float  # the same outside, where boxes should matter little
    outside_gain_error: float
    inside_edges_gain: float  # the same for edges
    inside_edges_gain_error: float


def box_mask(boxes: Boxes2D, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W), True inside any box."""
    mask = np.zeros(size_hw, dtype=bool)
    for left, top, right, bottom in boxes.xyxy_px:
        mask[int(np.floor(top)) : int(np.ceil(bottom)), int(np.floor(left)) : int(np.ceil(right))] = True
    return mask


def box_errors(designed_HWC: NDArray[np.uint8], reference_HWC: NDArray[np.uint8], boxes: Boxes2D) -> BoxErrors:
    """The differences of a designed picture from the real one that its boxes were taken from.

    Raises:
        ValueError: pictures of different sizes, or boxes that cover nothing or everything.
    """
    if designed_HWC.shape != reference_HWC.shape:
        raise ValueError(f"designed picture {designed_HWC.shape}, reference {reference_HWC.shape}: sizes differ")
    mask = box_mask(boxes, (designed_HWC.shape[0], designed_HWC.shape[1]))
    if not mask.any() or mask.all():
        raise ValueError("the boxes cover none or all of the picture; inside and outside cannot be compared")
    pixels = np.abs(designed_HWC.astype(np.float64) - reference_HWC).mean(axis=-1)
    edges = np.abs(_edges(designed_HWC) - _edges(reference_HWC))
    return BoxErrors(
        inside=float(pixels[mask].mean()),
        outside=float(pixels[~mask].mean()),
        inside_edges=float(edges[mask].mean()),
        outside_edges=float(edges[~mask].mean()),
    )


def _edges(picture_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    grey = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY).astype(np.float64)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1)) / 4
    return np.asarray(cv2.GaussianBlur(strength, (0, 0), _EDGE_BLUR_PX))


class BoxObedienceMeter:
    """Collects scenes one by one; keeps eight numbers a scene."""

    def __init__(self) -> None:
        self._own: list[BoxErrors] = []
        self._shuffled: list[BoxErrors] = []

    def update(
        self,
        *,
        designed_HWC: NDArray[np.uint8],
        from_shuffled_HWC: NDArray[np.uint8],
        reference_HWC: NDArray[np.uint8],
        boxes: Boxes2D,
    ) -> None:
        """Adds a scene: two designed pictures, the real one, and the real one's boxes.

        Args:
            designed_HWC: Designed from `boxes`.
            from_shuffled_HWC: Designed with the same noise from another scene's boxes.
            reference_HWC: The real picture that `boxes` were taken from.
            boxes: In pixels of these pictures.
        """
        own = box_errors(designed_HWC, reference_HWC, boxes)
        shuffled = box_errors(from_shuffled_HWC, reference_HWC, boxes)
        self._own.append(own)
        self._shuffled.append(shuffled)

    def compute(self) -> BoxObedience:
        """The averages.

        Raises:
            ValueError: fewer than two scenes, which have no standard error.
        """
        if len(self._own) < 2:
            raise ValueError(f"{number_of(len(self._own), 'scene')}; box obedience needs at least 2")
        inside = _gain(self._own, self._shuffled, "inside")
        outside = _gain(self._own, self._shuffled, "outside")
        edges = _gain(self._own, self._shuffled, "inside_edges")
        return BoxObedience(
            num_scenes=len(self._own),
            own=_mean(self._own),
            shuffled=_mean(self._shuffled),
            inside_gain=inside[0],
            inside_gain_error=inside[1],
            outside_gain=outside[0],
            outside_gain_error=outside[1],
            inside_edges_gain=edges[0],
            inside_edges_gain_error=edges[1],
        )


def _mean(errors: list[BoxErrors]) -> BoxErrors:
    names = ("inside", "outside", "inside_edges", "outside_edges")
    return BoxErrors(**{name: float(np.mean([getattr(error, name) for error in errors])) for name in names})


def _gain(own: list[BoxErrors], shuffled: list[BoxErrors], name: str) -> tuple[float, float]:
    """Mean over scenes of shuffled - own, and its standard error."""
    gains = np.array([getattr(s, name) - getattr(o, name) for o, s in zip(own, shuffled, strict=True)])
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
