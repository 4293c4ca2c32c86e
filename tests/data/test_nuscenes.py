"""nuScenes tables: geometry as the devkit's own, clips by time, splits by scene, and broken tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import BoxVisibility, box_in_image, view_points

from drivesim.core.boxes import CLASSES, UNKNOWN, ObjectClass, class_from_nuscenes
from drivesim.core.camera import corners_m, project_boxes, rotation_matrix
from drivesim.data import NuScenesConfig, NuScenesSource, ProblemKind, make_source, prepare
from drivesim.data.frames import cache_frames
from drivesim.data.nuscenes import official_splits
from drivesim.toytown import TownConfig, write_nuscenes

VERSION = "v1.0-handmade"


def _source(tables, **settings) -> NuScenesSource:
    tables.write()
    source = make_source(NuScenesConfig(root=str(tables.root), version=VERSION, **settings))
    assert isinstance(source, NuScenesSource)
    return source


def assert_equals_devkit(source: NuScenesSource, root: Path, version: str, channel: str) -> int:
    """Compares all boxes of all frames in space and in the picture; returns how many were in a picture."""
    devkit = NuScenes(version=version, dataroot=str(root), verbose=False)
    num_seen = 0
    for row in devkit.sample_data:
        if row["channel"] != channel:
            continue
        _, theirs, intrinsic = devkit.get_sample_data(row["token"], box_vis_level=BoxVisibility.NONE)
        theirs = [box for box in theirs if class_from_nuscenes(box.name)]
        ours = source.boxes_in_camera(row["token"])
        camera = source.native_camera(row["token"])
        assert [CLASSES[k] for k in ours.class_ids] == [class_from_nuscenes(box.name) for box in theirs]
        ours_corners = corners_m(ours)
        pictured, index = project_boxes(ours, camera)
        for number, box in enumerate(theirs):
            np.testing.assert_allclose(ours_corners[number], box.corners().T, atol=1e-6)
            if box_in_image(box, intrinsic, (row["width"], row["height"]), BoxVisibility.ANY):
                expected = _devkit_rectangle(box.corners(), intrinsic, row["width"], row["height"])
                if min(expected[2:] - expected[:2]) < 1:
                    continue
                assert number in index
                np.testing.assert_allclose(pictured.xyxy_px[list(index).index(number)], expected, atol=1e-6)
                num_seen += 1
    return num_seen


def _devkit_rectangle(corners, intrinsic, width: int, height: int) -> NDArray[np.float64]:
    pixels = view_points(corners, intrinsic, normalize=True)[:2].T
    low = np.clip(pixels.min(axis=0), 0, [width, height])
    high = np.clip(pixels.max(axis=0), 0, [width, height])
    return np.concatenate([low, high])


def test_boxes_equal_the_devkits_on_key_frames_and_sweeps(tables) -> None:
    assert assert_equals_devkit(_source(tables), tables.root, VERSION, "CAM_FRONT") > 50


def test_boxes_equal_the_devkits_on_real_tables(shared_data: Path) -> None:
    root = shared_data / "nuscenes-real"
    for channel in ("CAM_FRONT", "CAM_FRONT_LEFT"):
        source = NuScenesSource(NuScenesConfig(root=str(root), camera=channel))
        assert assert_equals_devkit(source, root, "v1.0-mini", channel) > 10


def test_boxes_equal_the_devkits_on_toytown(tmp_path: Path) -> None:
    write_nuscenes(TownConfig(num_scenes=2, duration_s=1.0, fps=6.0, key_fps=2.0, size_hw=(64, 128)), tmp_path)
    source = NuScenesSource(NuScenesConfig(root=str(tmp_path), version="v1.0-toytown"))
    assert source.problems() == []
    assert [len(source.drives(split)) for split in ("train", "val")] == [1, 1]
    assert assert_equals_devkit(source, tmp_path, "v1.0-toytown", "CAM_FRONT") > 10


def test_boxes_between_key_frames_move_evenly(tables) -> None:
    source = _source(tables)
    places = []
    for frame in range(9):
        boxes = source.boxes_in_camera(f"d-lane-day-{frame}")
        crossing = list(boxes.track_ids).index("i-lane-day-1")
        camera, pose = source.native_camera(f"d-lane-day-{frame}"), tables.rows["ego_pose"][frame]
        assert pose["token"] == f"p-lane-day-{frame}"
        ego = rotation_matrix(camera.rotation_wxyz) @ boxes.center_m[crossing] + camera.translation_m
        places.append(rotation_matrix(np.array(pose["rotation"])) @ ego + pose["translation"])
    expected = [[125.0, -28 + 9 * 0.1 * frame, 1.1] for frame in range(9)]
    np.testing.assert_allclose(places, expected, atol=1e-6)


def test_boxes_follow_the_crop_and_the_resize(tables) -> None:
    source = _source(tables)
    clip = source.read("lane-day", start_s=0, num_frames=4, fps=10, size_hw=(40, 80))
    for frame in range(4):
        token = f"d-lane-day-{frame}"
        native, _ = project_boxes(source.boxes_in_camera(token), source.native_camera(token))
        # 90 x 160 is cut to 80 x 160, from row 5 on, and halved.
        expected = (native.xyxy_px - [0, 5, 0, 5]).clip([0, 0, 0, 0], [160, 80, 160, 80]) / 2
        np.testing.assert_allclose(clip.boxes[frame].xyxy_px, expected, atol=1e-6)
    assert {CLASSES[k] for k in clip.boxes[0].class_ids} == {ObjectClass.CAR, ObjectClass.PEDESTRIAN}
    assert clip.camera.size_hw == (40, 80)


def test_tables_without_annotations_know_nothing_of_boxes(tables, tmp_path: Path) -> None:
    assert _source(tables).has_boxes
    tables.rows["sample_annotation"], tables.rows["instance"] = [], []  # as in v1.0-test
    source = _source(tables)
    assert not source.has_boxes
    clip = source.read("lane-day", start_s=0, num_frames=2, fps=5, size_hw=(40, 80))
    assert (clip.boxes, clip.boxes_3d, clip.num_cars()) == (None, None, None)
    assert clip.camera is not None and clip.ego_path is not None
    conditions = cache_frames(source, "train", (40, 80), 5.0, tmp_path / "cache").conditions["lane-day"]
    assert not conditions.has_boxes and (conditions.num_cars_T == UNKNOWN).all()
    assert prepare(source, tmp_path / "out").num_boxes == 0
    fingerprint, source.has_boxes = source.fingerprint, True  # as earlier versions took it, whose caches are others
    assert source.fingerprint != fingerprint


def test_visibility_levels_become_shares(tables) -> None:
    boxes = _source(tables).boxes_in_camera("d-lane-day-2")
    np.testing.assert_array_equal(boxes.visibility, [0.9, 0.5, 0.2, 0.7])


def test_hidden_boxes_can_be_left_out_of_the_picture(tables) -> None:
    wanted = {"start_s": 0.2, "num_frames": 1, "fps": 10, "size_hw": (40, 80)}
    everything = _source(tables).read("lane-day", **wanted)
    seen = _source(tables, min_visibility=0.4).read("lane-day", **wanted)
    assert sorted(everything.boxes[0].visibility) == [0.2, 0.5, 0.9]
    assert sorted(seen.boxes[0].visibility) == [0.5, 0.9]
    assert len(seen.boxes_3d[0]) == len(everything.boxes_3d[0])


def test_a_clip_takes_the_frames_nearest_in_time(tables) -> None:
    clip = _source(tables).read("lane-day", start_s=0.2, num_frames=4, fps=4, size_hw=(40, 80))
    np.testing.assert_array_equal(clip.timestamps_us, [200_000, 400_000, 700_000, 900_000])


def test_the_ego_path_is_told_in_the_first_frames_system(tables) -> None:
    clip = _source(tables).read("lane-day", start_s=0.5, num_frames=5, fps=10, size_hw=(40, 80))
    yaw = 0.02 * 5
    step = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]) @ [0.8, 0.1]
    expected = [[*(step * k), 0.02 * k] for k in range(5)]
    np.testing.assert_allclose(clip.ego_path, expected, atol=1e-9)


def test_night_is_read_from_the_description(tables) -> None:
    tables.add_scene(3, "lane-untold", "")
    drives = {drive.name: drive for drive in _source(tables, val_share=0.0).drives("train")}
    assert [drives[n].is_night for n in ("lane-day", "lane-dark", "lane-untold")] == [False, True, None]


def test_named_scenes_are_held_out_and_unknown_ones_refused(tables) -> None:
    source = _source(tables, val_scenes=["lane-dark"])
    assert [drive.name for drive in source.drives("val")] == ["lane-dark"]
    assert [drive.name for drive in source.drives("train")] == ["lane-day"]
    with pytest.raises(ValueError, match="lane-typo not among the 2 scenes"):
        _source(tables, val_scenes=["lane-typo"])
    with pytest.raises(ValueError, match="none of train, val, test"):
        source.drives("valid")


def test_official_splits_hold_for_official_versions_only() -> None:
    official = official_splits("v1.0-trainval")
    assert list(official.values()).count("train") == 700
    assert list(official.values()).count("val") == 150
    assert official_splits("v1.0-mini")["scene-0103"] == "val"
    assert official_splits("v1.0-toytown") == {}


def test_a_missing_picture_is_a_problem_and_the_rest_is_served(tables) -> None:
    tables.write()
    (tables.root / "sweeps/CAM_FRONT/lane-day-003.png").unlink()
    source = _source(tables)
    (problem,) = source.problems()
    assert (problem.where, problem.kind) == ("lane-day", ProblemKind.MISSING_IMAGE)
    assert "lane-day-003.png" in problem.detail
    clip = source.read("lane-day", start_s=0, num_frames=7, fps=5, size_hw=(40, 80))
    np.testing.assert_array_equal(clip.timestamps_us, np.arange(0, 1_400_000, 200_000))


@pytest.mark.parametrize(("name", "value"), [
    ("size", [0.0, 4.5, 1.6]),
    ("size", [float("nan"), 4.5, 1.6]),
    ("size", None),
    ("translation", [115.0, float("nan"), 1.0]),
    ("translation", [115.0, None, 1.0]),
    ("translation", [float("inf"), -19.0, 1.0]),
    ("translation", [115.0, -19.0]),
    ("rotation", [float("nan"), 0.0, 0.0, 0.0]),
    ("rotation", [0.0, 0.0, 0.0, 0.0]),
    ("rotation", None),
])  # fmt: skip
def test_a_broken_box_is_left_out_and_all_frames_around_it_are_served(
    tables, tmp_path: Path, name: str, value: list[float | None] | None
) -> None:
    (row,) = (row for row in tables.rows["sample_annotation"] if row["token"] == "a-lane-day-0-1")
    row[name] = value
    source = _source(tables)
    whole = [f"i-lane-day-{number}" for number in (1, 2, 4)]
    for frame in range(13):
        is_left_out = 1 <= frame <= 4  # the key frame 4 and the sweeps that lead to it
        expected = whole if is_left_out else ["i-lane-day-0", *whole]
        assert list(source.boxes_in_camera(f"d-lane-day-{frame}").track_ids) == expected, frame
    report = prepare(source, tmp_path / "out")
    assert {(p.where, p.kind) for p in report.problems} <= {
        ("lane-day", ProblemKind.BROKEN_BOX),
        *((scene, ProblemKind.BOX_OUTSIDE) for scene in ("lane-day", "lane-dark")),
    }
    (broken,) = [p for p in report.problems if p.kind == ProblemKind.BROKEN_BOX]
    assert broken.detail.startswith("1 boxes") and "a-lane-day-0-1" in broken.detail
    assert report.num_checked == 26


@pytest.mark.parametrize("place", [None, [None, 0.0, 0.0], [float("nan"), 0.0, 0.0]])
def test_a_pose_without_a_place_costs_its_frame_alone(tables, place: list[float | None] | None) -> None:
    tables.rows["ego_pose"][7]["translation"] = place
    source = _source(tables)
    assert [(p.where, p.kind) for p in source.problems()] == [("lane-day", ProblemKind.MISSING_POSE)]
    assert len(source.timestamps_s("lane-day")) == 12


def test_missing_poses_and_broken_boxes_are_problems(tables) -> None:
    tables.rows["ego_pose"][7]["translation"] = [float("nan"), 0, 0]
    tables.rows["sample_data"][8]["ego_pose_token"] = "nowhere"
    tables.rows["sample_annotation"][0]["size"] = [0.0, 4.5, 1.6]
    source = _source(tables)
    assert {(p.where, p.kind) for p in source.problems()} == {
        ("lane-day", ProblemKind.MISSING_POSE),
        ("lane-day", ProblemKind.BROKEN_BOX),
    }
    assert len(source.timestamps_s("lane-day")) == 11
    assert len(source.boxes_in_camera("d-lane-day-0")) == 3


def test_a_scene_without_pictures_does_not_hide_the_other(tables) -> None:
    tables.write()
    for path in tables.root.glob("*/CAM_FRONT/lane-day-*"):
        path.unlink()
    source = _source(tables, val_share=0.0)
    assert [drive.name for drive in source.drives("train")] == ["lane-dark"]
    assert ProblemKind.TOO_SHORT in {problem.kind for problem in source.problems()}
    with pytest.raises(ValueError, match="no scene 'lane-day' that can be read; there are lane-dark"):
        source.read("lane-day", start_s=0, num_frames=1, fps=1, size_hw=(40, 80))


def test_wrong_version_camera_or_table_is_told_with_the_choices(tables) -> None:
    tables.write()
    with pytest.raises(ValueError, match=r"no such folder of tables; .* has v1.0-handmade"):
        NuScenesSource(NuScenesConfig(root=str(tables.root), version="v1.0-mini"))
    with pytest.raises(ValueError, match="no camera 'CAM_BACK'; there are CAM_FRONT"):
        NuScenesSource(NuScenesConfig(root=str(tables.root), version=VERSION, camera="CAM_BACK"))
    (tables.root / VERSION / "log.json").unlink()
    with pytest.raises(ValueError, match=r"no table log\.json"):
        NuScenesSource(NuScenesConfig(root=str(tables.root), version=VERSION))


def test_the_fingerprint_changes_with_a_box_and_not_with_a_second_look(tables) -> None:
    before = _source(tables).fingerprint
    assert _source(tables).fingerprint == before
    tables.rows["sample_annotation"][3]["translation"][0] += 1.0
    assert _source(tables).fingerprint != before
