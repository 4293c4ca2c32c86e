"""Pictures of one car: large, of the colour that was asked for, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import load_picture
from drivesim.data.conditions import ConditionsBuilder
from drivesim.data.pictures import PictureFolder, PictureFolderConfig
from drivesim.toytown import TownConfig
from drivesim.toytown.episode import Episode
from drivesim.toytown.subject import subject_pictures


def purple_share(picture: np.ndarray) -> float:
    red, green, blue = (picture[..., c].astype(int) for c in range(3))
    return float(((red - green > 40) & (blue - green > 50)).mean())


def test_the_subject_is_seen_in_every_picture() -> None:
    town = TownConfig(duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128), night_share=0.0, traffic_density=1.5)
    pictures = list(subject_pictures(town, 2))
    assert [picture.shape for picture in pictures] == [(64, 128, 3)] * 2
    assert min(map(purple_share, pictures)) > 0.01
    green = next(subject_pictures(town, 1, colour=(24, 152, 74)))
    assert purple_share(green) < purple_share(pictures[0]) / 2
    np.testing.assert_array_equal(next(subject_pictures(town, 1)), pictures[0])


def test_frames_that_are_not_wanted_are_not_taken() -> None:
    town = TownConfig(duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128), night_share=0.0, traffic_density=1.5)
    scenes: set[int] = set()

    def second_scene(episode: Episode, frame: int) -> bool:
        scenes.add(episode.scene_index)
        return len(scenes) > 1

    second = next(subject_pictures(town, 1, is_wanted=second_scene))
    np.testing.assert_array_equal(second, next(subject_pictures(replace(town, first_scene=town.first_scene + 1), 1)))
    assert not np.array_equal(second, next(subject_pictures(town, 1)))
    frames: set[int] = set()
    next(subject_pictures(town, 1, is_wanted=lambda episode, frame: frames.add(frame) or True))
    assert frames == {0, 4, 8, 12}


def test_the_written_lines_make_the_folder_that_the_recipe_reads(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = (repo_root / "conf/experiment/toytown_text/dreambooth.yaml").read_text()
    text = (repo_root / "evaluation/toytown_text/README.md").read_text()
    lines = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    assert (lines.count(", 8, "), lines.count(", 6, ")) == (1, 2)
    exec(lines.replace(", 8, ", ", 1, ").replace(", 6, ", ", 0, "), {})  # turns are rare
    (root,) = (line.split()[-1] for line in recipe.splitlines() if line.startswith("  root: "))
    pictures = [load_picture(path) for path in sorted(Path(root).glob("*.png"))]
    assert [picture.shape for picture in pictures] == [(64, 128, 3)] * 2
    assert min(map(purple_share, pictures)) > 0.005
    source = PictureFolder(PictureFolderConfig(root=root, caption="a sks car"))
    assert source.problems() == []
    one_frame = ConditionsBuilder(1, None, has_boxes=False).build()
    told = sorted(source.captions(drive.name, one_frame, 1.0).texts for drive in source.drives("train"))
    assert told == [("a sks car at night, driving straight",), ("a sks car by day, driving straight",)]
