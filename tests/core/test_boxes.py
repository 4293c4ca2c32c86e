"""Boxes: classes, selections, resizing, and containers that do not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.core.boxes import CLASSES, Boxes2D, Boxes3D, ObjectClass, class_from_nuscenes


def three_boxes() -> Boxes2D:
    return Boxes2D(
        xyxy_px=np.array([[0, 0, 10, 10], [20, 10, 40, 30], [5, 5, 6, 9.0]]),
        class_ids=np.array([ObjectClass.CAR.id, ObjectClass.PEDESTRIAN.id, ObjectClass.BUS.id]),
        depth_m=np.array([3.0, 2.0, 1.0]),
        visibility=np.array([1.0, 0.5, np.nan]),
        track_ids=np.array(["a", "b", "c"]),
    )


def test_ids_and_classes_are_each_others_inverse() -> None:
    assert [c.id for c in CLASSES] == list(range(len(CLASSES)))
    assert CLASSES[ObjectClass.BUS.id] is ObjectClass.BUS


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("vehicle.car", ObjectClass.CAR),
        ("vehicle.bus.rigid", ObjectClass.BUS),
        ("vehicle.construction", ObjectClass.TRUCK),
        ("vehicle.emergency.ambulance", ObjectClass.TRUCK),
        ("human.pedestrian.construction_worker", ObjectClass.PEDESTRIAN),
        ("movable_object.barrier", None),
        ("vehicle.carriage", None),  # a prefix of letters is no prefix of names
    ],
)
def test_nuscenes_categories_become_ours(category: str, expected: ObjectClass | None) -> None:
    assert class_from_nuscenes(category) is expected


def test_selection_keeps_the_columns_together() -> None:
    picked = three_boxes().select(np.array([2, 0]))
    assert picked.track_ids.tolist() == ["c", "a"]
    assert picked.depth_m.tolist() == [1.0, 3.0]
    assert picked.xyxy_px[0].tolist() == [5, 5, 6, 9]


def test_scaling_follows_height_and_width_separately() -> None:
    boxes = three_boxes()
    scaled = boxes.scaled((10, 40), (20, 10))
    assert scaled.xyxy_px[1].tolist() == [5, 20, 10, 60]
    assert boxes.xyxy_px[1].tolist() == [20, 10, 40, 30], "the original has changed"


def test_cars_trucks_and_buses_count_as_cars() -> None:
    assert three_boxes().num_cars() == 2
    assert Boxes2D.empty().num_cars() == 0


@pytest.mark.parametrize(("field", "value"), [("size_m", np.ones((1, 3))), ("rotation_wxyz", np.ones((2, 3)))])
def test_arrays_of_other_lengths_are_refused(field: str, value: np.ndarray) -> None:
    boxes = Boxes3D(
        center_m=np.zeros((2, 3)),
        size_m=np.ones((2, 3)),
        rotation_wxyz=np.tile([1.0, 0, 0, 0], (2, 1)),
        class_ids=np.zeros(2, dtype=np.int64),
    )
    boxes.validate()
    setattr(boxes, field, value)
    with pytest.raises(ValueError, match=field):
        boxes.validate()


def test_a_flat_box_in_space_is_refused() -> None:
    boxes = Boxes3D(
        center_m=np.zeros((1, 3)),
        size_m=np.array([[1.0, 2.0, 0.0]]),
        rotation_wxyz=np.array([[1.0, 0, 0, 0]]),
        class_ids=np.zeros(1, dtype=np.int64),
    )
    with pytest.raises(ValueError, match="without volume"):
        boxes.validate()
