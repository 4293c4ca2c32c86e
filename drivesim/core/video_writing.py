"""Video files written through PyAV: H.264 that browsers play, and joined without encoding again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from drivesim.core.files import atomic_path
from drivesim.core.video import opened

_DEFAULT_CRF = 17  # x264: visually lossless for most eyes
# Of toytown's futures within 0.2 dB of "medium" with a crf of 18, in about a fifth of its time and 1.6 times its bytes.
_PRESET = "superfast"  # of x264
_BT601 = 6  # AVCOL_SPC_SMPTE170M
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
_KEY_FRAME_EVERY_S = 4.0  # how far a browser has to decode after a jump
# Part of what fixes a video's bytes. Looking for cuts, of which futures have none, takes a fifth of x264's time.
ENCODING = f"x264 {_PRESET}, no cuts, no bit rate"


class VideoWriter:
    """Streams RGB frames into an MP4 that plays in browsers: H.264, yuv420p, index in front.

    The file has its name only once it is whole: inside `with` it is written under a temporary name,
    and an error removes it. One encoder thread and no B-frames: the same frames give the same
    bytes, and files of one size and rate can be joined (`join_videos`).
    """

    def __init__(self, path: str | Path, fps: float, crf: int = _DEFAULT_CRF) -> None:
        """Opens nothing yet.

        Args:
            path: Where the MP4 goes; must end in .mp4.
            fps: Frames per second.
            crf: x264's constant quality, 0 (lossless) to 51.
        """
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise ValueError(f"{path}: videos are written as .mp4")
        if not fps > 0:
            raise ValueError(f"{fps} frames per second; must be above 0")
        self.rate = Fraction(fps).limit_denominator(1001)
        self.crf = crf
        self.num_frames = 0
        self._stack = ExitStack()
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:  # closes what is open if the next line fails
            temporary = stack.enter_context(atomic_path(self.path))
            self._container = stack.enter_context(av.open(str(temporary), mode="w", options={"movflags": "+faststart"}))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._stream is None:
                raise ValueError(f"{self.path}: a video without a frame")
            self._container.mux(self._stream.encode(None))

    def write(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Adds one uint8 RGB frame (H, W, 3); all have the first one's even height and width."""
        if self._stream is None:
            self._stream = self._add_stream(frame_HWC)
        expected = (self._stream.height, self._stream.width, 3)
        if frame_HWC.dtype != np.uint8 or frame_HWC.shape != expected:
            raise ValueError(f"{self.path}: frame is {frame_HWC.dtype} {frame_HWC.shape}, expected uint8 {expected}")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame.pts = self.num_frames
        frame.time_base = 1 / self.rate
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def _add_stream(self, frame_HWC: NDArray[np.uint8]) -> VideoStream:
        height, width = frame_HWC.shape[:2]
        if height % 2 or width % 2:
            raise ValueError(f"{self.path}: {width} x {height} pixels; yuv420p needs an even width and height")
        stream = self._container.add_stream("libx264", rate=self.rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.time_base = 1 / self.rate
        # Untagged, browsers guess the matrix by the picture's height; what is written here is BT.601.
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = _LIMITED_RANGE
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(self.crf),
            "preset": _PRESET,
            "sc_threshold": "0",
            "bf": "0",
            "g": str(max(1, round(_KEY_FRAME_EVERY_S * self.rate))),
        }
        if _has_avx512():
            # With AVX-512 x264 now and then codes a frame's last macroblock another way, from the same pictures: the
            # first videos of 10 in 33 processes differed (PyAV 18.1, Zen 4), and of none in 49 with AVX2.
            stream.options |= {"x264-params": "asm=avx2"}
        return stream


@cache
def _has_avx512() -> bool:
    """Whether the processor says so; other systems than Linux do not tell."""
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and "avx512" in processor.read_text()


def join_videos(parts: Sequence[str | Path], path: str | Path, first: int | None = None) -> int:
    """Joins files of one `VideoWriter` kind into one MP4 by copying their packets; nothing is encoded again.

    Args:
        parts: The files, in order.
        path: Where the MP4 goes.
        first: Frames to take, from the beginning on; None = all.

    Returns:
        The number of frames.

    Raises:
        ValueError: no parts, or parts of different size, rate or codec settings.
    """
    if not parts:
        raise ValueError(f"{path}: no parts to join")
    num_frames = 0
    target: VideoStream | None = None
    # The bit rate would be the first part's: other bytes where the same packets come in other parts.
    options = {"movflags": "+faststart", "write_btrt": "0"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=options) as out:
        for source, packet in islice(_packets(parts), first):
            if target is None:
                target = out.add_stream_from_template(source)
                target.time_base = source.time_base
            _stamp(packet, num_frames, source)
            packet.stream = target
            out.mux(packet)
            num_frames += 1
    return num_frames


def _packets(parts: Sequence[str | Path]) -> Iterator[tuple[VideoStream, Packet[VideoStream]]]:
    """All packets of files of one kind. A generator, so that a writer's error is not blamed on the file read."""
    first_settings: tuple[object, ...] | None = None
    for part in parts:
        with opened(part) as (container, stream):
            settings = (stream.codec_context.extradata, stream.average_rate, stream.time_base)
            first_settings = first_settings or settings
            if settings != first_settings:
                raise ValueError(f"{part}: differs from {parts[0]} in size, rate or codec settings")
            for packet in container.demux(stream):
                if packet.size:  # the last one is an empty flush packet
                    yield stream, packet


def _stamp(packet: Packet[VideoStream], frame_index: int, source: VideoStream) -> None:
    """Gives a packet the time of the joined file's frame `frame_index`."""
    assert source.average_rate is not None and source.time_base is not None
    ticks = 1 / (source.average_rate * source.time_base)  # a frame's duration
    packet.pts = packet.dts = round(frame_index * ticks)
    packet.duration = round((frame_index + 1) * ticks) - round(frame_index * ticks)
