"""The camera against closed forms and against nuscenes-devkit's own projection."""

from __future__ import annotations

import numpy as np
import pytest
from pyquaternion import Quaternion

from drivesim.core.boxes import Boxes3D, ObjectClass
from drivesim.core.camera import Camera, corners_m, project_boxes, quaternion_from_matrix, rotation_matrix
from drivesim.core.seeds import numpy_generator


def boxes_in_camera_axes(num_boxes: int, seed: int = 0) -> Boxes3D:
    rng = numpy_generator("test_camera", seed)
    rotations = rng.normal(size=(num_boxes, 4))
    return Boxes3D(
        center_m=rng.uniform([-15, -3, 1], [15, 3, 60], size=(num_boxes, 3)),
        size_m=rng.uniform(0.5, 5, size=(num_boxes, 3)),
        rotation_wxyz=rotations / np.linalg.norm(rotations, axis=1, keepdims=True),
        class_ids=np.full(num_boxes, ObjectClass.CAR.id),
    )


def one_box(center_m: tuple[float, float, float], size_m: tuple[float, float, float] = (2, 2, 2)) -> Boxes3D:
    return Boxes3D(
        center_m=np.array([center_m], dtype=np.float64),
        size_m=np.array([size_m], dtype=np.float64),
        rotation_wxyz=np.array([[1.0, 0, 0, 0]]),
        class_ids=np.zeros(1, dtype=np.int64),
    )


def test_rotation_matrices_are_pyquaternions() -> None:
    rotations = boxes_in_camera_axes(50).rotation_wxyz
    expected = [Quaternion(wxyz).rotation_matrix for wxyz in rotations]
    np.testing.assert_allclose(rotation_matrix(rotations), expected, atol=1e-12)


def test_a_quaternion_survives_its_matrix() -> None:
    half_turns = [[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    for wxyz in [*boxes_in_camera_axes(50).rotation_wxyz, *np.array(half_turns)]:
        found = quaternion_from_matrix(rotation_matrix(wxyz))
        assert abs(found @ wxyz) == pytest.approx(1)
        assert found[0] >= 0


def test_corners_are_those_of_the_devkit() -> None:
    from nuscenes.utils.data_classes import Box

    boxes = boxes_in_camera_axes(30)
    for ours, center, size, wxyz in zip(
        corners_m(boxes), boxes.center_m, boxes.size_m, boxes.rotation_wxyz, strict=True
    ):
        theirs = Box(center, size, Quaternion(wxyz)).corners().T
        np.testing.assert_allclose(ours[np.lexsort(ours.T.round(6))], theirs[np.lexsort(theirs.T.round(6))], atol=1e-9)


def test_projection_is_that_of_the_devkit() -> None:
    from nuscenes.utils.geometry_utils import view_points

    camera = Camera.front((128, 256))
    points = numpy_generator("points").uniform([-5, -5, 0.2], [5, 5, 50], size=(100, 3))
    expected = view_points(points.T, camera.intrinsic, normalize=True)[:2].T
    np.testing.assert_allclose(camera.project(points), expected, rtol=1e-9)


def test_ego_axes_become_camera_axes() -> None:
    camera = Camera.front((128, 256), height_m=1.5)
    ahead_left_above = camera.ego_to_camera(np.array([11.5, 2.0, 4.5]))
    np.testing.assert_allclose(ahead_left_above, [-2, -3, 10], atol=1e-12)  # right, down, forward


def test_the_field_of_view_ends_at_the_picture_border() -> None:
    camera = Camera.front((128, 256), fov_deg=90)
    np.testing.assert_allclose(camera.project(np.array([[3.0, 0, 3], [-3, 0, 3]])), [[256, 64], [0, 64]], atol=1e-9)


def test_points_behind_the_camera_have_no_pixel() -> None:
    assert np.isnan(Camera.front((128, 256)).project(np.array([0.0, 0, -1]))).all()


def test_a_resized_camera_sees_the_resized_picture() -> None:
    camera = Camera.front((128, 256))
    point = np.array([1.0, 0.5, 7])
    np.testing.assert_allclose(camera.resized((64, 512)).project(point), camera.project(point) * [2, 0.5])


def test_a_cropped_camera_sees_the_cropped_picture() -> None:
    camera = Camera.front((128, 256))
    point = np.array([1.0, 0.5, 7])
    cropped = camera.cropped(10, 30, (100, 200))
    np.testing.assert_allclose(cropped.project(point), camera.project(point) - [30, 10])
    assert cropped.size_hw == (100, 200)


def test_boxes_are_clipped_to_the_picture() -> None:
    camera = Camera.front((128, 256), fov_deg=90)  # 128 pixels of focal length
    boxes, index = project_boxes(one_box((4.5, 0, 5)), camera)
    assert index.tolist() == [0]
    # From 4 to 6 m ahead, its left side 3.5 m to the right: that side is seen furthest left at its far end.
    np.testing.assert_allclose(boxes.xyxy_px, [[128 + 128 * 3.5 / 6, 32, 256, 96]])
    assert boxes.depth_m.tolist() == [5]


def test_boxes_outside_or_too_small_are_left_out() -> None:
    camera = Camera.front((128, 256))
    for center in ((0.0, 0.0, -10.0), (100.0, 0.0, 10.0), (0.0, 0.0, 5000.0)):
        boxes, index = project_boxes(one_box(center), camera)
        assert len(boxes) == len(index) == 0


def test_a_car_beside_the_camera_keeps_its_visible_part() -> None:
    camera = Camera.front((128, 256), fov_deg=90)
    boxes, _ = project_boxes(one_box((2.5, 1, 2), (2, 2, 8)), camera)  # from behind the camera to ahead of it
    assert len(boxes) == 1
    left, _, right, bottom = boxes.xyxy_px[0]
    assert right == 256 and bottom == 128
    assert 128 < left < 256
