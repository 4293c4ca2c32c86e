"""Clips: what is counted, and parts that do not belong together."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.core.camera import Camera
from drivesim.core.clip import Clip


def car() -> Boxes2D:
    return Boxes2D(
        xyxy_px=np.array([[1.0, 1, 4, 4]]),
        class_ids=np.array([ObjectClass.CAR.id]),
        depth_m=np.array([9.0]),
        visibility=np.array([1.0]),
    )


def clip() -> Clip:
    return Clip(
        name="drive/0",
        drive="drive",
        frames_THWC=np.zeros((2, 8, 16, 3), dtype=np.uint8),
        fps=4.0,
        timestamps_us=np.array([0, 250_000]),
        boxes=(car(), Boxes2D.empty()),
        camera=Camera.front((8, 16)),
    )


def test_cars_are_counted_frame_by_frame() -> None:
    counted = clip()
    counted.validate()
    cars = counted.num_cars()
    assert cars is not None and cars.tolist() == [1, 0]


def test_unknown_boxes_are_not_zero_cars() -> None:
    unknown = clip()
    unknown.boxes = None
    assert unknown.num_cars() is None


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("frames_THWC", np.zeros((2, 8, 16, 3), dtype=np.float32), "uint8"),
        ("frames_THWC", np.zeros((2, 8, 16, 4), dtype=np.uint8), "uint8"),
        ("timestamps_us", np.array([0]), "timestamps_us"),
        ("boxes", (Boxes2D.empty(),), "boxes"),
        ("ego_path", np.zeros((3, 3)), "ego_path"),
        ("camera", Camera.front((16, 32)), "camera"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(field: str, value: object, word: str) -> None:
    broken = clip()
    setattr(broken, field, value)
    with pytest.raises(ValueError, match=word):
        broken.validate()
