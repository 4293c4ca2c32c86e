"""Boxes around road users: in space (metres) and in the picture (pixels)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class ObjectClass(str, Enum):
    """Road users that drivesim draws and scores. The order fixes `class_ids`."""

    CAR = "car"
    TRUCK = "truck"
    BUS = "bus"
    MOTORCYCLE = "motorcycle"
    BICYCLE = "bicycle"
    PEDESTRIAN = "pedestrian"

    @property
    def id(self) -> int:
        """Position in the class list; the value stored in `class_ids`."""
        return CLASSES.index(self)


CLASSES: tuple[ObjectClass, ...] = tuple(ObjectClass)

# nuScenes category prefix -> our class; categories that match nothing are left out.
NUSCENES_CLASSES: dict[str, ObjectClass] = {
    "vehicle.car": ObjectClass.CAR,
    "vehicle.emergency.police": ObjectClass.CAR,
    "vehicle.emergency.ambulance": ObjectClass.TRUCK,
    "vehicle.truck": ObjectClass.TRUCK,
    "vehicle.trailer": ObjectClass.TRUCK,
    "vehicle.construction": ObjectClass.TRUCK,
    "vehicle.bus": ObjectClass.BUS,
    "vehicle.motorcycle": ObjectClass.MOTORCYCLE,
    "vehicle.bicycle": ObjectClass.BICYCLE,
    "human.pedestrian": ObjectClass.PEDESTRIAN,
}

# Boxes of a scene or picture that the models take at most (App. H.1 knows no limit; ours).
MAX_BOXES = 128

# A label that is not known, and the class of a box that only pads a batch.
UNKNOWN = -1

# What counts as a car in the label "number of cars".
COUNTED_AS_CARS = frozenset({ObjectClass.CAR, ObjectClass.TRUCK, ObjectClass.BUS})


def class_from_nuscenes(category: str) -> ObjectClass | None:
    """Our class of a nuScenes category name such as `vehicle.bus.rigid`; None = not drawn."""
    for prefix, object_class in NUSCENES_CLASSES.items():
        if category == prefix or category.startswith(prefix + "."):
            return object_class
    return None


def _empty_ids() -> NDArray[np.str_]:
    return np.zeros(0, dtype=np.str_)


@dataclass(kw_only=True, slots=True)
class Boxes3D:
    """N oriented boxes in one right-handed coordinate system, which the owner names.

    Sizes are nuScenes' (width, length, height); a box's own axes are x forward (length), y left
    (width), z up (height).
    """

    center_m: NDArray[np.float64]  # (N, 3)
    size_m: NDArray[np.float64]  # (N, 3) width, length, height
    rotation_wxyz: NDArray[np.float64]  # (N, 4) unit quaternion: box axes -> coordinate system
    class_ids: NDArray[np.int64]  # (N,) index into CLASSES
    track_ids: NDArray[np.str_] = field(default_factory=_empty_ids)  # (N,) stable over time
    visibility: NDArray[np.float64] | None = None  # (N,) share seen, 0..1; None = unknown

    def __len__(self) -> int:
        return len(self.class_ids)

    def validate(self) -> None:
        """Raises ValueError when the arrays do not belong together."""
        n = len(self.class_ids)
        for name, shape in (("center_m", (n, 3)), ("size_m", (n, 3)), ("rotation_wxyz", (n, 4))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Boxes3D.{name} is {getattr(self, name).shape}, expected {shape}")
        if n and (self.size_m <= 0).any():
            raise ValueError("Boxes3D.size_m has a box without volume")


@dataclass(kw_only=True, slots=True)
class Boxes2D:
    """N axis-aligned boxes in one picture, clipped to it; x right, y down, origin at the corner."""

    xyxy_px: NDArray[np.float64]  # (N, 4) left, top, right, bottom
    class_ids: NDArray[np.int64]  # (N,) index into CLASSES
    depth_m: NDArray[np.float64]  # (N,) distance along the optical axis; nan = unknown
    visibility: NDArray[np.float64]  # (N,) share seen, 0..1; nan = unknown
    track_ids: NDArray[np.str_] = field(default_factory=_empty_ids)  # (N,) or empty = unknown

    def __len__(self) -> int:
        return len(self.class_ids)

    @classmethod
    def empty(cls) -> Boxes2D:
        """No boxes at all."""
        return cls(
            xyxy_px=np.zeros((0, 4)),
            class_ids=np.zeros(0, dtype=np.int64),
            depth_m=np.zeros(0),
            visibility=np.zeros(0),
        )

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Boxes2D:
        """The boxes of a mask or of indices, in that order."""
        return Boxes2D(
            xyxy_px=self.xyxy_px[keep],
            class_ids=self.class_ids[keep],
            depth_m=self.depth_m[keep],
            visibility=self.visibility[keep],
            track_ids=self.track_ids[keep] if len(self.track_ids) else self.track_ids,
        )

    def scaled(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes2D:
        """The same boxes after the picture was resized (pixels)."""
        scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
        boxes = self.select(np.arange(len(self)))
        boxes.xyxy_px = self.xyxy_px * np.array([scale_x, scale_y, scale_x, scale_y])
        return boxes

    def num_cars(self) -> int:
        """Cars, trucks and buses among the boxes."""
        counted = [c.id for c in COUNTED_AS_CARS]
        return int(np.isin(self.class_ids, counted).sum())
