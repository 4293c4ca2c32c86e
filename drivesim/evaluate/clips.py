"""From a video's timed frames to the clips that a protocol asks for, streaming.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drivesim.core.picture import crop_to_aspect, resize_area
from drivesim.core.seeds import numpy_generator
from drivesim.core.video import Picture
from drivesim.core.wording import number_of
from drivesim.evaluate.protocol import AFTER_CROPS, ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.videos import Frame, Video

RATE_TOLERANCE = 1.05  # a video this much slower than the protocol still counts as of its rate
_EPSILON_S = 1e-9
_OPENCV_FILTERS = {ResizeFilter.BILINEAR: cv2.INTER_LINEAR, ResizeFilter.BICUBIC: cv2.INTER_CUBIC}
_PILLOW_FILTERS = {
    ResizeFilter.BILINEAR_ANTIALIAS: Image.Resampling.BILINEAR,
    ResizeFilter.BICUBIC_ANTIALIAS: Image.Resampling.BICUBIC,
}


class Resampler:
    """Takes the timed pictures of one video one by one; gives those at k / fps seconds, each the nearest one shown."""

    def __init__(self, fps: float | None, name: str) -> None:
        """`fps` None = every picture; `name` of the video, for messages."""
        self.fps, self.name = fps, name
        self._index = 0
        self._before: tuple[float, Picture] | None = None
        self._interval_s = 0.0 if fps is None else 1.0 / fps

    def push(self, time_s: float, picture: Picture) -> Iterator[Picture]:
        """Adds the next picture; yields those that are settled by it.

        Raises:
            ValueError: the video has fewer frames a second than asked: repeated frames would stand still.
        """
        if self.fps is None:
            yield picture
            return
        before, self._before = self._before, (time_s, picture)
        if before is None:
            return
        self._interval_s = time_s - before[0]
        if self._interval_s > RATE_TOLERANCE / self.fps:
            raise ValueError(
                f"{self.name}: {1 / self._interval_s:.3g} frames a second at {time_s:.2f} s, "
                f"the protocol asks for {self.fps:g}; lower protocol.fps"
            )
        # Half way the earlier one is taken, as data sources do; the epsilon keeps float noise from deciding it.
        yield from self._until((before[0] + time_s) / 2 + _EPSILON_S, before[1])

    def finish(self) -> Iterator[Picture]:
        """What the last picture still stands for."""
        if self._before is not None:
            yield from self._until(self._before[0] + self._interval_s / 2 - _EPSILON_S, self._before[1])

    def _until(self, end_s: float, picture: Picture) -> Iterator[Picture]:
        assert self.fps is not None
        while self._index / self.fps < end_s:
            yield picture
            self._index += 1


def resample(timed: Iterable[tuple[float, Picture]], fps: float | None, name: str) -> Iterator[Frame]:
    """All of a video's pictures through a `Resampler`."""
    resampler = Resampler(fps, name)
    for time_s, picture in timed:
        yield from (settled.pixels() for settled in resampler.push(time_s, picture))
    yield from (settled.pixels() for settled in resampler.finish())


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


Clip = tuple[int, NDArray[np.uint8]]  # number of the first frame at the protocol's rate, and (T, H, W, 3)


def _lvdm_levels() -> NDArray[np.uint8]:
    """(256,) what becomes of each grey level on its way through [-1, 1] in float32, cut off in place of rounded."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return ((levels + np.float32(1)) * np.float32(255) / np.float32(2)).astype(np.uint8)


_LVDM_LEVELS = _lvdm_levels()


class ClipCutter:
    """Takes the timed pictures of one video one by one; gives the clips of a protocol, in time order.

    Memory holds one clip, or two where the protocol takes a random one.
    """

    def __init__(
        self,
        config: ProtocolConfig,
        size_hw: tuple[int, int],
        name: str,
        skip_frames: int = 0,
        truncates: bool = False,
    ) -> None:
        """Begins a video.

        Args:
            config: The protocol.
            size_hw: Size of the clips' frames.
            name: Of the video; a random clip follows from it.
            skip_frames: Frames at the front, at the protocol's rate, that are left out.
            truncates: Lower pixels as `ProtocolConfig.truncate_real` says.
        """
        self.config, self.size_hw, self.name, self.skip_frames = config, size_hw, name, skip_frames
        self.truncates = truncates
        self._resampler = Resampler(config.fps, name)
        self._window: deque[Frame] = deque(maxlen=config.span_frames)
        self._num_frames = 0
        self._shape: tuple[int, ...] | None = None
        self._rng = numpy_generator("random clip", config.seed, name)
        self._random: Clip | None = None

    @property
    def source_hw(self) -> tuple[int, int] | None:
        """Size of the video's own frames; None = none has come yet."""
        return None if self._shape is None else (self._shape[0], self._shape[1])

    def push(self, time_s: float, picture: Picture) -> Iterator[Clip]:
        """Adds the next picture; yields the clips that it completes, with frames that were left out counted.

        Raises:
            ValueError: a frame of another size, or a video that is too slow.
        """
        self._shape = self._shape or picture.shape
        if picture.shape != self._shape:
            raise ValueError(f"{self.name}: a frame of {picture.shape} among frames of {self._shape}")
        for resampled in self._resampler.push(time_s, picture):
            yield from self._add(resampled)

    def finish(self) -> Iterator[Clip]:
        """The clips that the video's end settles.

        Raises:
            ValueError: the video is too short for one clip.
        """
        for resampled in self._resampler.finish():
            yield from self._add(resampled)
        span = self.config.span_frames
        if len(self._window) < span:
            raise ValueError(
                f"{self.name}: {number_of(self._num_frames, 'frame')} at the protocol's rate, of which "
                f"{self.skip_frames} are given; a clip needs {span} more. Lower protocol.num_frames or score longer "
                "videos"
            )
        if self._random is not None:
            yield self._random

    def _add(self, picture: Picture) -> Iterator[Clip]:
        self._num_frames += 1
        if self._num_frames <= self.skip_frames:
            return
        self._window.append(fit(picture.pixels(), self.size_hw, self.config))
        if len(self._window) < self.config.span_frames:
            return
        start = self._num_frames - self.config.span_frames
        index = start - self.skip_frames
        if self.config.clip_choice is ClipChoice.RANDOM:
            # Reservoir sampling: each start has the same odds, without knowing how many there are.
            if self._rng.integers(index + 1) == 0:
                self._random = start, self._clip()
            return
        spacing = self.config.spacing_frames or self.config.span_frames
        if index % spacing == 0 and (index == 0 or self.config.clip_choice is ClipChoice.ALL):
            yield start, self._clip()

    def _clip(self) -> NDArray[np.uint8]:
        clip = np.stack(list(self._window)[:: self.config.frame_stride])
        return _LVDM_LEVELS[clip] if self.truncates else clip


def iter_clips(
    video: Video, config: ProtocolConfig, size_hw: tuple[int, int], skip_frames: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """The clips (T, H, W, 3) of one video alone, in time order.

    Raises:
        ValueError: unreadable, of varying size, too slow, or too short for one clip.
    """
    cutter = ClipCutter(config, size_hw, video.name, skip_frames)
    for time_s, picture in video.timed_pictures(config.untimed_fps or config.fps):
        yield from (clip for _, clip in cutter.push(time_s, picture))
    yield from (clip for _, clip in cutter.finish())
