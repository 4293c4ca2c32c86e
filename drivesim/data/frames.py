"""Cache of training pictures: every drive at one rate and size as a memory-mapped array."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from drivesim.core.files import atomic_path, read_json, wait_for, write_json
from drivesim.core.wording import number_of
from drivesim.data.conditions import Conditions, ConditionsBuilder
from drivesim.data.reading import num_frames_at, read_drive
from drivesim.data.sampling import is_too_fast
from drivesim.data.source import CaptionedSource, ClipSource, Drive, MovingSource, Problem, ProblemKind

_log = logging.getLogger(__name__)
_FORMAT = 3  # of the files; part of the key
_INDEX = "index.json"


class FrameCache:
    """Frames and conditions by drive and frame number; holds no picture in memory."""

    def __init__(self, folder: Path) -> None:
        """Opens a finished cache.

        Raises:
            FileNotFoundError: there is none, or it was not finished.
        """
        self.folder = folder
        index = read_json(folder / _INDEX)
        self.fps: float = index["fps"]
        self.size_hw: tuple[int, int] = (index["size_hw"][0], index["size_hw"][1])
        self.fingerprint: str = index["key"]
        self.problems = [Problem(**{**row, "kind": ProblemKind(row["kind"])}) for row in index["problems"]]
        self.conditions: dict[str, Conditions] = {
            name: Conditions.from_arrays(load_file(folder / f"{file_stem(name)}.safetensors"))
            for name in index["drives"]
        }

    def read(self, drive: str, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures uint8 (T, H, W, 3) of frame numbers (T,)."""
        pictures = np.load(self.folder / f"{file_stem(drive)}.npy", mmap_mode="r")
        return np.asarray(pictures[frames])


def cache_frames(
    source: ClipSource, split: str, size_hw: tuple[int, int], fps: float, out_dir: Path, *, builds: bool = True
) -> FrameCache:
    """Writes the frames of a split, or goes on where an earlier call stopped.

    Drive by drive, so that a kill costs one drive. Frames that cannot be read, and times inside a
    gap, are marked as not valid; what is wrong is in `FrameCache.problems`.

    Args:
        source: Where the clips come from.
        split: train, val or test.
        size_hw: Height and width of the pictures.
        fps: Frames per second.
        out_dir: Folder of caches; this one gets its own folder there, named by what is in it.
        builds: False = another process writes them; this one waits until it has.

    Raises:
        ValueError: no drive of the split can be used.
    """
    spec = {"source": source.fingerprint, "split": split, "size_hw": list(size_hw), "fps": fps, "format": _FORMAT}
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    folder = Path(out_dir) / f"frames-{key[:16]}"
    if not builds:
        wait_for(folder / _INDEX)
    if (folder / _INDEX).is_file():
        return FrameCache(folder)
    drives = source.drives(split)
    rows: list[dict[str, Any]] = []
    kept = []
    for drive in drives:
        done = folder / f"{file_stem(drive.name)}.json"
        if not done.is_file():
            write_json(done, [asdict(problem) for problem in _cache_drive(source, drive, size_hw, fps, folder)])
        rows += read_json(done)
        if (folder / f"{file_stem(drive.name)}.safetensors").is_file():
            kept.append(drive.name)
    for row in rows:
        _log.warning("%s: %s: %s", row["where"], row["kind"], row["detail"])
    if not kept:
        first = f"; the first problem: {rows[0]['where']}: {rows[0]['detail']}" if rows else ""
        raise ValueError(f"{source.name}: none of the {len(drives)} drives in split {split!r} can be used{first}")
    index = {"source_name": source.name, **spec, "key": key, "drives": kept, "problems": rows}
    write_json(folder / _INDEX, index)
    return FrameCache(folder)


def _cache_drive(source: ClipSource, drive: Drive, size_hw: tuple[int, int], fps: float, folder: Path) -> list[Problem]:
    """Writes the files of one drive, the conditions last; none when no frame can be used."""
    if is_too_fast(fps, drive.fps):
        detail = f"recorded at {drive.fps:.3g} fps, {fps:g} wanted; left out"
        return [Problem(where=drive.name, kind=ProblemKind.WRONG_RATE, detail=detail)]
    num_frames = num_frames_at(source, drive.name, fps)
    builder = ConditionsBuilder(num_frames, drive.is_night, source.has_boxes)
    stem = file_stem(drive.name)
    errors: list[str] = []
    with atomic_path(folder / f"{stem}.npy") as temporary:
        shape = (num_frames, *size_hw, 3)
        pictures = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]
        for piece in read_drive(source, drive.name, fps, size_hw):
            if piece.clip is None:
                errors.append(piece.error)
                continue
            pictures[piece.first : piece.first + len(piece.clip)] = piece.clip.frames_THWC
            builder.add(piece.first, piece.clip)
        pictures.flush()
        del pictures
    problems = []
    if errors:
        detail = f"{len(errors)} of {number_of(num_frames, 'frame')} cannot be read: {errors[0]}"
        problems.append(Problem(where=drive.name, kind=ProblemKind.UNREADABLE, detail=detail))
    if builder.valid_T.any():
        conditions = builder.build()
        if isinstance(source, CaptionedSource):
            conditions.captions = source.captions(drive.name, conditions, fps)
        if isinstance(source, MovingSource):
            conditions.ego_path_T3 = source.ego_path(drive.name, np.arange(num_frames) / fps)
        with atomic_path(folder / f"{stem}.safetensors") as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in conditions.to_arrays().items()}, temporary)
    return problems


def file_stem(drive: str) -> str:
    """A file name for a drive: readable, and different for different drives."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", drive)[-60:]
    return f"{readable}-{hashlib.sha256(drive.encode()).hexdigest()[:8]}"
