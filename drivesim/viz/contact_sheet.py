"""A contact sheet: all futures of a run on one page, a row each, time from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drivesim.core.picture import resize_area, save_png
from drivesim.core.video import probe, read_at

_FONT_PX = 14
_GAP_PX = 4
_HEAD_PX = 24
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)


def contact_sheet(
    videos: Sequence[str | Path],
    out_png: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_columns: int = 8,
    cell_width_px: int = 192,
) -> None:
    """Writes the sheet: `num_columns` moments, from the first frame to the last one that all videos have.

    Args:
        videos: One a row, all of one shape of picture.
        out_png: Where the sheet goes.
        labels: One a row; None = the files' names without suffix.
        num_columns: Moments.
        cell_width_px: Width of one picture on the sheet.

    Raises:
        ValueError: no videos, labels that do not match, or a file that is no video.
    """
    if not videos or num_columns < 1:
        raise ValueError(f"a contact sheet of {len(videos)} videos and {num_columns} columns; 1 or more are needed")
    labels = [Path(video).stem for video in videos] if labels is None else labels
    if len(labels) != len(videos):
        raise ValueError(f"{len(labels)} labels for {len(videos)} videos")
    infos = [probe(video) for video in videos]
    times_s = np.linspace(0.0, min(info.timestamps_s[-1] for info in infos), num_columns)
    height, width = infos[0].size_hw
    cell_hw = (max(1, round(cell_width_px * height / width)), cell_width_px)

    font = ImageFont.load_default(_FONT_PX)
    label_px = _GAP_PX * 2 + max(round(font.getlength(label)) for label in labels)
    page_w = label_px + num_columns * (cell_hw[1] + _GAP_PX)
    page = Image.new("RGB", (page_w, _HEAD_PX + len(videos) * (cell_hw[0] + _GAP_PX)), _PAPER)
    pen = ImageDraw.Draw(page)
    lefts = [label_px + column * (cell_hw[1] + _GAP_PX) for column in range(num_columns)]
    for left, time_s in zip(lefts, times_s, strict=True):
        pen.text((left + cell_hw[1] / 2, _HEAD_PX / 2), f"{time_s:.1f} s", fill=_INK, font=font, anchor="mm")
    for row, (video, label) in enumerate(zip(videos, labels, strict=True)):
        top = _HEAD_PX + row * (cell_hw[0] + _GAP_PX)
        pen.text((_GAP_PX, top + cell_hw[0] / 2), label, fill=_INK, font=font, anchor="lm")
        for left, frame in zip(lefts, resize_area(read_at(video, times_s), cell_hw), strict=True):
            page.paste(Image.fromarray(frame), (left, top))
    save_png(out_png, np.array(page))
