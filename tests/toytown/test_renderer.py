"""Pictures: the right size, the same every time, and with things where the boxes say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, Boxes3D
from drivesim.core.camera import Camera, project_boxes, quaternion_from_matrix, rotation_matrix
from drivesim.toytown import Episode, TownConfig, render, simulate

CAMERA = Camera.front((128, 256))


@pytest.fixture(scope="module")
def day() -> Episode:
    return simulate(TownConfig(duration_s=4, night_share=0), 9)


def _projected(episode: Episode, frame: int, camera: Camera) -> Boxes2D:
    boxes = episode.boxes[frame]
    to_camera = rotation_matrix(camera.rotation_wxyz).T
    turned = [quaternion_from_matrix(to_camera @ rotation_matrix(q)) for q in boxes.rotation_wxyz]
    in_camera = Boxes3D(
        center_m=camera.ego_to_camera(boxes.center_m),
        size_m=boxes.size_m,
        rotation_wxyz=np.array(turned),
        class_ids=boxes.class_ids,
        visibility=boxes.visibility,
    )
    return project_boxes(in_camera, camera)[0]


@pytest.mark.parametrize("size_hw", [(64, 128), (128, 256), (256, 512)])
def test_pictures_have_any_size(day: Episode, size_hw: tuple[int, int]) -> None:
    picture = render(day, 5, Camera.front(size_hw))
    assert picture.shape == (*size_hw, 3) and picture.dtype == np.uint8
    small = picture.reshape(32, size_hw[0] // 32, 64, size_hw[1] // 64, 3).mean(axis=(1, 3))
    reference = render(day, 5, CAMERA).reshape(32, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - reference).mean() < 4


def test_a_picture_is_the_same_whatever_was_drawn_before(day: Episode) -> None:
    first = render(day, 20, CAMERA)
    render(day, 3, Camera.front((64, 128)))
    again = simulate(TownConfig(duration_s=4, night_share=0), 9)
    assert np.array_equal(first, render(again, 20, CAMERA))
    assert not np.array_equal(first, render(day, 21, CAMERA))


def test_everything_that_drives_or_walks_is_inside_its_box(day: Episode) -> None:
    """Pictures with and without actors differ inside boxes, but for shadows just below them."""
    for frame in (0, 24, 47):
        empty = replace(day, bodies=day.bodies.select(np.zeros(len(day.bodies), dtype=bool)))
        difference = np.abs(render(day, frame, CAMERA).astype(int) - render(empty, frame, CAMERA)).max(axis=-1)
        allowed = np.zeros(CAMERA.size_hw, dtype=bool)
        for left, top, right, bottom in _projected(day, frame, CAMERA).xyxy_px:
            allowed[max(0, int(top) - 1) : int(bottom) + 2, max(0, int(left) - 1) : int(right) + 2] = True
        assert difference[~allowed].max(initial=0) < 12
        assert (difference[allowed] > 12).mean() > 0.15


def test_visible_boxes_are_filled_with_what_they_hold(day: Episode) -> None:
    empty = replace(day, bodies=day.bodies.select(np.zeros(len(day.bodies), dtype=bool)))
    changed = np.abs(render(day, 24, CAMERA).astype(int) - render(empty, 24, CAMERA)).max(axis=-1) > 8
    boxes = _projected(day, 24, CAMERA)
    large = (boxes.visibility > 0.9) & (np.prod(boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2], axis=1) > 60)
    assert large.any()
    for left, top, right, bottom in boxes.xyxy_px[large].astype(int):
        assert changed[top:bottom, left:right].mean() > 0.3


def test_night_is_dark_but_the_road_ahead_is_lit() -> None:
    config = TownConfig(duration_s=1, night_share=1, traffic_density=0, num_pedestrians=0, parked_share=0)
    night, day = simulate(config, 2), simulate(replace(config, night_share=0), 2)
    assert night.is_night and not day.is_night
    dark, light = render(night, 0, CAMERA).astype(float), render(day, 0, CAMERA).astype(float)
    assert dark[:50].mean() < 0.35 * light[:50].mean()
    assert dark[95:120, 110:146].mean() > 1.5 * dark[95:120, :20].mean()


def test_brake_lights_shine_red() -> None:
    config = TownConfig(duration_s=1, night_share=0)
    episode = simulate(config, 9)
    braking = replace(episode, motion=replace(episode.motion, braking=np.ones_like(episode.motion.braking)))
    coasting = replace(episode, motion=replace(episode.motion, braking=np.zeros_like(episode.motion.braking)))
    change = render(braking, 0, CAMERA).astype(int) - render(coasting, 0, CAMERA)
    assert change[..., 0].max() > 40
    assert change[..., 0].sum() > 2 * np.abs(change[..., 2]).sum()


def test_motion_shows_in_the_picture(day: Episode) -> None:
    still = np.abs(render(day, 6, CAMERA).astype(int) - render(day, 12, CAMERA)).mean()
    assert still > 2


def test_frames_outside_the_episode_are_refused(day: Episode) -> None:
    with pytest.raises(ValueError, match="0 to 47"):
        render(day, 48, CAMERA)
