"""Panels side by side as one picture file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from drivesim.core.picture import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = TypeVar("Panel")


def draw_panels(
    panels: Sequence[Panel],
    draw: Callable[[Axes, Panel], None],
    out_png: str | Path,
    *,
    num_columns: int,
    panel_inches: tuple[float, float],
    caption: str = "",
) -> None:
    """Writes all panels as one PNG, in reading order.

    Args:
        panels: What `draw` understands.
        draw: Draws one panel.
        out_png: Where the picture goes.
        num_columns: Panels side by side.
        panel_inches: Width and height of a panel.
        caption: One line above all panels.

    Raises:
        ValueError: no panels, or no column.
    """
    if not panels or num_columns < 1:
        raise ValueError(f"{len(panels)} panels in {num_columns} columns; at least 1 of each is needed")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: takes half a second to import
    from matplotlib.figure import Figure

    num_columns = min(num_columns, len(panels))
    num_rows = -(-len(panels) // num_columns)
    size = (panel_inches[0] * num_columns, panel_inches[1] * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    if caption:
        figure.suptitle(caption, fontsize=9, x=0.01, ha="left")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        draw(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_png(out_png, np.array(canvas.buffer_rgba())[..., :3])
