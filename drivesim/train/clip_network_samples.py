"""Labelled training samples for the evaluators' clip network: random windows, crops, light and ways of playing.

Legend: T frames, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import COUNTED_AS_CARS, Boxes2D
from drivesim.core.clip import Clip
from drivesim.core.picture import resize_area

_CAR_IDS = [car.id for car in COUNTED_AS_CARS]
EGO_SCALE = np.array([2.0, 0.05], dtype=np.float32)  # metres and radians between two frames, about their spread
NEAREST_M = 10.0  # the label "nearest car" is this over its distance
_MOVES_M = 1.0  # an ego car that covers less within a sample may be standing: forward looks like frozen


@dataclass(kw_only=True, slots=True)
class ClipSampling:
    """What is varied between training samples."""

    strides: tuple[int, ...] = (1, 2, 3, 4)  # every how manieth frame of the source is taken
    smallest_crop: float = 0.75  # share of the picture's sides that a crop keeps at least
    shake_px: float = 0.6  # camera shake of natural clips, standard deviation in source pixels
    jitter_px: int = 6  # largest displacement of a "jittered" frame in source pixels
    blur_px: tuple[float, float] = (1.2, 3.0)  # standard deviation of a "blurred" clip in network pixels
    light: float = 0.35  # strength of changes in brightness, contrast, gamma and colour
    noise: float = 0.03  # largest standard deviation of pixel noise, as a share of full scale


@dataclass(kw_only=True, slots=True)
class ClipSample:
    """One training sample; labels that are not known are nan."""

    frames_TCHW: NDArray[np.float32]  # [-1, 1]
    playback: int  # index into the network's `playbacks`; -1 = not told
    ego: NDArray[np.float32]  # (T, 2) way forward and yaw since the frame before, over EGO_SCALE
    num_cars: NDArray[np.float32]  # (T,) log(1 + cars in the picture)
    nearest: NDArray[np.float32]  # (T,) NEAREST_M / distance of the nearest car, 0 = none
    night: float  # 0 or 1
    occupancy: NDArray[np.float32]  # (T, grid height, grid width) 1 where a car's box covers the cell's centre


def draw_sample(
    clips: Sequence[Clip],
    num_frames: int,
    playback: tuple[int, str],
    shape: tuple[tuple[int, int], tuple[int, int]],
    rng: np.random.Generator,
    sampling: ClipSampling,
) -> ClipSample:
    """One sample from a random place of a random clip.

    Args:
        clips: Sources, each long enough for `num_frames` frames at stride 1.
        num_frames: T.
        playback: Its index and its name.
        shape: (height, width) of the network's input, and of the map of cars.
        rng: All randomness.
        sampling: What is varied.
    """
    clip = clips[int(rng.integers(len(clips)))]
    strides = [stride for stride in sampling.strides if (num_frames - 1) * stride < len(clip)]
    if not strides:
        raise ValueError(f"clip {clip.name} has {len(clip)} frames; samples need {num_frames}")
    stride = strides[int(rng.integers(len(strides)))]
    start = int(rng.integers(len(clip) - (num_frames - 1) * stride))
    times = start + stride * np.arange(num_frames)
    index, name = playback
    natural = name in ("forward", "blurred")
    ego = _ego_labels(clip, times)
    stands = np.abs(ego[1:, 0]).sum() * EGO_SCALE[0] < _MOVES_M  # False where the way is not known
    if stands and name in ("forward", "reversed", "shuffled"):
        index = -1
    shown = times[play_order(num_frames, name, rng)]
    corners, size_hw = _crop(clip.size_hw, num_frames, name, rng, sampling)
    flip = bool(rng.random() < 0.5)
    frames = np.stack(
        [
            resize_area(clip.frames_THWC[t, top : top + size_hw[0], left : left + size_hw[1]], shape[0])
            for t, (top, left) in zip(shown, corners, strict=True)
        ]
    )
    boxes = _cropped_boxes(clip, shown, corners, size_hw, shape[0], flip)
    cars, nearest, occupancy = _car_labels(boxes, shape)
    if flip:
        frames = frames[:, :, ::-1]
        ego = ego * np.array([1, -1], dtype=np.float32)
    return ClipSample(
        frames_TCHW=_light(frames, name, rng, sampling),
        playback=index,
        ego=ego if natural else np.full_like(ego, np.nan),
        num_cars=cars,
        nearest=nearest,
        night=float("nan") if clip.is_night is None else float(clip.is_night),
        occupancy=occupancy,
    )


def play_order(num_frames: int, name: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """The frames' order (T,) for a way of playing."""
    forward = np.arange(num_frames)
    if name == "reversed":
        return forward[::-1].copy()
    if name == "frozen":
        return np.zeros_like(forward)
    if name != "shuffled":
        return forward
    while True:
        order = rng.permutation(num_frames)
        if np.abs(np.diff(order)).mean() > 1.5:  # neither the natural order nor its reverse
            return order


