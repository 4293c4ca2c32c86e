"""Pictures that show cars where the boxes are, and pictures that do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.evaluate.boxes import BoxObedienceMeter, box_errors, box_mask

SIZE_HW = (32, 64)


def boxes_at(left: int, top: int) -> Boxes2D:
    return Boxes2D(
        xyxy_px=np.array([[left, top, left + 12, top + 8]], dtype=np.float64),
        class_ids=np.zeros(1, dtype=np.int64),
        depth_m=np.full(1, np.nan),
        visibility=np.full(1, np.nan),
    )


def scene(boxes: Boxes2D, seed: int, car: int = 220) -> NDArray[np.uint8]:
    """A noisy grey road with a bright car in each box."""
    picture = np.random.default_rng(seed).integers(90, 110, size=(*SIZE_HW, 3), dtype=np.uint8)
    picture[box_mask(boxes, SIZE_HW)] = car
    return picture


def measure(obeys: bool) -> object:
    meter = BoxObedienceMeter()
    for index in range(12):
        own, other = boxes_at(4 + 3 * index, 4), boxes_at(40 - 3 * index, 20)
        meter.update(
            designed_HWC=scene(own if obeys else other, 100 + index, car=190),
            from_shuffled_HWC=scene(other, 200 + index, car=190),
            reference_HWC=scene(own, index),
            boxes=own,
        )
    return meter.compute()


def test_obeyed_boxes_lower_the_error_inside_more_than_outside() -> None:
    found = measure(obeys=True)
    assert found.inside_gain > 5 * found.inside_gain_error  # type: ignore[attr-defined]
    assert found.inside_gain > found.outside_gain  # type: ignore[attr-defined]
    assert found.inside_edges_gain > 5 * found.inside_edges_gain_error  # type: ignore[attr-defined]
    assert found.num_scenes == 12  # type: ignore[attr-defined]


def test_ignored_boxes_gain_nothing() -> None:
    found = measure(obeys=False)
    assert abs(found.inside_gain) < 1.0  # type: ignore[attr-defined]


def test_errors_are_counted_on_the_right_side() -> None:
    boxes = boxes_at(10, 10)
    reference = np.zeros((*SIZE_HW, 3), dtype=np.uint8)
    designed = reference.copy()
    designed[box_mask(boxes, SIZE_HW)] = 30
    errors = box_errors(designed, reference, boxes)
    assert (errors.inside, errors.outside) == (30.0, 0.0)


def test_what_cannot_be_compared_is_refused() -> None:
    picture = scene(boxes_at(0, 0), 0)
    with pytest.raises(ValueError, match="sizes differ"):
        box_errors(picture, picture[:16], boxes_at(0, 0))
    with pytest.raises(ValueError, match="none or all"):
        box_errors(picture, picture, Boxes2D.empty())
    with pytest.raises(ValueError, match="at least 2"):
        BoxObedienceMeter().compute()
