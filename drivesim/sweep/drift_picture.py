"""The picture of an evaluation's curves; here, because it takes both the evaluation and the drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivesim.core.wording import number_of
from drivesim.evaluate.drift import Drift
from drivesim.viz.curves import CurvePanel, draw_curves


def draw_drift(drift: Drift, out_png: Path) -> None:
    """The curves of an evaluation with real video's bands, as one picture."""
    panels = []
    for curve in drift.curves:
        band = curve.band
        panel = CurvePanel(
            title=curve.measure.full_name,
            unit=curve.measure.unit,
            times_s=np.arange(len(curve.generated)) / drift.fps,
            values=curve.generated,
        )
        if band is not None:
            panel.band_times_s, panel.band_low, panel.band_high = (
                np.arange(len(band.low)) / drift.fps,
                band.low,
                band.high,
            )
        panels.append(panel)
    if drift.frechet is not None:
        panel = CurvePanel(
            title="Fréchet distance in sliding windows",
            unit="distance",
            times_s=drift.frechet.times_s,
            values=drift.frechet.distance,
        )
        if (floor := drift.frechet_floor) is not None:
            panel.band_times_s, panel.band_low, panel.band_high = floor.times_s, 0 * floor.distance, floor.distance
        panels.append(panel)
    draw_curves(panels, out_png, caption=_caption(drift))


def _caption(drift: Drift) -> str:
    """What line and band are."""
    said = [f"line: mean of {number_of(drift.num_generated, 'generated video')}"]
    bands = [curve.band for curve in drift.curves if curve.band is not None]
    if bands:
        said.append(f"grey: where {100 * bands[0].share:.0f} % of real videos stay over their whole length")
    if drift.frechet_floor is not None:
        said.append("grey of the distance: up to that of real video against itself")
    return "; ".join(said)
