"""Curves over time with the band that they should stay in, a panel a measure, as one picture.

Legend: T moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drivesim.viz.panels import draw_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = (4.0, 2.2)
_INK, _BAND = "#1f6f8b", "#b4bec6"

Line = NDArray[np.float64]  # (T,)


@dataclass(kw_only=True, slots=True)
class CurvePanel:
    """One measure over time."""

    title: str
    times_s: Line  # (T,)
    values: Line  # (T,) nan = a gap
    unit: str = ""  # of the values
    band_times_s: Line | None = None  # None = there is no band
    band_low: Line | None = None  # lower edge at those times
    band_high: Line | None = None  # upper edge

    def validate(self) -> None:
        """Raises ValueError when the arrays do not belong together."""
        pairs = [(self.times_s, self.values)]
        if self.band_times_s is not None:
            if self.band_low is None or self.band_high is None:
                raise ValueError(f"panel {self.title}: a band needs times, low and high")
            pairs += [(self.band_times_s, self.band_low), (self.band_times_s, self.band_high)]
        for times_s, values in pairs:
            if len(times_s) != len(values):
                raise ValueError(f"panel {self.title}: {len(values)} values for {len(times_s)} times")


def draw_curves(panels: Sequence[CurvePanel], out_png: str | Path, *, num_columns: int = 3, caption: str = "") -> None:
    """Writes all panels as one PNG.

    Args:
        panels: In reading order.
        out_png: Where the picture goes.
        num_columns: Panels side by side.
        caption: One line above all panels, such as what the band is.

    Raises:
        ValueError: no panels, or arrays that do not belong together.
    """
    for panel in panels:
        panel.validate()
    draw_panels(panels, _draw, out_png, num_columns=num_columns, panel_inches=_PANEL_INCHES, caption=caption)


def _draw(axis: Axes, panel: CurvePanel) -> None:
    if panel.band_times_s is not None and panel.band_low is not None and panel.band_high is not None:
        axis.fill_between(panel.band_times_s, panel.band_low, panel.band_high, color=_BAND, alpha=0.5, linewidth=0)
    axis.plot(panel.times_s, panel.values, color=_INK, linewidth=1.5)
    axis.set_title(panel.title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.set_xlabel("time (s)", fontsize=8)
    axis.set_ylabel(panel.unit, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
