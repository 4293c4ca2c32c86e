"""Starts by what a person types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.config import scene_paths
from drivesim.core.picture import save_png
from drivesim.core.video_writing import VideoWriter
from drivesim.simulator import Simulator
from drivesim.sweep.starts import make_start
from tests.families.tiny_family import write_tiny_family


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return Simulator.from_pretrained(write_tiny_family(tmp_path_factory.mktemp("family") / "tiny"))


def shipped(name: str) -> Path:
    return scene_paths(name)[0]


def frame(level: int) -> np.ndarray:
    return np.full((32, 64, 3), level, dtype=np.uint8)


def test_pictures_videos_their_moments_and_scenes(simulator: Simulator, tmp_path: Path) -> None:
    save_png(tmp_path / "night@7.png", frame(10))
    with VideoWriter(tmp_path / "drive.mp4", 4.0) as writer:
        for level in (20, 20, 200, 200):
            writer.write(frame(level))

    def start(text: str) -> tuple[str, float]:
        made = make_start(text, simulator, seed=0, is_night=None, find_scene=shipped)
        return made.name, float(made.frame_HWC.mean())

    assert start(str(tmp_path / "night@7.png")) == ("night@7", 10.0)  # a file of that name comes first
    assert start(str(tmp_path / "drive.mp4"))[1] == pytest.approx(20, abs=3)
    name, level = start(f"{tmp_path / 'drive.mp4'}@0.5")
    assert (name, level) == ("drive@0.5s", pytest.approx(200, abs=3))
    assert start("cut_in")[0] == "cut_in"
    designed = [make_start("cut_in", simulator, seed=s, is_night=None, find_scene=shipped) for s in (0, 0, 1)]
    assert (designed[0].frame_HWC == designed[1].frame_HWC).all()
    assert (designed[0].frame_HWC != designed[2].frame_HWC).any()
    with pytest.raises(ValueError, match="no scene file nowhere"):
        start("nowhere")
