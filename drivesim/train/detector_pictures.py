"""Labelled pictures for the detector: toytown frames as they are drawn, and as a model's autoencoder gives them back.

Legend: M pictures, H x W pixels, C channels, N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.core.camera import Camera, project_boxes
from drivesim.core.picture import resize_area
from drivesim.core.scene import ego_boxes_to_camera
from drivesim.core.seeds import numpy_generator
from drivesim.toytown import TownConfig, render, simulate

FIRST_HELD_OUT = 9000  # toytown scenes from here on are for scores alone
Redraw = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


@dataclass(kw_only=True, slots=True)
class DetectorScenes:
    """Which frames are drawn."""

    num_scenes: int = 150  # a night or a day each
    first_scene: int = 1000  # the shipped family was trained on 0 to 199
    min_visibility: float = 0.02  # boxes of which less is seen are nothing at all
    size_hw: tuple[int, int] = (128, 256)  # of the pictures
    redraw_every: int = 2  # frames; redrawing one takes longer than drawing it
    town: TownConfig = field(
        default_factory=lambda: TownConfig(duration_s=12.0, fps=2.0, key_fps=2.0, night_share=0.4, num_pedestrians=14.0)
    )

    def __post_init__(self) -> None:
        """Keeps away from held-out scenes."""
        if self.first_scene + self.num_scenes > FIRST_HELD_OUT:
            raise ValueError(f"scenes from {FIRST_HELD_OUT} on are held out; ask for fewer, or an earlier first_scene")


@dataclass(kw_only=True, slots=True)
class DetectorPicture:
    """One picture and all that is known of it."""

    picture_HWC: NDArray[np.uint8]
    redrawn_HWC: NDArray[np.uint8] | None  # as a model's autoencoder gives it back, perhaps smaller; None = none
    boxes: Boxes2D  # in pixels of picture_HWC; visibility is known
    is_night: bool


def draw_pictures(config: DetectorScenes, redraw: Redraw | None = None) -> list[DetectorPicture]:
    """All pictures; about six minutes of one core with the default scenes, redrawn copies included.

    Args:
        config: Which scenes.
        redraw: What a model makes of pictures (M, H, W, 3), perhaps smaller ones; None = no copies.
    """
    camera = Camera.front((config.size_hw[0], config.size_hw[1]))
    pictures = []
    for scene in range(config.first_scene, config.first_scene + config.num_scenes):
        episode = simulate(config.town, scene)
        frames = np.stack([render(episode, frame, camera) for frame in range(len(episode))])
        copies: list[NDArray[np.uint8] | None] = [None] * len(frames)
        if redraw is not None:
            redrawn = redraw(frames[:: config.redraw_every], numpy_generator("detector", "redraw", scene))
            copies[:: config.redraw_every] = redrawn
        for frame, (picture, copy) in enumerate(zip(frames, copies, strict=True)):
            boxes, _ = project_boxes(ego_boxes_to_camera(episode.boxes[frame], camera), camera)
            pictures.append(
                DetectorPicture(
                    picture_HWC=picture,
                    redrawn_HWC=copy,
                    boxes=boxes.select(boxes.visibility >= config.min_visibility),
                    is_night=episode.is_night,
                )
            )
    return pictures


@dataclass(kw_only=True, slots=True)
class DetectorVariation:
    """What is varied between samples; generated pictures are soft, small and of other colours."""

    redrawn: float = 0.9  # share of samples that are a model's copies, where there is one
    small: float = 0.5  # share of the others that went through half the size
    largest_crop: float = 0.45  # share of the sides that a crop takes away at most
    uncropped: float = 0.35  # share of samples that are not cropped
    blur_px: float = 1.6  # largest deviation of the blur
    light: float = 0.35  # strength of changes in brightness, contrast, gamma and colour
    noise: float = 0.04  # largest deviation of pixel noise, as a share of full scale


@dataclass(kw_only=True, slots=True)
class DetectorSample:
    """One training sample of the network's input size."""

    picture_CHW: NDArray[np.float32]  # [-1, 1]
    boxes: Boxes2D  # in its pixels
    is_night: bool


def draw_sample(
    pictures: Sequence[DetectorPicture],
    input_hw: tuple[int, int],
    rng: np.random.Generator,
    variation: DetectorVariation,
) -> DetectorSample:
    """A sample from a random picture."""
    source = pictures[int(rng.integers(len(pictures)))]
    height, width = source.picture_HWC.shape[:2]
    picture = source.picture_HWC
    if source.redrawn_HWC is not None and rng.random() < variation.redrawn:
        picture = resize_area(source.redrawn_HWC, (height, width))
    elif rng.random() < variation.small:
        picture = resize_area(resize_area(picture, (height // 2, width // 2)), (height, width))
    share = 1.0 if rng.random() < variation.uncropped else 1 - rng.uniform(0, variation.largest_crop)
    crop_hw = (round(height * share), round(width * share))
    top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), crop_hw, strict=True))
    picture = resize_area(picture[top : top + crop_hw[0], left : left + crop_hw[1]], input_hw)
    boxes = _cropped(source.boxes, (top, left), crop_hw, input_hw)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        boxes.xyxy_px = input_hw[1] * np.array([1, 0, 1, 0]) + boxes.xyxy_px[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
    return DetectorSample(picture_CHW=_light(picture, rng, variation), boxes=boxes, is_night=source.is_night)


def _cropped(boxes: Boxes2D, corner: tuple[int, int], crop_hw: tuple[int, int], input_hw: tuple[int, int]) -> Boxes2D:
    """Boxes of a crop in pixels of the input; those that lose most of themselves count as hardly seen."""
    before = (boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2]).prod(axis=1)
    moved = boxes.select(np.arange(len(boxes)))
    top, left = corner
    limits = [crop_hw[1], crop_hw[0], crop_hw[1], crop_hw[0]]
    moved.xyxy_px = np.clip(boxes.xyxy_px - [left, top, left, top], 0, limits)
    sides = moved.xyxy_px[:, 2:] - moved.xyxy_px[:, :2]
    moved.visibility = boxes.visibility * np.where(sides.prod(axis=1) < 0.3 * before, 0.3, 1.0)
    # A crop looks nearer: what is twice as large is half as far.
    moved.depth_m = boxes.depth_m * crop_hw[1] / input_hw[1]
    return moved.select((sides >= 1.0).all(axis=1)).scaled(crop_hw, input_hw)


def _light(
    picture_HWC: NDArray[np.uint8], rng: np.random.Generator, variation: DetectorVariation
) -> NDArray[np.float32]:
    """Other light, colours, sharpness and noise; float32 (C, H, W) in [-1, 1]."""
    strength = variation.light
    gamma = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-strength, strength) * 0.6)
    picture = gamma.astype(np.float32)[picture_HWC]
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, variation.blur_px)))
    grey = picture.mean(axis=-1, keepdims=True)
    picture = grey + (picture - grey) * np.float32(rng.uniform(1 - 2 * strength, 1 + strength))
    gain = 1 + rng.uniform(-strength, strength) * 0.6 + rng.uniform(-0.3, 0.3, size=3) * strength
    picture = picture * gain.astype(np.float32) + np.float32(rng.uniform(-0.2, 0.2) * strength)
    noise = np.float32(rng.uniform(0, variation.noise))
    picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * noise
    return np.ascontiguousarray((np.clip(picture, 0, 1) * 2 - 1).transpose(2, 0, 1), dtype=np.float32)