def _ego_labels(clip: Clip, times: NDArray[np.int64]) -> NDArray[np.float32]:
    """(T, 2) way forward and yaw since the frame before, scaled; the first frame repeats the second's."""
    if clip.ego_path is None:
        return np.full((len(times), 2), np.nan, dtype=np.float32)
    path = clip.ego_path[times]
    way = np.hypot(*np.diff(path[:, :2], axis=0).T)
    yaw = np.diff(np.unwrap(path[:, 2]))
    steps = np.stack([way, yaw], axis=1)
    return np.asarray(np.concatenate([steps[:1], steps]) / EGO_SCALE, dtype=np.float32)


def _crop(
    source_hw: tuple[int, int], num_frames: int, name: str, rng: np.random.Generator, sampling: ClipSampling
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Top-left corners (T, 2) and the one size of the frames' crops, in source pixels."""
    share = rng.uniform(sampling.smallest_crop, 0.95)
    size_hw = (round(source_hw[0] * share), round(source_hw[1] * share))
    room = np.array(source_hw) - size_hw
    if name == "jittered":
        moves = rng.uniform(-1, 1, size=(num_frames, 2)) * rng.uniform(0.4, 1.0) * sampling.jitter_px
    else:
        moves = rng.normal(size=(num_frames, 2)) * rng.uniform(0, sampling.shake_px)
    corners = np.rint(rng.uniform(size=2) * room + moves).astype(np.int64)
    return np.clip(corners, 0, room), size_hw


def _cropped_boxes(
    clip: Clip,
    shown: NDArray[np.int64],
    corners: NDArray[np.int64],
    crop_hw: tuple[int, int],
    input_hw: tuple[int, int],
    flip: bool,
) -> list[Boxes2D] | None:
    """Boxes of cars in network pixels of the cropped and flipped frames; None = not known."""
    if clip.boxes is None:
        return None
    result = []
    for t, (top, left) in zip(shown, corners, strict=True):
        boxes = clip.boxes[t].select(np.isin(clip.boxes[t].class_ids, _CAR_IDS))
        boxes.xyxy_px = np.clip(boxes.xyxy_px - [left, top, left, top], 0, [*crop_hw[::-1], *crop_hw[::-1]])
        boxes = boxes.scaled(crop_hw, input_hw)
        if flip:
            boxes.xyxy_px = input_hw[1] * np.array([1, 0, 1, 0]) + boxes.xyxy_px[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
        sides = boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2]
        result.append(boxes.select((sides >= 1.0).all(axis=1)))
    return result


def _car_labels(
    boxes: list[Boxes2D] | None, shape: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(T,) number of cars, (T,) nearness, (T, h, w) map; nan where the boxes are not known."""
    (height, width), (rows, columns) = shape
    if boxes is None:
        unknown = np.full((1, rows, columns), np.nan, dtype=np.float32)
        return unknown[:, 0, 0], unknown[:, 0, 0], unknown
    y = ((np.arange(rows) + 0.5) * height / rows)[:, None, None]
    x = ((np.arange(columns) + 0.5) * width / columns)[None, :, None]
    cars, nearest, maps = [], [], []
    for frame in boxes:
        left, top, right, bottom = frame.xyxy_px.T
        maps.append(((x >= left) & (x < right) & (y >= top) & (y < bottom)).any(axis=-1))
        cars.append(np.log1p(len(frame)))
        nearest.append(NEAREST_M / max(float(np.nanmin(frame.depth_m)), 2.0) if len(frame) else 0.0)
    return np.array(cars, np.float32), np.array(nearest, np.float32), np.array(maps, np.float32)


def _light(
    frames_THWC: NDArray[np.uint8], name: str, rng: np.random.Generator, sampling: ClipSampling
) -> NDArray[np.float32]:
    """Other light, colours, sharpness and noise; float32 (T, C, H, W) in [-1, 1]."""
    strength = sampling.light
    gamma = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-strength, strength))
    frames = gamma.astype(np.float32)[frames_THWC]
    if name == "blurred":
        sigma = float(rng.uniform(*sampling.blur_px))
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])
    grey = frames.mean(axis=-1, keepdims=True)
    frames = grey + (frames - grey) * np.float32(rng.uniform(1 - 2 * strength, 1 + strength))
    gain = 1 + rng.uniform(-strength, strength) * 0.7 + rng.uniform(-0.3, 0.3, size=3) * strength
    exposure = 1 + np.cumsum(rng.normal(size=(len(frames), 1, 1, 1)), axis=0) * rng.uniform(0, 0.02)
    frames = frames * (gain * exposure).astype(np.float32) + np.float32(rng.uniform(-0.3, 0.3) * strength)
    noise = np.float32(rng.uniform(0, sampling.noise))
    frames += rng.standard_normal(frames.shape, dtype=np.float32) * noise
    return np.ascontiguousarray((np.clip(frames, 0, 1) * 2 - 1).transpose(0, 3, 1, 2), dtype=np.float32)
