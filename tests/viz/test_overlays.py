"""Boxes are drawn where they are, in their colours, over a copy."""

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.viz.overlays import CLASS_COLOURS, draw_boxes


def _boxes(*rows: tuple[float, float, float, float], classes: list[ObjectClass], depths: list[float]) -> Boxes2D:
    return Boxes2D(
        xyxy_px=np.array(rows, dtype=np.float64),
        class_ids=np.array([c.id for c in classes]),
        depth_m=np.array(depths),
        visibility=np.ones(len(rows)),
    )


GREY = np.full((64, 128, 3), 90, np.uint8)


@pytest.mark.parametrize("scale", [1, 4])
def test_the_outline_runs_along_the_box_and_the_inside_stays(scale: int) -> None:
    boxes = _boxes((20, 16, 60, 48), classes=[ObjectClass.TRUCK], depths=[9.0])
    drawn = draw_boxes(GREY, boxes, scale, names=False)
    assert drawn.shape == (64 * scale, 128 * scale, 3)
    colour = CLASS_COLOURS[ObjectClass.TRUCK]
    for y, x in ((16, 40), (32, 20)):
        assert tuple(drawn[y * scale, x * scale]) == colour
    for y, x in ((48, 40), (32, 60)):
        assert tuple(drawn[y * scale - 1 if x == 40 else y * scale, x * scale - 1]) == colour
    assert (drawn[32 * scale, 40 * scale] == 90).all()
    assert (drawn[: 16 * scale] == 90).all()
    assert (drawn[:, 60 * scale :] == 90).all()


def test_the_frame_itself_is_left_as_it_is() -> None:
    frame = GREY.copy()
    draw_boxes(frame, _boxes((0, 0, 128, 64), classes=[ObjectClass.BUS], depths=[5.0]))
    assert np.array_equal(frame, GREY)


def test_the_near_box_is_on_top_whatever_the_order() -> None:
    far, near = (20.0, 10.0, 60.0, 40.0), (20.0, 10.0, 80.0, 50.0)
    for rows, classes, depths in (
        ((far, near), [ObjectClass.CAR, ObjectClass.BICYCLE], [30.0, 5.0]),
        ((near, far), [ObjectClass.BICYCLE, ObjectClass.CAR], [5.0, 30.0]),
    ):
        drawn = draw_boxes(GREY, _boxes(*rows, classes=classes, depths=depths), names=False)
        assert tuple(drawn[30, 20]) == CLASS_COLOURS[ObjectClass.BICYCLE]


def test_names_stand_at_wide_boxes_and_not_at_narrow_ones() -> None:
    wide = _boxes((40, 30, 100, 60), classes=[ObjectClass.CAR], depths=[9.0])
    assert (draw_boxes(GREY, wide)[18:29, 40:60] != 90).any()
    narrow = _boxes((40, 30, 46, 36), classes=[ObjectClass.PEDESTRIAN], depths=[9.0])
    assert np.array_equal(draw_boxes(GREY, narrow), draw_boxes(GREY, narrow, names=False))


def test_no_boxes_change_nothing_and_a_wrong_scale_is_refused() -> None:
    assert np.array_equal(draw_boxes(GREY, Boxes2D.empty()), GREY)
    with pytest.raises(ValueError, match="scale is 0"):
        draw_boxes(GREY, Boxes2D.empty(), scale=0)
