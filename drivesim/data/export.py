"""Drives of a data set as video files, for the evaluation and for eyes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drivesim.core.files import read_json, write_json
from drivesim.core.video_writing import VideoWriter
from drivesim.data.frames import file_stem
from drivesim.data.reading import read_drive
from drivesim.data.sampling import is_too_fast
from drivesim.data.source import ALL, ClipSource, Drive, check_split, drives_of

_RECORD = "export.json"  # beside the videos: what they were made from, and which of the folder's files they are


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Which drives become videos, and how they look."""

    split: str = "val"  # of the drives: train, val, test or all
    fps: float = 4.0  # frames a second of the videos
    size_hw: tuple[int, int] = (64, 128)  # height and width of the videos in pixels
    crf: int = 12  # x264's quality: 0 lossless .. 51 worst; scores feel it
    scenes_every_s: float | None = None  # also a scene file and its picture every so many seconds; None = none

    def __post_init__(self) -> None:
        """Refuses what makes no videos."""
        if self.split != ALL:
            check_split(self.split)
        if not self.fps > 0:
            raise ValueError(f"export: fps is {self.fps}; must be above 0")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"export: crf={self.crf}; must be 0 (lossless) to 51 (worst)")
        if self.scenes_every_s is not None and not self.scenes_every_s > 0:
            raise ValueError(f"export: scenes_every_s is {self.scenes_every_s}; must be above 0")


def export_videos(source: ClipSource, config: ExportConfig, out_dir: Path) -> Iterator[tuple[str, str | None]]:
    """Writes a video for every drive of a split, or goes on where an earlier call stopped.

    Videos that an earlier call wrote from other data or with another config are removed first, those of
    drives that are gone among them; other files in the folder are left alone.

    Args:
        source: Where the drives come from.
        config: Which drives, and how the videos look.
        out_dir: Folder of the videos; `export.json` beside them says what they were made from.

    Yields:
        A drive's name, and why it has no video (None = it has one): one that was recorded below `fps`,
        or holds a gap or a damaged frame, would show a jump.

    Raises:
        ValueError: no drive in the split.
    """
    drives = drives_of(source, config.split)
    _remove_others(source, config, [_file_name(drive.name) for drive in drives], out_dir)
    for drive in drives:
        path = out_dir / _file_name(drive.name)
        try:
            if not path.exists():
                _export(source, drive, config, path)
        except ValueError as error:
            yield drive.name, str(error)
        else:
            yield drive.name, None


def _file_name(drive: str) -> str:
    return f"{file_stem(drive)}.mp4"


def _remove_others(source: ClipSource, config: ExportConfig, names: list[str], out_dir: Path) -> None:
    """Leaves only videos that this export would write the same again, and notes what it is."""
    # A list as JSON gives it back, so that the record can be compared.
    spec = {**asdict(config), "size_hw": list(config.size_hw)}
    del spec["scenes_every_s"]  # of the scenes beside the videos
    record = {"source": source.fingerprint, "config": spec, "videos": names}
    path = out_dir / _RECORD
    earlier = read_json(path) if path.exists() else None
    if earlier == record:
        return
    # Removed before the new record is there: a kill in between leaves the old one, which names them all.
    for name in {*names, *(earlier["videos"] if earlier else [])}:
        (out_dir / name).unlink(missing_ok=True)
    write_json(path, record)


def _export(source: ClipSource, drive: Drive, config: ExportConfig, path: Path) -> None:
    # Asked here as well: frame by frame, which is how a refused run is read, no rate is too high.
    if is_too_fast(config.fps, drive.fps):
        raise ValueError(f"{drive.name}: {config.fps:g} fps wanted, recorded at {drive.fps:.3g}; ask for at most that")
    num_written = 0
    with VideoWriter(path, config.fps, config.crf) as video:
        for piece in read_drive(source, drive.name, config.fps, config.size_hw):
            if piece.clip is None or piece.first != num_written:
                raise ValueError(
                    f"{drive.name}: nothing to show at {num_written / config.fps:.2f} s {piece.error}".strip()
                )
            for frame_HWC in piece.clip.frames_THWC:
                video.write(frame_HWC)
            num_written += len(piece.clip)
