"""Boxes drawn over a frame, readable down to the smallest pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from drivesim.core.boxes import CLASSES, Boxes2D, ObjectClass
from drivesim.core.picture import resize_area

# Apart from each other, and from asphalt, grass and sky (RGB).
CLASS_COLOURS: dict[ObjectClass, tuple[int, int, int]] = {
    ObjectClass.CAR: (255, 200, 40),
    ObjectClass.TRUCK: (70, 170, 255),
    ObjectClass.BUS: (200, 110, 255),
    ObjectClass.MOTORCYCLE: (255, 90, 180),
    ObjectClass.BICYCLE: (60, 235, 150),
    ObjectClass.PEDESTRIAN: (255, 75, 60),
}

_FONT_PX = 11
_INK = (20, 20, 20)


def draw_boxes(
    frame_HWC: NDArray[np.uint8], boxes: Boxes2D, scale: int = 1, *, names: bool = True
) -> NDArray[np.uint8]:
    """A copy of a frame with its boxes in their class colours, the near ones on top.

    Args:
        frame_HWC: uint8 RGB (H, W, 3).
        boxes: In pixels of `frame_HWC`.
        scale: The picture grows by this first, so that lines and names stay thin beside small boxes.
        names: Whether to write the class at each box that is wide enough for it.

    Returns:
        uint8 RGB (H * scale, W * scale, 3).
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}; must be 1 or more")
    height, width = frame_HWC.shape[0] * scale, frame_HWC.shape[1] * scale
    picture = Image.fromarray(np.ascontiguousarray(resize_area(frame_HWC, (height, width))))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_PX)
    far_to_near = np.argsort(-np.nan_to_num(boxes.depth_m, nan=0.0), kind="stable")
    for index in far_to_near:
        left, top, right, bottom = (float(value) for value in boxes.xyxy_px[index] * scale)
        object_class = CLASSES[int(boxes.class_ids[index])]
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(corners, outline=CLASS_COLOURS[object_class], width=2 if height >= 256 else 1)
        if names and right - left >= pen.textlength(object_class.value, font=font):
            _write_name(pen, font, object_class, (left, top))
    return np.array(picture)


def _write_name(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    object_class: ObjectClass,
    corner: tuple[float, float],
) -> None:
    """The class name on its colour above a box, or inside it at the picture's upper edge."""
    left = corner[0]
    top = corner[1] - _FONT_PX - 2
    if top < 0:
        top = corner[1]
    area = pen.textbbox((left + 1, top), object_class.value, font=font)
    pen.rectangle((left, top, area[2] + 1, max(area[3] + 1, top + _FONT_PX + 2)), fill=CLASS_COLOURS[object_class])
    pen.text((left + 1, top), object_class.value, fill=_INK, font=font)
