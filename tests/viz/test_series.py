"""Measurements with intervals, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import load_picture
from drivesim.viz.series import Point, SeriesPanel, draw_series


def panel(**more: object) -> SeriesPanel:
    series = {"a": [Point(x=1, mean=2, low=1, high=4), Point(x=2, mean=3)], "b": [Point(x=1, mean=2.5)]}
    return SeriesPanel(**({"title": "distance", "x_label": "steps", "series": series} | more))  # type: ignore[arg-type]


def test_every_series_has_its_own_ink_and_intervals_add_to_it(tmp_path: Path) -> None:
    draw_series([panel(), panel(levels={"floor": 2.2})], tmp_path / "two.png")
    picture = load_picture(tmp_path / "two.png")
    assert picture.shape[1] > 1.5 * picture.shape[0]  # side by side
    for ink in ((0x1F, 0x6F, 0x8B), (0xC2, 0x57, 0x2B)):
        assert (picture == np.array(ink)).all(axis=-1).sum() > 10, "a series is missing"
    bare = panel(series={"a": [Point(x=1, mean=2), Point(x=2, mean=3)], "b": [Point(x=1, mean=2.5)]})
    draw_series([bare, bare], tmp_path / "bare.png")
    inked = [(load_picture(tmp_path / name) < 250).any(axis=-1).sum() for name in ("two.png", "bare.png")]
    assert inked[0] > inked[1]


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 panels"):
        draw_series([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="panel distance: no point"):
        draw_series([panel(series={"a": []})], tmp_path / "x.png")
