"""Captioned clips as a source: a CSV of video paths and captions, or WebDataset tars read where they lie."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from drivesim.core.tar_member import TarMember, list_members
from drivesim.core.video import VIDEO_SUFFIXES, VideoFile
from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions
from drivesim.data.sampling import hash_split
from drivesim.data.source import Problem, ProblemKind
from drivesim.data.videos import VideoFilesSource

_CAPTION_SUFFIXES = (".txt", ".json")
_JSON_KEYS = ("caption", "text")  # of a sample's JSON; the first that is there


@dataclass(kw_only=True, slots=True)
class CaptionedClipsConfig:
    """Which clips, and which of them are held out."""

    csv: str | None = None  # file with a row a clip
    tars: list[str] = field(default_factory=list)  # WebDataset shards: files, or patterns of file names: data/*.tar
    root: str | None = None  # folder that the CSV's paths are in; None = the CSV's own
    path_column: str = "video"  # of the CSV: path of the video
    caption_column: str = "caption"  # of the CSV
    val_share: float = 0.01  # share of the clips held out, chosen by a hash of the name
    name: str = "captioned"  # short name of the data set

    def __post_init__(self) -> None:
        """Refuses what names no data."""
        if (self.csv is None) == (not self.tars):
            raise ValueError(
                "captioned clips come from csv=FILE or from tars=[FILE, ...]; give one of them (the recipes name a "
                "table: data.csv=null takes it out)"
            )


@dataclass(kw_only=True, slots=True)
class _Row:
    """One captioned clip, before its video is opened."""

    video: VideoFile
    caption: str


class CaptionedClips(VideoFilesSource):
    """Every row or sample is a drive with one caption."""

    has_captions = True
    mixes_rates = True

    def __init__(self, config: CaptionedClipsConfig) -> None:
        """Reads the list of clips; videos are opened at the first question about them.

        Raises:
            ValueError: no such file, a CSV without the columns, or not one usable clip.
        """
        problems: list[Problem] = []
        rows = dict(_csv_rows(config, problems) if config.csv is not None else _tar_rows(config, problems))
        if not rows:
            first = f"; the first problem: {problems[0].where}: {problems[0].detail}" if problems else ""
            raise ValueError(f"{config.csv or ', '.join(config.tars)}: no usable clip{first}")
        super().__init__(
            config.name, {name: row.video for name, row in rows.items()}, hash_split(rows, config.val_share)
        )
        self._problems += problems
        self._captions = {name: row.caption for name, row in rows.items()}

    @property
    def fingerprint(self) -> str:
        """Over names, captions, splits and sizes; a video's bytes are not read for it."""
        digest = hashlib.sha256()
        for name, path in self._paths.items():
            size = path.size if isinstance(path, TarMember) else Path(path).stat().st_size
            digest.update(json.dumps([name, self._split_of[name], size, self._captions[name]]).encode())
        return digest.hexdigest()

    def captions(self, drive: str, conditions: Conditions, fps: float) -> Captions:
        """See `CaptionedSource`: one caption for the whole clip."""
        return Captions.same(len(conditions), [self._captions[drive]])


def _csv_rows(config: CaptionedClipsConfig, problems: list[Problem]) -> Iterator[tuple[str, _Row]]:
    assert config.csv is not None
    path = Path(config.csv).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such CSV file")
    root = path.parent if config.root is None else Path(config.root).expanduser()
    seen: set[str] = set()
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        for wanted in (config.path_column, config.caption_column):
            if wanted not in columns:
                raise ValueError(f"{path}: no column {wanted!r}; there are {', '.join(columns) or 'none'}")
        for row in reader:
            name, caption = (row[key] or "" for key in (config.path_column, config.caption_column))
            where = f"{path.name} line {reader.line_num}"
            problem = _row_problem(where, name, caption, root / name, name in seen)
            if problem is not None:
                problems.append(problem)
                continue
            seen.add(name)
            yield name, _Row(video=root / name, caption=caption.strip())


def _row_problem(where: str, name: str, caption: str, video: Path, is_seen: bool) -> Problem | None:
    if not name.strip():
        return Problem(where=where, kind=ProblemKind.MISSING_VIDEO, detail="no path in this row")
    if is_seen:
        return Problem(where=where, kind=ProblemKind.SAME_NAME, detail=f"{name} was in an earlier row; this one is out")
    if not caption.strip():
        return Problem(where=where, kind=ProblemKind.NO_CAPTION, detail=f"{name} has no caption")
    if not video.is_file():
        return Problem(where=where, kind=ProblemKind.MISSING_VIDEO, detail=f"{video} is not there")
    return None


def _tar_rows(config: CaptionedClipsConfig, problems: list[Problem]) -> Iterator[tuple[str, _Row]]:
    seen: set[str] = set()
    for archive in _shards(config.tars):
        samples = _samples(archive, problems)
        for key, members in samples.items():
            name = f"{archive.name}/{key}"
            if name in seen:
                detail = "another shard of this name has this sample"
                problems.append(Problem(where=str(archive), kind=ProblemKind.SAME_NAME, detail=detail))
                continue
            video = next((member for suffix, member in members.items() if suffix in VIDEO_SUFFIXES), None)
            if video is None:
                detail = f"no video among its files ({', '.join(members)})"
                problems.append(Problem(where=name, kind=ProblemKind.MISSING_VIDEO, detail=detail))
                continue
            caption = _caption(name, members, problems)
            if caption is not None:
                seen.add(name)
                yield name, _Row(video=video, caption=caption)


def _shards(patterns: list[str]) -> list[Path]:
    shards: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        if not found:
            raise ValueError(f"tars: {pattern!r} matches no file; patterns take *, ? and [ ] in a file's name")
        shards += found
    return shards


def _samples(archive: Path, problems: list[Problem]) -> dict[str, dict[str, TarMember]]:
    """Files of each sample by suffix; WebDataset: a sample's files share all up to the first dot of their name."""
    samples: dict[str, dict[str, TarMember]] = {}
    try:
        for member in list_members(archive):
            path = PurePosixPath(member.name)
            stem, _, suffix = path.name.partition(".")
            samples.setdefault((path.parent / stem).as_posix(), {})["." + suffix.lower()] = member
    except ValueError as error:
        problems.append(Problem(where=archive.name, kind=ProblemKind.TRUNCATED, detail=str(error)))
    return samples


def _caption(name: str, members: dict[str, TarMember], problems: list[Problem]) -> str | None:
    """The caption of a sample, or a problem and None."""
    found = [suffix for suffix in _CAPTION_SUFFIXES if suffix in members]
    if not found:
        detail = f"no {' or '.join(_CAPTION_SUFFIXES)} among its files ({', '.join(members)})"
        problems.append(Problem(where=name, kind=ProblemKind.NO_CAPTION, detail=detail))
        return None
    try:
        text = members[found[0]].read_bytes().decode("utf-8-sig")
        caption = text.strip() if found[0] == ".txt" else _json_caption(json.loads(text))
    except ValueError as error:  # broken UTF-8 or JSON
        problems.append(Problem(where=name, kind=ProblemKind.UNREADABLE, detail=f"its caption: {error}"))
        return None
    if not caption:
        detail = f"empty, or no {' or '.join(_JSON_KEYS)} in its JSON"
        problems.append(Problem(where=name, kind=ProblemKind.NO_CAPTION, detail=detail))
    return caption or None


def _json_caption(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in _JSON_KEYS if key in value), "")
    return value.strip() if isinstance(value, str) else ""
