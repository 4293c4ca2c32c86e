"""A person's own pictures: what is said of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import save_png
from drivesim.data.conditions import ConditionsBuilder
from drivesim.data.pictures import PictureFolder, PictureFolderConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, np.zeros((8, 16, 3), dtype=np.uint8))
    return tmp_path


def opened(folder: Path) -> PictureFolder:
    return PictureFolder(PictureFolderConfig(root=str(folder), caption="a sks car"))


def test_a_picture_is_told_by_the_text_beside_it_and_else_by_the_caption_of_all(folder: Path) -> None:
    before = opened(folder).fingerprint
    (folder / "b.txt").write_text("\ufeffa sks car at night\n", encoding="utf-8")
    source = opened(folder)
    told = {
        name: source.captions(name, ConditionsBuilder(1, None, has_boxes=False).build(), 1.0).texts
        for name in ("a.png", "b.png")
    }
    assert told == {"a.png": ("a sks car",), "b.png": ("a sks car at night",)}
    assert source.fingerprint != before
    assert source.problems() == []


def test_a_text_that_says_nothing_is_refused(folder: Path) -> None:
    (folder / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"a\.txt is empty; it says what a\.png shows, in place of data\.caption"):
        opened(folder)


def test_a_text_of_another_encoding_is_named(folder: Path) -> None:
    (folder / "b.txt").write_bytes("né".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.txt: no UTF-8 text; it says what b\.png shows"):
        opened(folder)


def test_a_text_without_its_picture_is_told(folder: Path) -> None:
    (folder / "c.txt").write_text("a sks car")
    assert [(problem.where, problem.detail[:23]) for problem in opened(folder).problems()] == [
        ("c.txt", "no picture of that name")
    ]
