"""Short drives through toytown, and the faults that tests put into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.core.camera import Camera, project_boxes
from drivesim.core.scene import ego_boxes_to_camera
from drivesim.toytown import Episode, TownConfig, render, simulate

Frames = NDArray[np.uint8]

FPS = 4.0
FIRST_HELD_OUT = 9000
NUM_FRAMES = 24
ONSET = 9  # frame from which a fault is put in
CAMERA = Camera.front((64, 128))
TOWN = TownConfig(fps=FPS, key_fps=FPS, duration_s=NUM_FRAMES / FPS)


@dataclass(kw_only=True, slots=True)
class TownVideo:
    """A drive with its pictures."""

    episode: Episode
    frames_THWC: Frames


def drive(scene: int) -> TownVideo:
    """A held-out scene."""
    episode = simulate(TOWN, FIRST_HELD_OUT + scene)
    return TownVideo(episode=episode, frames_THWC=pictures(episode))


def pictures(episode: Episode) -> Frames:
    return np.stack([render(episode, frame, CAMERA) for frame in range(len(episode))])


def blurred(frames: Frames, sigma_px: float) -> Frames:
    return np.concatenate([frames[:ONSET], [cv2.GaussianBlur(frame, (0, 0), sigma_px) for frame in frames[ONSET:]]])


def brightened(frames: Frames, factor: float) -> Frames:
    return scaled(frames, np.where(np.arange(len(frames)) < ONSET, 1.0, factor))


def flickering(frames: Frames, share: float) -> Frames:
    """Brighter and darker by `share` in turn."""
    index = np.arange(len(frames))
    return scaled(frames, np.where(index < ONSET, 1.0, 1 + share * (-1.0) ** index))


def scaled(frames: Frames, factors: NDArray[np.float64]) -> Frames:
    return np.clip(np.rint(frames * factors[:, None, None, None]), 0, 255).astype(np.uint8)


def frozen(frames: Frames) -> Frames:
    """From the onset on, the frame before it."""
    return np.concatenate([frames[:ONSET], np.repeat(frames[ONSET - 1 : ONSET], len(frames) - ONSET, axis=0)])


def shuffled(frames: Frames, num_frames: int) -> Frames:
    """`num_frames` from the onset on in another order: no frame keeps its predecessor."""
    order = [*range(1, num_frames, 2), *range(0, num_frames, 2)][::-1]
    order = order[::2] + order[1::2]
    result = frames.copy()
    result[ONSET : ONSET + num_frames] = frames[ONSET + np.array(order)]
    return result


def boxes_of(video: TownVideo) -> list[Boxes2D]:
    """What can be seen of every box, a frame each."""
    found = []
    for boxes in video.episode.boxes:
        projected, _ = project_boxes(ego_boxes_to_camera(boxes, CAMERA), CAMERA)
        found.append(projected.select(projected.visibility > 0.3))
    return found


def car_in_sight(video: TownVideo, num_frames: int) -> str:
    """Track of the car that shows largest for `num_frames` from the onset on."""
    sizes: dict[str, list[float]] = {}
    for boxes in boxes_of(video)[ONSET : ONSET + num_frames]:
        for track, class_id, (left, top, right, bottom) in zip(
            boxes.track_ids, boxes.class_ids, boxes.xyxy_px, strict=True
        ):
            if class_id == ObjectClass.CAR.id:
                sizes.setdefault(str(track), []).append((right - left) * (bottom - top))
    return max((track for track, seen in sizes.items() if len(seen) == num_frames), key=lambda track: min(sizes[track]))


def without(video: TownVideo, track: str) -> Frames:
    """The same drive, from the onset on without one road user."""
    motion = video.episode.motion
    pose = motion.pose.copy()
    pose[ONSET:, int(track.rsplit("-", 1)[1]), :2] += 5000.0
    return pictures(replace(video.episode, motion=replace(motion, pose=pose)))
