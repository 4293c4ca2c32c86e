"""Measurements with their intervals along an axis, a panel a measure, a line a series, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drivesim.viz.panels import draw_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = (6.4, 3.0)
_SOFT = "#5b6670"
_INKS = ("#1f6f8b", "#c2572b", "#4d7c2f", "#7a4a9e", "#b0892a", "#2f4b7c", "#a23b72", "#5b6670")
_MARKS = "osD^vP*X"
_DASHES = ("--", ":", "-.", (0, (8, 3)))


@dataclass(kw_only=True, slots=True)
class Point:
    """One measurement."""

    x: float
    mean: float
    low: float | None = None  # ends of the interval; None = not known
    high: float | None = None


@dataclass(kw_only=True, slots=True)
class SeriesPanel:
    """One measure along one axis."""

    title: str
    x_label: str
    series: Mapping[str, Sequence[Point]]
    levels: Mapping[str, float] = field(default_factory=dict)  # dashed lines with names, such as controls
    x_ticks: Sequence[tuple[float, str]] = ()  # names in place of numbers; () = numbers


def draw_series(panels: Sequence[SeriesPanel], out_png: str | Path, *, num_columns: int = 2) -> None:
    """Writes all panels as one PNG.

    Args:
        panels: In reading order.
        out_png: Where the picture goes.
        num_columns: Panels side by side.

    Raises:
        ValueError: no panels, or one without a point.
    """
    for panel in panels:
        if not any(panel.series.values()):
            raise ValueError(f"panel {panel.title}: no point to draw")
    draw_panels(panels, _draw, out_png, num_columns=num_columns, panel_inches=_PANEL_INCHES)


def _draw(axis: Axes, panel: SeriesPanel) -> None:
    names = [name for name, points in panel.series.items() if points]
    xs = sorted({point.x for name in names for point in panel.series[name]})
    # Series at the same place stand side by side, so that no interval hides another.
    step = min(np.diff(xs), default=1.0) * 0.04
    for index, name in enumerate(names):
        points = sorted(panel.series[name], key=lambda point: point.x)
        x = [point.x + (index - (len(names) - 1) / 2) * step for point in points]
        ends = [[p.mean - (p.mean if p.low is None else p.low) for p in points],
                [(p.mean if p.high is None else p.high) - p.mean for p in points]]  # fmt: skip
        axis.errorbar(
            x, [point.mean for point in points], yerr=np.maximum(ends, 0.0), label=name, capsize=3,
            color=_INKS[index % len(_INKS)], marker=_MARKS[index % len(_MARKS)], markersize=4, linewidth=1.2,
        )  # fmt: skip
    for index, (name, level) in enumerate(panel.levels.items()):
        axis.axhline(level, color=_SOFT, linewidth=0.9, linestyle=_DASHES[index % len(_DASHES)], label=name)
    if panel.x_ticks:
        axis.set_xticks([x for x, _ in panel.x_ticks], [name for _, name in panel.x_ticks])
        axis.margins(x=0.2)
    elif len(xs) <= 8:
        axis.set_xticks(xs, [f"{x:g}" for x in xs])
    axis.set_title(panel.title, fontsize=10, loc="left")
    axis.set_xlabel(panel.x_label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len(names) > 1 or panel.levels:
        axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
