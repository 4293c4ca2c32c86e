"""Drives of a data set as video files, for the evaluation and for eyes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drivesim.core.video import VideoWriter
from drivesim.data.frames import file_stem
from drivesim.data.reading import read_drive
from drivesim.data.source import ClipSource, check_split


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Which drives become videos, and how they look."""

    split: str = "val"  # of the drives
    fps: float = 4.0  # frames a second of the videos
    size_hw: tuple[int, int] = (64, 128)  # height and width of the videos in pixels
    crf: int = 12  # x264's quality: 0 lossless .. 51 worst; scores feel it

    def __post_init__(self) -> None:
        """Refuses what makes no videos."""
        check_split(self.split)
        if not self.fps > 0:
            raise ValueError(f"export: fps is {self.fps}; must be above 0")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"export: crf={self.crf}; must be 0 (lossless) to 51 (worst)")


def export_videos(source: ClipSource, config: ExportConfig, out_dir: Path) -> Iterator[tuple[str, str | None]]:
    """Writes a video for every drive of a split; videos that are there already are kept.

    Yields:
        A drive's name, and why it has no video (None = it has one): one that slows to below `fps`,
        or holds a gap or a damaged frame, would show a jump.
    """
    for drive in source.drives(config.split):
        path = out_dir / f"{file_stem(drive.name)}.mp4"
        try:
            if not path.exists():
                _export(source, drive.name, config, path)
        except ValueError as error:
            yield drive.name, str(error)
        else:
            yield drive.name, None


def _export(source: ClipSource, drive: str, config: ExportConfig, path: Path) -> None:
    num_written = 0
    with VideoWriter(path, config.fps, config.crf) as video:
        for piece in read_drive(source, drive, config.fps, config.size_hw):
            if piece.clip is None or piece.first != num_written:
                raise ValueError(f"{drive}: nothing to show at {num_written / config.fps:.2f} s {piece.error}".strip())
            for frame_HWC in piece.clip.frames_THWC:
                video.write(frame_HWC)
            num_written += len(piece.clip)
