"""A pinhole camera: metres to pixels, and boxes in space to boxes in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D, Boxes3D

NEAR_M = 0.1

# Corners of a unit box in its own axes (x forward, y left, z up); the first four are the front.
_CORNERS = np.array(
    [[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1], [-1, 1, -1]],
    dtype=np.float64,
)
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


FRONT_HEIGHT_M, FRONT_AHEAD_M = 1.5, 1.5  # where a front camera is: above the road, before the ego system's origin


def rotation_matrix(rotation_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4) in w, x, y, z order."""
    w, x, y, z = np.moveaxis(np.asarray(rotation_wxyz, dtype=np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_matrix(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unit quaternion (w, x, y, z), w >= 0, of one rotation matrix (3, 3)."""
    k = np.array(
        [
            [matrix[0, 0] + matrix[1, 1] + matrix[2, 2], 0, 0, 0],
            [matrix[2, 1] - matrix[1, 2], matrix[0, 0] - matrix[1, 1] - matrix[2, 2], 0, 0],
            [matrix[0, 2] - matrix[2, 0], matrix[1, 0] + matrix[0, 1], matrix[1, 1] - matrix[0, 0] - matrix[2, 2], 0],
            [
                matrix[1, 0] - matrix[0, 1],
                matrix[2, 0] + matrix[0, 2],
                matrix[2, 1] + matrix[1, 2],
                matrix[2, 2] - matrix[0, 0] - matrix[1, 1],
            ],
        ]
    )
    # The eigenvector of the largest eigenvalue is stable for every angle (Bar-Itzhack 2000).
    _, vectors = np.linalg.eigh(k / 3.0)
    quaternion = vectors[:, -1]
    return quaternion if quaternion[0] >= 0 else -quaternion


@dataclass(kw_only=True, slots=True)
class Camera:
    """A pinhole camera on a car. Its axes: x right, y down, z forward (nuScenes, OpenCV)."""

    intrinsic: NDArray[np.float64]  # (3, 3) in pixels of a picture of size_hw
    size_hw: tuple[int, int]  # height, width in pixels
    translation_m: NDArray[np.float64]  # (3,) of the camera in the ego system (x forward, z up)
    rotation_wxyz: NDArray[np.float64]  # (4,) camera axes -> ego axes

    @classmethod
    def front(cls, size_hw: tuple[int, int], fov_deg: float = 64.0, height_m: float = FRONT_HEIGHT_M) -> Camera:
        """A level camera that looks straight ahead, `fov_deg` wide, `height_m` above the road."""
        height, width = size_hw
        focal = width / 2 / np.tan(np.radians(fov_deg) / 2)
        intrinsic = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return cls(
            intrinsic=intrinsic,
            size_hw=size_hw,
            translation_m=np.array([FRONT_AHEAD_M, 0.0, height_m]),
            rotation_wxyz=np.array([0.5, -0.5, 0.5, -0.5]),
        )

    def resized(self, size_hw: tuple[int, int]) -> Camera:
        """The same camera for a resized picture."""
        scale = np.diag([size_hw[1] / self.size_hw[1], size_hw[0] / self.size_hw[0], 1.0])
        return Camera(
            intrinsic=scale @ self.intrinsic,
            size_hw=size_hw,
            translation_m=self.translation_m,
            rotation_wxyz=self.rotation_wxyz,
        )

    def cropped(self, top_px: int, left_px: int, size_hw: tuple[int, int]) -> Camera:
        """The same camera for a picture cut out of its own."""
        intrinsic = self.intrinsic.copy()
        intrinsic[0, 2] -= left_px
        intrinsic[1, 2] -= top_px
        return Camera(
            intrinsic=intrinsic,
            size_hw=size_hw,
            translation_m=self.translation_m,
            rotation_wxyz=self.rotation_wxyz,
        )

    def project(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (..., 2) of points (..., 3) in camera axes; nan behind the near plane."""
        points = np.asarray(points_m, dtype=np.float64)
        depth = np.where(points[..., 2] >= NEAR_M, points[..., 2], np.nan)
        homogeneous = points @ self.intrinsic.T
        return homogeneous[..., :2] / depth[..., None]

    def ego_to_camera(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (..., 3) from ego axes (x forward, y left, z up) to camera axes."""
        return (np.asarray(points_m) - self.translation_m) @ rotation_matrix(self.rotation_wxyz)


def corners_m(boxes: Boxes3D) -> NDArray[np.float64]:
    """The eight corners (N, 8, 3) of boxes, in the boxes' coordinate system."""
    half_lwh = boxes.size_m[:, [1, 0, 2]] / 2
    local = _CORNERS[None] * half_lwh[:, None]
    return local @ np.swapaxes(rotation_matrix(boxes.rotation_wxyz), -1, -2) + boxes.center_m[:, None]


def project_boxes(boxes: Boxes3D, camera: Camera, min_size_px: float = 1.0) -> tuple[Boxes2D, NDArray[np.int64]]:
    """Boxes in camera axes to boxes in the picture, clipped to it.

    A box that crosses the near plane is cut there first, so that a car beside the camera keeps its
    visible part. Boxes outside the picture, or smaller than `min_size_px` on a side after
    clipping, are left out.

    Returns:
        The picture's boxes, and the index of each into `boxes`.
    """
    height, width = camera.size_hw
    kept: list[int] = []
    rows: list[list[float]] = []
    for index, corners in enumerate(corners_m(boxes)):
        points = _cut_at_near_plane(corners)
        if len(points) == 0:
            continue
        pixels = camera.project(points)
        left, top = np.clip(pixels.min(axis=0), 0, [width, height])
        right, bottom = np.clip(pixels.max(axis=0), 0, [width, height])
        if right - left >= min_size_px and bottom - top >= min_size_px:
            kept.append(index)
            rows.append([left, top, right, bottom])
    keep = np.array(kept, dtype=np.int64)
    visibility = np.full(len(boxes), np.nan) if boxes.visibility is None else boxes.visibility
    return (
        Boxes2D(
            xyxy_px=np.array(rows, dtype=np.float64).reshape(-1, 4),
            class_ids=boxes.class_ids[keep],
            depth_m=boxes.center_m[keep, 2],
            visibility=visibility[keep],
            track_ids=boxes.track_ids[keep] if len(boxes.track_ids) else boxes.track_ids,
        ),
        keep,
    )


def _cut_at_near_plane(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corner points (M, 3) of a box's part in front of the near plane."""
    in_front = corners[:, 2] >= NEAR_M
    points = [corners[in_front]]
    for start, end in _EDGES:
        if in_front[start] != in_front[end]:
            share = (NEAR_M - corners[start, 2]) / (corners[end, 2] - corners[start, 2])
            crossing = corners[start] + share * (corners[end] - corners[start])
            crossing[2] = NEAR_M
            points.append(crossing[None])
    return np.concatenate(points)
