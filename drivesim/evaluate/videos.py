"""Videos of any maker as streams of timed frames: files, GIFs, folders of pictures, arrays, iterables.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import sha256_file
from drivesim.core.picture import load_picture
from drivesim.core.video import VIDEO_SUFFIXES, Picture, codec_of, iter_pictures, probe
from drivesim.evaluate.frames import as_uint8

MOVING_SUFFIXES = (*VIDEO_SUFFIXES, ".gif")
ARRAY_SUFFIXES = (".npy", ".npz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

_UNREADABLE = (ValueError, TypeError, OSError, EOFError, BadZipFile, zlib.error)  # what NumPy says of broken files

Frame = NDArray[np.uint8]  # (H, W, 3)


@dataclass(kw_only=True, slots=True)
class Video:
    """One video: a file, a folder of pictures, or frames in memory."""

    name: str  # unique in its set
    path: Path | None = None  # a file or a folder of pictures
    frames: Any = None  # (T, H, W, 3) in place of a path: an array, or a list of frames
    fps: float | None = None  # of what carries no rate itself; None = not known
    drive: str | None = None  # what it was recorded on or started from; None = this video alone
    prompt: str | None = None  # the text that it was made from; None = not known

    def __post_init__(self) -> None:
        """Refuses frames that can be read once: scores, digest and report each read them."""
        if isinstance(self.frames, Iterator):
            raise ValueError(f"{self.name}: frames from a generator; give an array or a list of frames")

    @property
    def is_timed(self) -> bool:
        """Whether the file itself says when each frame is shown."""
        return self.path is not None and self.path.suffix.lower() in MOVING_SUFFIXES

    def own_fps(self) -> float | None:
        """Frames a second; None = not known.

        Raises:
            ValueError: a file that is no video.
        """
        if self.is_timed:
            assert self.path is not None
            return round(probe(self.path).fps, 3)
        if self.path is not None and self.path.suffix.lower() == ".npz":
            return _array_fps(self.path) or self.fps
        return self.fps

    def codec(self) -> str:
        """What the pixels have been through: FFmpeg's name of a file's codec, the kinds of pictures, or "array".

        Raises:
            ValueError: a file that is no video.
        """
        if self.is_timed:
            assert self.path is not None
            return codec_of(self.path)
        if self.path is not None and self.path.is_dir():
            return ", ".join(sorted({picture.suffix.lower().lstrip(".") for picture in _pictures(self.path)}))
        return "array"

    def sha256(self) -> str:
        """Digest of the file's bytes, and of the rate where it is told; of frames in memory, of rate, sizes, pixels."""
        if self.path is None:
            digest = hashlib.sha256(f"{self.fps}".encode())
            for frame in self.frames:
                pixels = as_uint8(frame, self.name)
                digest.update(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
            return digest.hexdigest()
        if self.path.is_file():
            of_bytes = sha256_file(self.path)
        else:
            digests = "".join(sha256_file(picture) for picture in _pictures(self.path))
            of_bytes = hashlib.sha256(digests.encode()).hexdigest()
        if self.is_timed or self.fps is None:
            return of_bytes
        return hashlib.sha256(f"{self.fps} {of_bytes}".encode()).hexdigest()

    def timed_frames(self, untimed_fps: float | None) -> Iterator[tuple[float, Frame]]:
        """As `timed_pictures`, of all the pixels: uint8 (H, W, 3)."""
        return ((time_s, picture.pixels()) for time_s, picture in self.timed_pictures(untimed_fps))

    def timed_pictures(self, untimed_fps: float | None) -> Iterator[tuple[float, Picture]]:
        """(seconds since the first frame, picture), one in memory at a time.

        Args:
            untimed_fps: Rate of what carries none; None = frame k is at k seconds.

        Raises:
            ValueError: unreadable, truncated, or frames that are no 8-bit RGB pictures.
        """
        pictures, has_times = self.stream()
        if has_times or untimed_fps is None:
            return pictures
        return ((time_s / untimed_fps, picture) for time_s, picture in pictures)

    def stream(self) -> tuple[Iterator[tuple[float, Picture]], bool]:
        """What `timed_pictures` gives, and whether the times are known; else frame k is at k seconds.

        Raises:
            ValueError: as `timed_pictures`, there or while the pictures are read.
        """
        if self.is_timed:
            assert self.path is not None
            return _whole_file(self.path), True
        frames, fps = self._untimed()
        shown = (Picture(as_uint8(frame, self.name)) for frame in frames)
        return ((index / (fps or 1.0), picture) for index, picture in enumerate(shown)), fps is not None

    def _untimed(self) -> tuple[Iterable[Any], float | None]:
        if self.path is None:
            return self.frames, self.fps
        if self.path.is_dir():
            return (load_picture(picture) for picture in _pictures(self.path)), self.fps
        array, fps = _load_array(self.path)
        return array, fps or self.fps


def _whole_file(path: Path) -> Iterator[tuple[float, Picture]]:
    """All pictures of a file; a shorter stream than the file announces is an error, not a shorter video."""
    info = probe(path)
    num_frames = 0
    for num_frames, timed in enumerate(iter_pictures(path), start=1):  # noqa: B007 (read after the loop)
        yield timed
    announced = max(info.num_frames, info.header_frames or 0)
    if path.suffix.lower() != ".gif" and num_frames < announced:
        raise ValueError(f"{path}: truncated: {num_frames} of {announced} frames can be decoded")


def _array_fps(path: Path) -> float | None:
    """The rate that an NPZ file says, without its frames; None = it says none.

    Raises:
        ValueError: no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return float(loaded["fps"]) if "fps" in loaded.files else None
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read as a video: {error}") from error


def _load_array(path: Path) -> tuple[NDArray[Any], float | None]:
    """The video of an NPY or NPZ file (an array of four axes, and `fps` where an NPZ has it)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _four_axes(loaded, path), None
        with loaded:  # its members are read here, and checked by their sums
            fps = float(loaded["fps"]) if "fps" in loaded.files else None
            arrays = [loaded[name] for name in loaded.files if name != "fps"]
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read as a video: {error}") from error
    videos = [array for array in arrays if array.ndim == 4]
    if len(videos) != 1:
        raise ValueError(f"{path}: {len(videos)} arrays of four axes in it; expected one video (T, H, W, 3)")
    return _four_axes(videos[0], path), fps


def _four_axes(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"{path}: shape {array.shape}; expected one video (T, H, W, 3)")
    return array


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _pictures(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    return sorted(found, key=_natural)


def find_videos(folder: str | Path) -> list[Video]:
    """All videos under a folder, in natural order of their paths.

    A folder that holds pictures and no video files, arrays or folders is one video; pictures beside
    videos, such as a run's contact sheet, are not.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: nothing in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if folder.is_file():
        if folder.suffix.lower() not in MOVING_SUFFIXES + ARRAY_SUFFIXES:
            raise ValueError(f"{folder}: not a video; expected {', '.join(MOVING_SUFFIXES + ARRAY_SUFFIXES)}")
        return [Video(name=folder.name, path=folder)]
    paths = sorted(_video_paths(folder), key=_natural)
    if not paths:
        wanted = ", ".join(MOVING_SUFFIXES + ARRAY_SUFFIXES)
        raise ValueError(f"{folder}: no videos in it; expected files ({wanted}) or folders of PNG or JPEG frames")
    base = folder.parent if paths == [folder] else folder
    return [Video(name=path.relative_to(base).as_posix(), path=path) for path in paths]


def _video_paths(folder: Path) -> Iterator[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path for path in entries if path.is_file() and path.suffix.lower() in MOVING_SUFFIXES + ARRAY_SUFFIXES]
    folders = [path for path in entries if path.is_dir()]
    yield from files
    for inner in folders:
        yield from _video_paths(inner)
    if not files and not folders and len(_pictures(folder)) > 1:
        yield folder


def as_videos(source: str | Path | Iterable[Any]) -> tuple[str, Iterable[Video]]:
    """A set's name and its videos, from a folder, a file, or an iterable of `Video`s or arrays (T, H, W, 3)."""
    if isinstance(source, (str, Path)):
        return Path(source).name or str(source), find_videos(source)
    return "in memory", _named(source)


def _named(items: Iterable[Any]) -> Iterator[Video]:
    for index, item in enumerate(items):
        yield item if isinstance(item, Video) else Video(name=f"video_{index:05d}", frames=item)
