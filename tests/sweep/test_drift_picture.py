"""The picture of drift says what its panels, their numbers and the band are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import load_picture
from drivesim.evaluate.curves import Measure
from drivesim.evaluate.drift import Drift, DriftCurve
from drivesim.evaluate.frechet_curve import FrechetCurve
from drivesim.evaluate.real_band import real_band
from drivesim.sweep import drift_picture
from drivesim.viz.curves import CurvePanel


def drift() -> Drift:
    rng = np.random.default_rng(0)
    band = real_band([np.cumsum(rng.normal(size=20)) for _ in range(30)], share=0.9, confidence=0.9)
    distances = FrechetCurve(times_s=np.arange(4.0), distance=np.ones(4), num_clips=[5] * 4, num_reference=5)
    return Drift(
        fps=4.0,
        num_generated=1,
        num_real=30,
        curves=[DriftCurve(measure=m, generated=rng.normal(size=30), band=band, leaves_s={}) for m in Measure],
        faults={},
        seams=None,
        real_seams=None,
        frechet=distances,
        frechet_floor=distances,
        warnings=[],
    )


def test_every_panel_has_a_unit_and_the_band_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[list[CurvePanel], str]] = []
    monkeypatch.setattr(drift_picture, "draw_curves", lambda panels, _, caption: seen.append((panels, caption)))
    found = drift()
    drift_picture.draw_drift(found, tmp_path / "drift.png")
    ((panels, caption),) = seen
    assert len(panels) == len(Measure) + 1 and all(panel.unit for panel in panels)
    assert panels[0].title == "sharpness: share of fine detail"
    assert caption.startswith("line: mean of 1 generated video; grey: where 90 % of real videos stay")
    assert "real video against itself" in caption


def test_the_whole_picture_can_be_drawn(tmp_path: Path) -> None:
    drift_picture.draw_drift(drift(), tmp_path / "drift.png")
    height, width, _ = load_picture(tmp_path / "drift.png").shape
    assert height > 600 and width > 1100
