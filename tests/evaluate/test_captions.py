"""Prompts beside videos: both formats, and what is no such table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.evaluate.captions import load_captions, with_captions
from drivesim.evaluate.videos import find_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.zeros((2, 4, 4, 3), dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", '\ufefffile,prompt\na.npy,"a car, at night"\n'),
        ("captions.jsonl", '{"file": "a.npy", "prompt": "a car, at night"}\n\n'),
    ],
)
def test_a_table_gives_videos_their_prompts(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    found = {video.name: video.prompt for video in with_captions(find_videos(folder), folder)}
    assert found == {"a.npy": "a car, at night", "b.npy": None}
    (single,) = with_captions(find_videos(folder / "a.npy"), folder / "a.npy")
    assert single.prompt == "a car, at night"


def test_without_a_table_videos_stay_as_they_are(folder: Path) -> None:
    videos = find_videos(folder)
    assert with_captions(videos, folder) == videos


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("captions.csv", "name,text\na.npy,x\n", "captions.csv:2: expected a file and its prompt"),
        ("captions.csv", "file,prompt\na.npy\n", "captions.csv:2: an empty file name or prompt"),
        ("captions.csv", "file,prompt\na.npy,x\na.npy,y\n", "captions.csv:3: a second prompt for a.npy"),
        ("captions.jsonl", "{", "captions.jsonl:1: not JSON"),
        ("captions.jsonl", '{"file": 3, "prompt": "x"}', "captions.jsonl:1"),
        ("captions.jsonl", '"x"', "captions.jsonl:1"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        load_captions(folder / name)


def test_files_that_are_not_there_and_two_tables_are_refused(folder: Path) -> None:
    (folder / "captions.csv").write_text("file,prompt\nc.npy,x\n")
    with pytest.raises(ValueError, match="1 files that are no videos.*c.npy"):
        with_captions(find_videos(folder), folder)
    (folder / "captions.jsonl").write_text("")
    with pytest.raises(ValueError, match="captions.csv and captions.jsonl; keep one"):
        with_captions(find_videos(folder), folder)
