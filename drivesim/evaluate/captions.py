"""Prompts beside videos: a table of file and prompt in the folder of a set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivesim.evaluate.videos import Video

CAPTION_FILES = ("captions.csv", "captions.jsonl")  # CSV with the header file,prompt; JSON lines of the same keys


def with_captions(videos: Iterable[Video], folder: Path) -> list[Video]:
    """Videos with their prompts, where the folder has a table of them; a video's own prompt stays.

    Args:
        videos: Named as `find_videos` does, by their paths below the folder.
        folder: Of the videos; a file stands for the folder that it lies in.

    Raises:
        ValueError: two tables, a row that is none, two prompts for one file, or files that are not there.
    """
    videos = list(videos)
    table = _table_of(folder if folder.is_dir() else folder.parent)
    if table is None:
        return videos
    prompts = load_captions(table)
    if strangers := sorted(set(prompts) - {video.name for video in videos}) if folder.is_dir() else []:
        raise ValueError(f"{table}: {len(strangers)} files that are no videos of {folder}, the first is {strangers[0]}")
    return [replace(video, prompt=video.prompt or prompts.get(video.name)) for video in videos]


def load_captions(path: Path) -> dict[str, str]:
    """File names and prompts of a table.

    Raises:
        ValueError: not such a table; names the line.
    """
    prompts: dict[str, str] = {}
    for line, row in _rows(path):
        if not isinstance(row, dict) or set(row) != {"file", "prompt"}:
            raise ValueError(f"{path}:{line}: expected a file and its prompt under the names file and prompt")
        name, prompt = row["file"], row["prompt"]
        if not (isinstance(name, str) and name and isinstance(prompt, str) and prompt.strip()):
            raise ValueError(f"{path}:{line}: an empty file name or prompt")
        if prompts.setdefault(name, prompt) != prompt:
            raise ValueError(f"{path}:{line}: a second prompt for {name}")
    return prompts


def _table_of(folder: Path) -> Path | None:
    there = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
    if len(there) > 1:
        raise ValueError(f"{folder}: {' and '.join(path.name for path in there)}; keep one of them")
    return there[0] if there else None


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error.msg}") from error
