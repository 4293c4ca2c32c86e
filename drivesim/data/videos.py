"""A folder of videos in any codec and frame rate as a source of clips."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.clip import Clip
from drivesim.core.picture import crop_to_aspect, resize_area
from drivesim.core.video import VIDEO_SUFFIXES, VideoFile, probe, read_at
from drivesim.data.sampling import choose_frames, hash_split, native_fps
from drivesim.data.source import Drive, Problem, ProblemKind, check_split

_FRAMES_AT_ONCE = 16  # at native size in memory: 400 MB of 4K
_EXACT_S = 1e-4
_HASHED_BYTES = 1 << 16


@dataclass(kw_only=True, slots=True)
class VideoFolderConfig:
    """Which videos, and which of them are held out."""

    root: str  # folder
    pattern: str = "**/*"  # glob under root; files without a video suffix are left out
    val_files: list[str] = field(default_factory=list)  # patterns of names under root; empty = by val_share
    val_share: float = 0.1  # share of the files held out when val_files is empty; chosen by a hash of the name
    is_night: bool | None = None  # of all videos; None = unknown


@dataclass(kw_only=True, slots=True)
class _Video:
    drive: Drive
    path: VideoFile
    timestamps_s: NDArray[np.float64]  # since the first frame
    first_s: float  # time of the first frame in the file's own clock


class VideoFilesSource(ABC):
    """Every video file is a drive; which files, and in which split, is the sub-class's."""

    has_boxes = False
    mixes_rates = False

    def __init__(
        self, name: str, paths: Mapping[str, VideoFile], split_of: Mapping[str, str], is_night: bool | None = None
    ) -> None:
        """Takes the files by drive name; they are opened at the first question about them."""
        self.name = name
        self.is_night = is_night
        self._paths, self._split_of = paths, split_of
        self._videos: dict[str, _Video] | None = None
        self._problems: list[Problem] = []

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """See `ClipSource`."""

    def drives(self, split: str) -> list[Drive]:
        """The videos of a split that open, start and end; see `ClipSource`."""
        check_split(split)
        return [video.drive for video in self._opened().values() if video.drive.split == split]

    def timestamps_s(self, drive: str) -> NDArray[np.float64]:
        """See `ClipSource`."""
        return self._video(drive).timestamps_s

    def problems(self) -> list[Problem]:
        """Files that cannot be used."""
        self._opened()
        return list(self._problems)

    def read(self, drive: str, *, start_s: float, num_frames: int, fps: float, size_hw: tuple[int, int]) -> Clip:
        """See `ClipSource`."""
        video = self._video(drive)
        index = choose_frames(drive, video.timestamps_s, start_s=start_s, num_frames=num_frames, fps=fps)
        times_s = video.timestamps_s[index]
        clip = Clip(
            name=f"{drive}@{start_s:.3f}s",
            drive=drive,
            frames_THWC=np.concatenate(list(_read_resized(video.path, times_s + video.first_s, size_hw))),
            fps=fps,
            timestamps_us=np.round(times_s * 1e6).astype(np.int64),
            is_night=video.drive.is_night,
        )
        clip.validate()
        return clip

    def _video(self, drive: str) -> _Video:
        videos = self._opened()
        if drive not in videos:
            raise ValueError(f"{self.name}: no readable video {drive!r}; there are {_some(list(videos))}")
        return videos[drive]

    def _opened(self) -> dict[str, _Video]:
        if self._videos is None:
            self._videos = {}
            for name, path in self._paths.items():
                video = self._open(name, path)
                if video is not None:
                    self._videos[name] = video
        return self._videos

    def _open(self, name: str, path: VideoFile) -> _Video | None:
        """A video whose first and last frames decode; else a problem and None."""
        try:
            info = probe(path)
        except (ValueError, OSError) as error:
            self._problems.append(Problem(where=name, kind=ProblemKind.UNREADABLE, detail=str(error)))
            return None
        if len(np.unique(info.timestamps_s)) < 2:
            self._problems.append(Problem(where=name, kind=ProblemKind.TOO_SHORT, detail="one frame"))
            return None
        if info.header_frames is not None and info.num_frames < info.header_frames:
            detail = f"{info.num_frames} of {info.header_frames} frames are there"
            self._problems.append(Problem(where=name, kind=ProblemKind.TRUNCATED, detail=detail))
            return None
        timestamps_s = info.timestamps_s - info.timestamps_s[0]
        try:
            first_hw = read_at(path, info.timestamps_s[:1]).shape[1:3]
            read_at(path, info.timestamps_s[-1:])
        except ValueError as error:
            self._problems.append(Problem(where=name, kind=ProblemKind.TRUNCATED, detail=str(error)))
            return None
        fps = native_fps(timestamps_s)
        drive = Drive(
            name=name,
            split=self._split_of[name],
            duration_s=float(timestamps_s[-1]) + 1.0 / fps,
            fps=fps,
            num_frames=len(timestamps_s),
            size_hw=(first_hw[0], first_hw[1]),
            is_night=self.is_night,
        )
        return _Video(drive=drive, path=path, timestamps_s=timestamps_s, first_s=float(info.timestamps_s[0]))


class VideoFolderSource(VideoFilesSource):
    """Every video file is a drive, named by its path under the folder."""

    def __init__(self, config: VideoFolderConfig) -> None:
        """Lists the files; they are opened at the first question about them.

        Raises:
            ValueError: no such folder, no video in it, or a val pattern without a file.
        """
        self.config = config
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder of videos")
        paths = {
            path.relative_to(root).as_posix(): path
            for path in sorted(root.glob(config.pattern))
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        }
        if not paths:
            raise ValueError(f"{root}: no video matches {config.pattern!r} (suffixes: {' '.join(VIDEO_SUFFIXES)})")
        self._files = paths
        super().__init__(root.resolve().name, paths, _splits(paths, config), config.is_night)

    @property
    def fingerprint(self) -> str:
        """Over names, sizes, first and last bytes of all files and their splits."""
        digest = hashlib.sha256()
        for name, path in self._files.items():
            with path.open("rb") as file:
                head = file.read(_HASHED_BYTES)
                size = path.stat().st_size
                file.seek(max(0, size - _HASHED_BYTES))
                tail = file.read(_HASHED_BYTES)
            row = f"{name}|{self._split_of[name]}|{size}|{self.config.is_night}|"
            digest.update(row.encode() + hashlib.sha256(head + tail).digest())
        return digest.hexdigest()


def _splits(names: Collection[str], config: VideoFolderConfig) -> dict[str, str]:
    patterns = config.val_files
    if not patterns:
        return hash_split(names, config.val_share)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(f"val_files: {pattern!r} matches none of the {len(names)} videos")
    held_out = {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
    return {name: "val" if name in held_out else "train" for name in names}


def _read_resized(
    path: VideoFile, times_s: NDArray[np.float64], size_hw: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(times_s), _FRAMES_AT_ONCE):
        frames = read_at(path, times_s[first : first + _FRAMES_AT_ONCE], tolerance_s=_EXACT_S)
        cropped, _ = crop_to_aspect(frames, size_hw[1] / size_hw[0])
        yield resize_area(cropped, size_hw)


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
