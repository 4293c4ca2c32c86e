"""Pictures of one car of a chosen colour: a subject for personal models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import ObjectClass
from drivesim.core.camera import Camera, project_boxes
from drivesim.core.scene import ego_boxes_to_camera
from drivesim.toytown.config import TownConfig
from drivesim.toytown.episode import Episode, simulate
from drivesim.toytown.meshes import join, mesh_for
from drivesim.toytown.renderer import render

# One of the town's paints, and no other thing's: the shipped autoencoder has seen it. Of pink it makes an orange.
PURPLE = (150, 48, 168)


def subject_pictures(
    config: TownConfig,
    num_pictures: int,
    *,
    colour: tuple[int, int, int] = PURPLE,
    min_height: float = 0.2,
    is_wanted: Callable[[Episode, int], bool] = lambda episode, frame: True,
) -> Iterator[NDArray[np.uint8]]:
    """Pictures (H, W, 3) of size `config.size_hw`, one a scene, in which one car is large and of that colour.

    Args:
        config: the town; its scenes from `first_scene` on are gone through.
        num_pictures: how many.
        colour: RGB 0..255 of the subject.
        min_height: of the subject, as a share of the picture's height.
        is_wanted: whether a frame of a scene may be taken, such as one of a turn. Where none is, scenes do not end.
    """
    camera, scene = Camera.front(config.size_hw), config.first_scene
    while num_pictures > 0:
        episode = simulate(config, scene)
        scene += 1
        frames = [frame for frame in range(0, len(episode), 4) if is_wanted(episode, frame)]
        found = _largest_car(episode, frames, camera, min_height * config.size_hw[0])
        if found is None:
            continue
        frame, actor = found
        num_pictures -= 1
        yield render(_painted(episode, actor, colour), frame, camera)


def _largest_car(
    episode: Episode, frames: Sequence[int], camera: Camera, min_height_px: float
) -> tuple[int, int] | None:
    """One of these frames and number of the car seen largest, whole and unhidden; None = none is large enough."""
    best: tuple[float, int, int] | None = None
    height, width = camera.size_hw
    for frame in frames:
        boxes = ego_boxes_to_camera(episode.boxes[frame], camera)
        assert boxes.visibility is not None
        seen, index = project_boxes(boxes, camera)
        for box, number in zip(seen.xyxy_px, index, strict=True):
            left, top, right, bottom = box
            is_whole = left > 1 and right < width - 1 and top > 0 and bottom < height - 1
            is_car = boxes.class_ids[number] == ObjectClass.CAR.id and boxes.visibility[number] > 0.9
            if is_car and is_whole and bottom - top >= min_height_px and (best is None or bottom - top > best[0]):
                actor = int(str(boxes.track_ids[number]).rsplit("-", 1)[-1])  # type: ignore[index]
                best = (bottom - top, frame, actor)
    return None if best is None else (best[1], best[2])


def _painted(episode: Episode, actor: int, colour: tuple[int, int, int]) -> Episode:
    """The same episode with one road user of another colour."""
    paints = [colour if number == actor else a.colour for number, a in enumerate(episode.actors)]
    bodies = [
        mesh_for(a.object_class, a.size_m, paint).placed(0, 0, 0, number)
        for number, (a, paint) in enumerate(zip(episode.actors, paints, strict=True))
        if number
    ]
    return replace(episode, bodies=join(bodies))
