"""From a video's timed frames to the clips that a protocol asks for, streaming.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drivesim.core.picture import crop_to_aspect, resize_area
from drivesim.core.seeds import numpy_generator
from drivesim.evaluate.protocol import AFTER_CROPS, ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.videos import Frame, Video

_RATE_TOLERANCE = 1.05  # a video this much slower than the protocol still counts as of its rate
_OPENCV_FILTERS = {ResizeFilter.BILINEAR: cv2.INTER_LINEAR, ResizeFilter.BICUBIC: cv2.INTER_CUBIC}
_PILLOW_FILTERS = {
    ResizeFilter.BILINEAR_ANTIALIAS: Image.Resampling.BILINEAR,
    ResizeFilter.BICUBIC_ANTIALIAS: Image.Resampling.BICUBIC,
}


def resample(timed: Iterator[tuple[float, Frame]], fps: float | None, name: str) -> Iterator[Frame]:
    """Frames at k / fps seconds, each the nearest one shown; None = every frame.

    Raises:
        ValueError: the video has fewer frames a second than asked: repeated frames would stand still.
    """
    if fps is None:
        yield from (frame for _, frame in timed)
        return
    index = 0
    before: tuple[float, Frame] | None = None
    interval_s = 1.0 / fps
    for time_s, frame in timed:
        if before is not None:
            interval_s = time_s - before[0]
            if interval_s > _RATE_TOLERANCE / fps:
                raise ValueError(
                    f"{name}: {1 / interval_s:.3g} frames a second at {time_s:.2f} s, the protocol asks for {fps:g}; "
                    "lower protocol.fps"
                )
            while index / fps < (before[0] + time_s) / 2:
                yield before[1]
                index += 1
        before = (time_s, frame)
    while before is not None and index / fps < before[0] + interval_s / 2:
        yield before[1]
        index += 1


def fit(frame_HWC: Frame, size_hw: tuple[int, int], config: ProtocolConfig) -> Frame:
    """A frame cropped and resized as the protocol says; one that has the size already stays as it is."""
    if frame_HWC.shape[:2] == tuple(size_hw):
        return frame_HWC
    if config.crop not in AFTER_CROPS:
        if config.crop is Crop.CENTRE:
            frame_HWC, _ = crop_to_aspect(frame_HWC, size_hw[1] / size_hw[0])
        return _resized(frame_HWC, size_hw, config.resize)
    frame_HWC = _resized(frame_HWC, config.resize_hw or _covering(frame_HWC.shape[:2], size_hw), config.resize)
    height, width = frame_HWC.shape[:2]
    left = (width - size_hw[1]) // 2
    top = height - size_hw[0] if config.crop is Crop.AFTER_BOTTOM else (height - size_hw[0]) // 2
    return frame_HWC[top : top + size_hw[0], left : left + size_hw[1]]


def _covering(shape_hw: tuple[int, ...], size_hw: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the shape that has at least `size_hw`: one side equal, the other rounded up."""
    height, width = shape_hw
    if size_hw[0] * width >= size_hw[1] * height:
        return size_hw[0], -(-width * size_hw[0] // height)
    return -(-height * size_hw[1] // width), size_hw[1]


def _resized(frame_HWC: Frame, size_hw: tuple[int, int], resize: ResizeFilter) -> Frame:
    if resize is ResizeFilter.AREA:
        return resize_area(frame_HWC, size_hw)
    if resize in _PILLOW_FILTERS:
        picture = Image.fromarray(frame_HWC).resize((size_hw[1], size_hw[0]), _PILLOW_FILTERS[resize])
        return np.asarray(picture, dtype=np.uint8)
    resized = cv2.resize(frame_HWC, (size_hw[1], size_hw[0]), interpolation=_OPENCV_FILTERS[resize])
    return np.asarray(resized, dtype=np.uint8)


def iter_clips(
    video: Video, config: ProtocolConfig, size_hw: tuple[int, int], skip_frames: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """The clips of `indexed_clips` alone."""
    return (clip for _, clip in indexed_clips(video, config, size_hw, skip_frames))


def indexed_clips(
    video: Video, config: ProtocolConfig, size_hw: tuple[int, int], skip_frames: int = 0
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The clips (T, H, W, 3) of one video, in time order; memory holds one clip, or two for a random one.

    Args:
        video: What to read.
        config: The protocol.
        size_hw: Size of the clips' frames.
        skip_frames: Frames at the front, at the protocol's rate, that are left out.

    Yields:
        The number of a clip's first frame, at the protocol's rate and with those left out counted, and the clip.

    Raises:
        ValueError: unreadable, of varying size, too slow, or too short for one clip.
    """
    chosen = _windows(video, config, size_hw, skip_frames)
    if config.clip_choice is ClipChoice.RANDOM:
        yield _random_clip(chosen, config, video.name)
        return
    spacing = config.spacing_frames or config.span_frames
    for start, window in chosen:
        index = start - skip_frames
        if index % spacing == 0 and (index == 0 or config.clip_choice is ClipChoice.ALL):
            yield start, np.stack(list(window)[:: config.frame_stride])


def _random_clip(
    windows: Iterator[tuple[int, deque[Frame]]], config: ProtocolConfig, name: str
) -> tuple[int, NDArray[np.uint8]]:
    """One of the windows, each with the same odds, without knowing their number (reservoir sampling)."""
    rng = numpy_generator("random clip", config.seed, name)
    chosen: tuple[int, list[Frame]] | None = None
    for seen, (start, window) in enumerate(windows, start=1):
        if rng.integers(seen) == 0:
            chosen = start, list(window)[:: config.frame_stride]
    assert chosen is not None, "a video without a window has raised"
    return chosen[0], np.stack(chosen[1])


def _windows(
    video: Video, config: ProtocolConfig, size_hw: tuple[int, int], skip_frames: int
) -> Iterator[tuple[int, deque[Frame]]]:
    """Every run of as many frames as a clip spans, by the number of its first frame; one deque, which moves on."""
    window: deque[Frame] = deque(maxlen=config.span_frames)
    frames = resample(video.timed_frames(config.untimed_fps or config.fps), config.fps, video.name)
    num_frames = 0
    shape: tuple[int, ...] | None = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{video.name}: a frame of {frame.shape} among frames of {shape}")
        num_frames += 1
        if num_frames <= skip_frames:
            continue
        window.append(fit(frame, size_hw, config))
        if len(window) == config.span_frames:
            yield num_frames - config.span_frames, window
    if len(window) < config.span_frames:
        raise ValueError(
            f"{video.name}: {num_frames} frames at the protocol's rate, of which {skip_frames} are given; "
            f"a clip needs {config.span_frames} more. Lower protocol.num_frames or score longer videos"
        )
