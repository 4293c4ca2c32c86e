"""Labelled toytown drives for the evaluators' clip network, straight from the simulator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D, Boxes3D
from drivesim.core.camera import Camera, project_boxes
from drivesim.core.clip import Clip
from drivesim.toytown import Episode, TownConfig, render, simulate

_SEEN = 0.25  # a car of which less is seen is no label


@dataclass(kw_only=True, slots=True)
class ToytownDrives:
    """Which scenes are rendered for the clip network."""

    num_drives: int = 56  # to train on
    num_held_out: int = 8  # to report on; the scenes after those
    size_hw: tuple[int, int] = (96, 192)  # larger than the network's input, so that crops stay sharp
    town: TownConfig = field(default_factory=lambda: TownConfig(duration_s=10.0, seed=77, turn_odds=None))


def render_drives(config: ToytownDrives) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and held-out ones; about two minutes on one core."""
    clips = [
        drive_clip(simulate(config.town, i), config.size_hw) for i in range(config.num_drives + config.num_held_out)
    ]
    return clips[: config.num_drives], clips[config.num_drives :]


def drive_clip(episode: Episode, size_hw: tuple[int, int]) -> Clip:
    """A whole toytown episode as a clip with labels."""
    camera = Camera.front((size_hw[0], size_hw[1]))  # a list, where the config came from YAML
    return Clip(
        name=episode.name,
        drive=episode.name,
        frames_THWC=np.stack([render(episode, frame, camera) for frame in range(len(episode))]),
        fps=episode.fps,
        timestamps_us=np.rint(episode.times_s * 1e6).astype(np.int64),
        boxes=tuple(_picture_boxes(boxes, camera) for boxes in episode.boxes),
        is_night=episode.is_night,
        camera=camera,
        ego_path=episode.ego_path,  # in the town; steps between frames are all that is used
    )


def _picture_boxes(boxes: Boxes3D, camera: Camera) -> Boxes2D:
    """Boxes in ego axes to the seen ones in the picture."""
    seen = np.ones(len(boxes), dtype=bool) if boxes.visibility is None else boxes.visibility > _SEEN
    w, x, y, z = camera.rotation_wxyz
    in_camera = Boxes3D(
        center_m=camera.ego_to_camera(boxes.center_m[seen]),
        size_m=boxes.size_m[seen],
        rotation_wxyz=_product(np.array([w, -x, -y, -z]), boxes.rotation_wxyz[seen]),
        class_ids=boxes.class_ids[seen],
    )
    return project_boxes(in_camera, camera)[0]


def _product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hamilton product of a quaternion (4,) with quaternions (N, 4)."""
    w, v = left[0], left[1:]
    real, imaginary = right[:, :1], right[:, 1:]
    return np.concatenate(
        [w * real - imaginary @ v[:, None], w * imaginary + real * v + np.cross(v, imaginary)], axis=1
    )
