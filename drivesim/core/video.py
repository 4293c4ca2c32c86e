"""Video files read through PyAV: probed, and read by timestamps or as a whole.

Times are seconds since the file's first shown frame, whatever offset the container starts at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from drivesim.core.tar_member import TarMember

VideoFile = str | Path | TarMember  # where a video's bytes are

# Files that are taken for videos by their name; what is in them decides PyAV.
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv", ".wmv",
)  # fmt: skip

# SWS_BILINEAR, SWS_ACCURATE_RND, SWS_FULL_CHR_H_INT: plain, swscale truncates, and frames get a grey level darker.
_ROUNDED = 0x2 | 0x40000 | 0x2000


@dataclass(kw_only=True, slots=True)
class VideoInfo:
    """What a video file says of itself, found without decoding a picture."""

    fps: float  # average over the whole file
    num_frames: int  # frames whose data is there
    header_frames: int | None  # that the header would show: more than num_frames = truncated; None = unknown
    duration_s: float  # last frame's own duration included
    size_hw: tuple[int, int]  # as stored, before any rotation
    timestamps_s: NDArray[np.float64]  # (num_frames,) increasing, the first about 0
    codec: str  # FFmpeg's name, "h264"
    pixel_format: str | None  # FFmpeg's name, "yuv420p"; None = unknown before decoding


class _DamagedFrameError(Exception):
    """A frame that was decoded from data with errors."""


@contextmanager
def opened(path: VideoFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; FFmpeg's errors become ValueErrors that name the file."""
    try:
        with ExitStack() as stack:
            if isinstance(path, TarMember):
                container = stack.enter_context(av.open(stack.enter_context(path.open())))
            elif Path(path).is_file():
                container = stack.enter_context(av.open(str(path)))
            else:
                raise FileNotFoundError(f"{path}: no such file")
            if not container.streams.video:
                raise ValueError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            if stream.time_base is None:
                raise ValueError(f"{path}: no timestamps in it")
            yield container, stream
    except (av.error.FFmpegError, _DamagedFrameError) as error:
        cause = error.strerror if isinstance(error, av.error.FFmpegError) else error
        remedy = "the file is damaged, cut short or no video; write it anew"
        raise ValueError(f"{path}: cannot be read as video: {cause}; {remedy}") from error


def _time_s(pts: int, stream: VideoStream) -> float:
    assert stream.time_base is not None
    return float((pts - (stream.start_time or 0)) * stream.time_base)


def _counts_frames(container: InputContainer) -> bool:
    """Whether frames are to be timed by their number: AVI has one rate, and no times but those of decoding."""
    return container.format.name == "avi"


def probe(path: VideoFile) -> VideoInfo:
    """Reads all packets of a file, decodes none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video, or holds no frame.
    """
    with opened(path) as (container, stream):
        ticks, num_hidden = [], 0
        for packet in container.demux(stream):
            pts = packet.dts if packet.pts is None else packet.pts
            num_hidden += bool(packet.size and packet.is_discard)
            if packet.size and pts is not None and not packet.is_discard:
                ticks.append(pts)
        if not ticks:
            raise ValueError(f"{path}: no frame in it")
        timestamps_s = np.array([_time_s(pts, stream) for pts in sorted(ticks)])
        stated_fps = float(stream.average_rate or stream.guessed_rate or 0)
        if _counts_frames(container) and stated_fps:
            timestamps_s = np.arange(len(ticks)) / stated_fps
        span_s = float(timestamps_s[-1] - timestamps_s[0])
        fps = (len(timestamps_s) - 1) / span_s if span_s > 0 else stated_fps
        return VideoInfo(
            fps=fps,
            num_frames=len(timestamps_s),
            header_frames=max(0, stream.frames - num_hidden) or None,
            duration_s=span_s + (1.0 / fps if fps else 0.0),
            size_hw=(stream.codec_context.height, stream.codec_context.width),
            timestamps_s=timestamps_s,
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt,
        )


def codec_of(path: VideoFile) -> str:
    """FFmpeg's name of a file's codec, "h264", from its head alone.

    Raises:
        FileNotFoundError, ValueError: as `probe`.
    """
    with opened(path) as (_, stream):
        return str(stream.codec_context.name)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    stated_fps = float(stream.average_rate or stream.guessed_rate or 0)
    if _counts_frames(container) and stated_fps:
        yield from ((index / stated_fps, frame) for index, frame in enumerate(container.decode(stream)))
        return
    for frame in container.decode(stream):
        pts = frame.dts if frame.pts is None else frame.pts
        if pts is not None:
            yield _time_s(pts, stream), frame


