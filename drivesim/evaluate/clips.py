"""From a video's timed frames to the clips that a protocol asks for, streaming.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.picture import crop_to_aspect, resize_area
from drivesim.evaluate.protocol import ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.videos import Frame, Video

_RATE_TOLERANCE = 1.05  # a video this much slower than the protocol still counts as of its rate


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
    """A frame cropped and resized as the protocol says."""
    if frame_HWC.shape[:2] == tuple(size_hw):
        return frame_HWC
    if config.crop is Crop.CENTRE:
        frame_HWC, _ = crop_to_aspect(frame_HWC, size_hw[1] / size_hw[0])
    if config.resize is ResizeFilter.AREA:
        return resize_area(frame_HWC, size_hw)
    filters = {ResizeFilter.BILINEAR: cv2.INTER_LINEAR, ResizeFilter.BICUBIC: cv2.INTER_CUBIC}
    resized = cv2.resize(frame_HWC, (size_hw[1], size_hw[0]), interpolation=filters[config.resize])
    return np.asarray(resized, dtype=np.uint8)


def iter_clips(
    video: Video, config: ProtocolConfig, size_hw: tuple[int, int], skip_frames: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """The clips (T, H, W, 3) of one video, in time order; memory holds one clip.

    Args:
        video: What to read.
        config: The protocol.
        size_hw: Size of the clips' frames.
        skip_frames: Frames at the front, at the protocol's rate, that are left out.

    Raises:
        ValueError: unreadable, of varying size, too slow, or too short for one clip.
    """
    span = config.span_frames
    spacing = config.spacing_frames or span
    window: deque[Frame] = deque(maxlen=span)
    frames = resample(video.timed_frames(config.untimed_fps or config.fps), config.fps, video.name)
    num_frames = 0
    num_clips = 0
    shape: tuple[int, ...] | None = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{video.name}: a frame of {frame.shape} among frames of {shape}")
        num_frames += 1
        if num_frames <= skip_frames:
            continue
        window.append(fit(frame, size_hw, config))
        wanted = num_clips == 0 or config.clip_choice is ClipChoice.ALL
        if wanted and num_frames - skip_frames == num_clips * spacing + span:
            num_clips += 1
            yield np.stack(list(window)[:: config.frame_stride])
    if num_clips == 0:
        raise ValueError(
            f"{video.name}: {num_frames} frames at the protocol's rate, of which {skip_frames} are given; "
            f"a clip needs {span} more. Lower protocol.num_frames or score longer videos"
        )
