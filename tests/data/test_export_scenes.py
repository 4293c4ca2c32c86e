"""Moments of drives as scene files: they ask for what their pictures show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.boxes import MAX_BOXES
from drivesim.core.picture import load_picture
from drivesim.core.scene import Scene
from drivesim.data import NuScenesConfig, NuScenesSource
from drivesim.data.export import ExportConfig
from drivesim.data.export_scenes import export_scenes, scene_of

SIZE_HW = (40, 80)


def source_of(tables) -> NuScenesSource:
    tables.write()
    config = NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_scenes=["lane-dark", "lane-day"])
    return NuScenesSource(config)


def config_of(every_s: float) -> ExportConfig:
    return ExportConfig(fps=5.0, size_hw=SIZE_HW, scenes_every_s=every_s)


def test_a_scene_holds_boxes_labels_and_the_picture_of_its_moment(tables, tmp_path: Path) -> None:
    source = source_of(tables)
    found = dict(export_scenes(source, config_of(0.4), tmp_path))
    written = [name for name, problem in found.items() if problem is None]
    assert written
    for name in written:
        drive, time_s = ("lane-dark" if "lane-dark" in name else "lane-day"), float(name.rsplit("_", 1)[1])
        clip = source.read(drive, start_s=time_s, num_frames=1, fps=5.0, size_hw=SIZE_HW)
        scene = Scene.load(tmp_path / name / "scene.yaml")
        assert clip.boxes is not None
        np.testing.assert_array_equal(load_picture(tmp_path / name / "real.png"), clip.frames_THWC[0])
        by_place = np.argsort(scene.boxes_2d.xyxy_px[:, 0])
        wanted = np.argsort(clip.boxes[0].xyxy_px[:, 0])
        np.testing.assert_allclose(scene.boxes_2d.xyxy_px[by_place], clip.boxes[0].xyxy_px[wanted], atol=1e-4)
        np.testing.assert_allclose(scene.boxes_2d.depth_m[by_place], clip.boxes[0].depth_m[wanted], atol=1e-4)
        assert scene.is_night == clip.is_night
        assert scene.count_cars() == clip.boxes[0].num_cars()
        assert len(scene.boxes_2d) <= MAX_BOXES


def test_the_same_export_again_writes_nothing_and_another_one_anew(tables, tmp_path: Path) -> None:
    source = source_of(tables)
    dict(export_scenes(source, config_of(0.4), tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/scene.yaml")}
    dict(export_scenes(source, config_of(0.4), tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/scene.yaml")} == before
    dict(export_scenes(source, config_of(100.0), tmp_path))
    assert len(list(tmp_path.glob("*/scene.yaml"))) == 2 < len(before)


def test_drives_without_boxes_are_refused(tables, tmp_path: Path) -> None:
    source = source_of(tables)
    clip = source.read("lane-day", start_s=0.0, num_frames=1, fps=5.0, size_hw=SIZE_HW)
    clip.boxes = None
    with pytest.raises(ValueError, match="nothing is known of its boxes"):
        scene_of(clip, "x")
    tables.rows["sample_annotation"] = []
    with pytest.raises(ValueError, match="v1.0-handmade has no boxes; leave export.scenes_every_s out"):
        dict(export_scenes(source_of(tables), config_of(0.4), tmp_path / "out"))
    with pytest.raises(ValueError, match="must be above 0"):
        config_of(0.0)
