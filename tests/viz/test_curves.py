"""Curves are drawn in their panels, over the band that they should stay in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import load_picture
from drivesim.viz.curves import CurvePanel, draw_curves

TIMES_S = np.linspace(0.0, 10.0, 41)


def panel(**changes: object) -> CurvePanel:
    return CurvePanel(**({"title": "light", "times_s": TIMES_S, "values": 0.1 * TIMES_S} | changes))  # type: ignore[arg-type]


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:  # type: ignore[type-arg]
    return float((np.abs(picture.astype(int) - colour).max(axis=-1) < 12).mean())


def test_a_panel_shows_its_line_and_its_band(tmp_path: Path) -> None:
    draw_curves([panel()], tmp_path / "line.png")
    band = {"band_times_s": TIMES_S[:20], "band_low": np.full(20, -1.0), "band_high": np.full(20, 1.0)}
    draw_curves([panel(**band)], tmp_path / "band.png")
    line, banded = load_picture(tmp_path / "line.png"), load_picture(tmp_path / "band.png")
    assert share_of(line, (0x1F, 0x6F, 0x8B)) > 0.001
    assert share_of(line, (217, 222, 226)) < 0.01  # the band's colour at half strength on white
    assert share_of(banded, (217, 222, 226)) > 0.1


def test_panels_stand_side_by_side(tmp_path: Path) -> None:
    draw_curves([panel()] * 4, tmp_path / "four.png", num_columns=3)
    draw_curves([panel()], tmp_path / "one.png", num_columns=3)
    four, one = load_picture(tmp_path / "four.png"), load_picture(tmp_path / "one.png")
    assert four.shape[0] == 2 * one.shape[0]
    assert four.shape[1] == 3 * one.shape[1]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 panels"):
        draw_curves([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="panel light: 3 values for 41 times"):
        draw_curves([panel(values=np.zeros(3))], tmp_path / "x.png")
    with pytest.raises(ValueError, match="a band needs"):
        draw_curves([panel(band_times_s=TIMES_S)], tmp_path / "x.png")