class Picture:
    """A frame whose pixels are made when they are first asked for: turning one to RGB takes as long as decoding it."""

    def __init__(self, frame: VideoFrame | NDArray[np.uint8]) -> None:
        """`frame`: as decoded, or its pixels themselves.

        Raises:
            _DamagedFrameError: decoders fill in what is missing, and show smears.
        """
        if isinstance(frame, VideoFrame) and frame.is_corrupt:
            raise _DamagedFrameError(f"the frame with time stamp {frame.pts} is damaged")
        self._frame = frame

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) of the pixels."""
        if not isinstance(self._frame, VideoFrame):
            return self._frame.shape
        height, width = self._frame.height, self._frame.width
        return (width, height, 3) if round(self._frame.rotation / 90) % 2 else (height, width, 3)

    def pixels(self) -> NDArray[np.uint8]:
        """The picture as shown: uint8 RGB (H, W, 3), with the container's rotation applied.

        Raises:
            ValueError: a pixel format that cannot be turned to RGB.
        """
        if isinstance(self._frame, VideoFrame):
            try:
                picture: NDArray[Any] = self._frame.to_ndarray(format="rgb24", interpolation=_ROUNDED)
            except av.error.FFmpegError as error:
                raise ValueError(f"the frame with time stamp {self._frame.pts} cannot be shown: {error}") from error
            if self._frame.rotation:
                picture = np.rot90(picture, k=round(self._frame.rotation / 90))
            self._frame = np.ascontiguousarray(picture, dtype=np.uint8)
        return self._frame


def iter_pictures(path: VideoFile) -> Iterator[tuple[float, Picture]]:
    """All frames in the order shown: (time in seconds, picture); one in memory at a time.

    Raises:
        FileNotFoundError, ValueError: as `probe`, and ValueError where the data is damaged.
    """
    with opened(path) as (container, stream):
        for time_s, frame in _decoded(container, stream):
            yield time_s, Picture(frame)


def iter_frames(path: VideoFile) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """As `iter_pictures`, of all the pixels: uint8 RGB (H, W, 3)."""
    for time_s, picture in iter_pictures(path):
        yield time_s, picture.pixels()


def read_at(path: VideoFile, times_s: NDArray[np.float64], tolerance_s: float | None = None) -> NDArray[np.uint8]:
    """The frame shown at each of the given times.

    That is the last frame that starts at or before the time, or at most `tolerance_s` after it. A
    time before the first frame gets the first.

    Args:
        path: Video file.
        times_s: (T,) seconds since the first frame, in any order.
        tolerance_s: Absorbs rounded timestamps; None = half a frame's average duration. Pass a small
            one to get exact frames of a file whose rate varies.

    Returns:
        uint8 RGB (T, H, W, 3).

    Raises:
        FileNotFoundError, ValueError: as `probe`; ValueError also for a time more than half a
            frame's duration after the last frame's end.
    """
    times_s = np.asarray(times_s, dtype=np.float64)
    if times_s.ndim != 1 or len(times_s) == 0:
        raise ValueError(f"times_s has shape {times_s.shape}, expected (T,) with T >= 1")
    frames = _read_from(path, times_s, tolerance_s, is_seeking=True)
    if frames is None:  # MPEG-TS and damaged indices may send a seek past its aim
        frames = _read_from(path, times_s, tolerance_s, is_seeking=False)
    if frames is None:
        raise ValueError(f"{path}: no frame can be decoded")
    return frames


def _read_from(
    path: VideoFile, times_s: NDArray[np.float64], tolerance_s: float | None, *, is_seeking: bool
) -> NDArray[np.uint8] | None:
    """`read_at` with or without a jump to the earliest time; None = nothing decoded, or landed too late."""
    with opened(path) as (container, stream):
        half_s = 0.5 / float(stream.average_rate or stream.guessed_rate or 25)
        early_s = half_s if tolerance_s is None else tolerance_s
        is_seeking = is_seeking and not _counts_frames(container)
        order = np.argsort(times_s, kind="stable")
        seek_s = float(times_s[order[0]]) - 2 * half_s
        if is_seeking:
            _seek_before(container, stream, seek_s)
        found: dict[int, NDArray[np.uint8]] = {}
        waiting = [int(index) for index in order[::-1]]  # the earliest is last
        shown: tuple[float, VideoFrame] | None = None
        for time_s, frame in _decoded(container, stream):
            if shown is not None:
                _serve(waiting, times_s, shown[1], time_s - early_s, found)
            elif is_seeking and seek_s > 0 and time_s > times_s[order[0]] + early_s:
                return None
            shown = (time_s, frame)
            if not waiting:
                break
        if shown is None:
            return None
        _serve(waiting, times_s, shown[1], shown[0] + 3 * half_s, found)
    if waiting:
        raise ValueError(f"{path}: no frame at {times_s[waiting[-1]]:.3f} s; the last one starts at {shown[0]:.3f} s")
    return np.stack([found[index] for index in range(len(times_s))])


def _seek_before(container: InputContainer, stream: VideoStream, time_s: float) -> None:
    """Moves to a key frame at or before a time; at the file's beginning there is nothing to do."""
    if time_s <= 0:
        return
    assert stream.time_base is not None
    pts = int(time_s / stream.time_base) + (stream.start_time or 0)
    container.seek(pts, stream=stream, backward=True)


def _serve(
    waiting: list[int],
    times_s: NDArray[np.float64],
    frame: VideoFrame,
    before_s: float,
    found: dict[int, NDArray[np.uint8]],
) -> None:
    """Gives `frame` to all waiting times before `before_s` and takes them off the list."""
    if not waiting or times_s[waiting[-1]] >= before_s:
        return
    picture = Picture(frame).pixels()
    while waiting and times_s[waiting[-1]] < before_s:
        found[waiting.pop()] = picture


def read_all(path: VideoFile) -> tuple[NDArray[np.uint8], float]:
    """All frames, uint8 RGB (T, H, W, 3), and the average frames per second; for short files."""
    times_s, frames = [], []
    for time_s, frame in iter_frames(path):
        times_s.append(time_s)
        frames.append(frame)
    if not frames:
        raise ValueError(f"{path}: no frame can be decoded")
    if len(frames) == 1:
        return np.stack(frames), probe(path).fps
    return np.stack(frames), (len(frames) - 1) / (times_s[-1] - times_s[0])
