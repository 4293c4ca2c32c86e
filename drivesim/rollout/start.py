"""Start frames from what a person has: a picture or a video file."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.core.picture import check_size, crop_to_aspect, load_picture, resize_area
from drivesim.core.video import VIDEO_SUFFIXES, read_at
from drivesim.rollout.model import Conditions, PredictionModel

logger = logging.getLogger(__name__)

SCENE_SUFFIXES = (".yaml", ".yml")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(kw_only=True, slots=True)
class Start:
    """What all futures of a run start from: one frame, or none where the model makes videos from nothing."""

    name: str  # part of the key of every random number
    frame_HWC: NDArray[np.uint8] | None  # RGB, of the model's `start_hw`; None = the model begins by itself
    conditions: Conditions = None  # of all videos; None = nothing is said
    in_turn: tuple[Conditions, ...] = ()  # in their place, of the first video, the second, ... and the first again
    latents_CHW: torch.Tensor | None = None  # that the frame was decoded from; None = the model encodes the frame

    def said(self, future: int) -> Conditions:
        """What is said of a future's video."""
        return self.in_turn[future % len(self.in_turn)] if self.in_turn else self.conditions


def start_latents(start: Start, model: PredictionModel) -> torch.Tensor | None:
    """Latents (C, h, w) of the frame that a start is for a model, on the CPU; None = there is no frame.

    Raises:
        ValueError: a frame of another size than the model's start frames.
    """
    if start.latents_CHW is not None or start.frame_HWC is None:
        return start.latents_CHW
    size_hw = start.frame_HWC.shape[:2]
    if size_hw != tuple(model.start_hw):
        raise ValueError(f"start {start.name}: frame of {size_hw} (height, width), the model's is {model.start_hw}")
    return model.encode(start.frame_HWC[None])[0].cpu()


def is_scene(start: str) -> bool:
    """Whether a start is a scene, by its file or by its name, rather than a picture or a video."""
    path = Path(start)
    return path.suffix.lower() in SCENE_SUFFIXES or (not path.suffix and not path.is_file())


def check_scene(start: str, start_s: float, is_night: bool | None) -> None:
    """Raises ValueError for what is said beside a start that it is not for.

    Args:
        start: a scene, or a picture or video, which may be said more of.
        start_s: 0 = nothing is said.
        is_night: None = nothing is said.
    """
    if start_s and (is_scene(start) or Path(start).suffix.lower() in PICTURE_SUFFIXES):
        raise ValueError(f"start={start} is no video: start_s={start_s:g} is a time in one; leave it out")
    if is_night is not None and is_scene(start):
        raise ValueError(
            f"start={start} is a scene, which says itself what it shows: is_night={str(is_night).lower()} is for "
            "pictures and videos; leave it out, or change the scene (time: night or day)"
        )


def start_from_file(
    path: str | Path, size_hw: tuple[int, int], *, start_s: float = 0.0, conditions: Conditions = None
) -> Start:
    """A start from a picture or a video, told apart by the file's suffix.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: neither a picture nor a video by its suffix, or unusable (see the two below).
    """
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return start_from_image(path, size_hw, conditions=conditions)
    if suffix in VIDEO_SUFFIXES:
        return start_from_clip(path, size_hw, start_s=start_s, conditions=conditions)
    file, at, seconds = str(path).rpartition("@")
    if at and Path(file).suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: a rollout takes the video and the time apart: start={file} start_s={seconds}")
    choices = f"pictures ({', '.join(PICTURE_SUFFIXES)}) or videos ({', '.join(VIDEO_SUFFIXES)})"
    raise ValueError(f"{path}: a rollout starts from {choices}; this name ends in {suffix!r}")


def start_from_image(path: str | Path, size_hw: tuple[int, int], *, conditions: Conditions = None) -> Start:
    """A start from a picture file, cropped to the model's shape and resized to its size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no picture, an alpha channel, or smaller than `size_hw` after the crop.
    """
    return Start(name=Path(path).stem, frame_HWC=_fitted(load_picture(path), size_hw, str(path)), conditions=conditions)


def start_from_clip(
    path: str | Path, size_hw: tuple[int, int], *, start_s: float = 0.0, conditions: Conditions = None
) -> Start:
    """A start from the frame that a video shows at `start_s` seconds, cropped and resized likewise.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no video, no frame at that time, or smaller than `size_hw` after the crop.
    """
    if not 0 <= start_s < math.inf:
        raise ValueError(f"start_s is {start_s}; must be a number of 0 or more")
    frame = read_at(path, np.array([start_s]))[0]
    return Start(
        name=f"{Path(path).stem}@{start_s:g}s", frame_HWC=_fitted(frame, size_hw, str(path)), conditions=conditions
    )


def _fitted(frame_HWC: NDArray[np.uint8], size_hw: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """The frame in the model's shape and size; says so when something is cut off."""
    part, (top, left) = crop_to_aspect(frame_HWC, size_hw[1] / size_hw[0])
    if part.shape != frame_HWC.shape:
        logger.warning(
            "%s: %d x %d pixels cropped to %d x %d (width x height, from left %d, top %d)",
            name, frame_HWC.shape[1], frame_HWC.shape[0], part.shape[1], part.shape[0], left, top,
        )  # fmt: skip
    check_size(part, size_hw, name)
    return resize_area(part, size_hw)
