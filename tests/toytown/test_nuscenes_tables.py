"""Tables: nuscenes-devkit reads them unchanged, and sees what toytown knows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import view_points

from drivesim.core.camera import Camera
from drivesim.data import NuScenesConfig, NuScenesSource
from drivesim.toytown import TownConfig, render, simulate, write_nuscenes

CONFIG = TownConfig(num_scenes=2, first_scene=6, duration_s=2.0, size_hw=(64, 128))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toytown")
    done: list[tuple[int, int]] = []
    write_nuscenes(CONFIG, folder, on_progress=lambda now, all_of_them: done.append((now, all_of_them)))
    assert done == [(1, 2), (2, 2)]
    return folder


@pytest.fixture(scope="module")
def tables(root: Path) -> NuScenes:
    return NuScenes(version="v1.0-toytown", dataroot=str(root), verbose=False)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_scenes_samples_and_sweeps_are_chained(tables: NuScenes) -> None:
    assert [scene["name"] for scene in tables.scene] == ["toytown-0006", "toytown-0007"]
    for scene in tables.scene:
        token, samples = scene["first_sample_token"], 0
        while token:
            sample = tables.get("sample", token)
            token, samples = sample["next"], samples + 1
        assert samples == scene["nbr_samples"] == 5  # 0.0, 0.5, 1.0, 1.5 s and the last frame
        token = tables.get("sample", scene["first_sample_token"])["data"]["CAM_FRONT"]
        times = []
        while token:
            row = tables.get("sample_data", token)
            assert (Path(tables.dataroot) / row["filename"]).is_file()
            assert row["filename"].startswith("samples" if row["is_key_frame"] else "sweeps")
            times.append(row["timestamp"])
            token = row["next"]
        assert len(times) == 24
        np.testing.assert_allclose(np.diff(times), 1e6 / 12, atol=1)
        assert scene["description"].split(",")[0] in ("day", "night")


def test_boxes_of_the_devkit_are_toytowns_at_every_frame(tables: NuScenes) -> None:
    episode = simulate(CONFIG, 6)
    token = tables.get("sample", tables.scene[0]["first_sample_token"])["data"]["CAM_FRONT"]
    for frame in range(len(episode)):
        row = tables.get("sample_data", token)
        found = {tables.get("sample_annotation", box.token)["instance_token"]: box for box in tables.get_boxes(token)}
        centres = np.array([box.center for box in found.values()])
        exact = episode.boxes[frame]
        x, y, yaw = episode.ego_path[frame]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        for centre in exact.center_m[np.hypot(*exact.center_m[:, :2].T) < 60]:
            place = turn @ centre[:2] + [x, y]
            # Between key frames the devkit interpolates along a straight line.
            limit = 1e-6 if row["is_key_frame"] else 0.6
            assert np.linalg.norm(centres[:, :2] - place, axis=1).min() < limit
        token = row["next"]


def test_the_devkit_projects_boxes_onto_the_pictures(tables: NuScenes) -> None:
    episode, camera = simulate(CONFIG, 7), Camera.front(CONFIG.size_hw)
    token = tables.get("sample", tables.scene[1]["first_sample_token"])["data"]["CAM_FRONT"]
    path, boxes, intrinsic = tables.get_sample_data(token)
    np.testing.assert_allclose(intrinsic, camera.intrinsic)
    ours = camera.ego_to_camera(episode.boxes[0].center_m)
    assert boxes
    for box in boxes:
        assert np.linalg.norm(ours - box.center, axis=1).min() < 1e-6
        pixel = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0]
        if box.center[2] > 1:
            np.testing.assert_allclose(pixel, camera.project(box.center), atol=1e-6)
    picture = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB).astype(int)
    assert np.abs(picture - render(episode, 0, camera)).mean() < 4


def test_instances_velocities_attributes_and_map_are_there(tables: NuScenes) -> None:
    moving = 0
    for row in tables.sample_annotation:
        velocity = np.linalg.norm(tables.box_velocity(row["token"])[:2])
        attribute = tables.get("attribute", row["attribute_tokens"][0])["name"]
        assert tables.get("visibility", row["visibility_token"])["level"].startswith("v")
        if attribute == "vehicle.parked":
            assert np.isnan(velocity) or velocity < 1e-6
        moving += attribute == "vehicle.moving" and velocity > 1
        if row["next"]:
            assert tables.get("sample_annotation", row["next"])["prev"] == row["token"]
    assert moving
    for instance in tables.instance:
        count, token = 0, instance["first_annotation_token"]
        while token:
            last, count = token, count + 1
            token = tables.get("sample_annotation", token)["next"]
        assert (last, count) == (instance["last_annotation_token"], instance["nbr_annotations"])
    assert (Path(tables.dataroot) / tables.map[0]["filename"]).is_file()


def test_a_stopped_export_goes_on_and_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, _: int) -> None:
        raise StopError(done)

    with pytest.raises(StopError):
        write_nuscenes(CONFIG, tmp_path, on_progress=stop)
    assert not (tmp_path / "v1.0-toytown" / "scene.json").exists()
    kept = next((tmp_path / "samples" / "CAM_FRONT").glob("toytown-0006*"))
    before = kept.stat().st_mtime_ns
    write_nuscenes(CONFIG, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert _checksums(tmp_path) == _checksums(root)


def test_several_workers_write_the_same_bytes(tmp_path: Path) -> None:
    config = replace(CONFIG, duration_s=0.5)
    write_nuscenes(config, tmp_path / "one")
    write_nuscenes(config, tmp_path / "two", num_workers=2)
    assert _checksums(tmp_path / "one") == _checksums(tmp_path / "two")


def test_other_settings_in_the_same_folder_are_drawn_anew(tmp_path: Path) -> None:
    config = replace(CONFIG, duration_s=0.25, num_scenes=1)
    write_nuscenes(config, tmp_path)
    first = _checksums(tmp_path)
    write_nuscenes(replace(config, seed=5), tmp_path)
    assert _checksums(tmp_path) != first
    write_nuscenes(config, tmp_path)
    assert _checksums(tmp_path) == first


def test_another_look_is_another_source_and_the_first_keeps_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, found = replace(CONFIG, num_scenes=1, duration_s=0.5), {}
    for look in (1, 2, 1):
        monkeypatch.setattr("drivesim.toytown.nuscenes_tables.LOOK", look)
        write_nuscenes(few, tmp_path)
        source = NuScenesSource(NuScenesConfig(root=str(tmp_path), version="v1.0-toytown"))
        assert found.setdefault(look, source.fingerprint) == source.fingerprint
        (log,) = json.loads((tmp_path / "v1.0-toytown" / "log.json").read_text())
        assert log["logfile"] == {1: "toytown", 2: "toytown look 2"}[look]  # so that towns of look 1 stay cached
    assert found[1] != found[2]
