"""The shipped network on drives that it has not seen: broken motion must score worse than real video's own floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim.core.camera import Camera
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import ScoreRow, Scores
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video, find_videos
from drivesim.toytown import TownConfig, render, simulate

CLIP = "toytown-clip"
PROTOCOL = ProtocolConfig(num_frames=8, fps=4.0, spacing_frames=2, size_hw=(64, 128), context_frames=0)


def toytown_video(scene: int) -> NDArray[np.uint8]:
    """A drive at 4 frames a second, from a town that the network was not trained on."""
    episode = simulate(TownConfig(duration_s=7.0, fps=4.0, key_fps=2.0, seed=2024, num_pedestrians=4.0), scene)
    camera = Camera.front((64, 128))
    return np.stack([render(episode, frame, camera) for frame in range(len(episode))])


@pytest.fixture(scope="module")
def toytown_scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    videos = [Video(name=str(scene), frames=toytown_video(scene), fps=4.0) for scene in range(8)]
    config = EvaluateConfig(protocol=PROTOCOL, diversity=False)
    return evaluate(config, videos[:4], videos[4:], tmp_path_factory.mktemp("scores"))


@pytest.mark.parametrize("control", [ScoreRow.FROZEN, ScoreRow.SHUFFLED])
def test_broken_motion_is_worse_than_other_real_drives_on_toytown(toytown_scores: Scores, control: ScoreRow) -> None:
    assert toytown_scores.value(CLIP, control) > 1.5 * toytown_scores.value(CLIP)
    assert toytown_scores.value(CLIP, control) > toytown_scores.value(CLIP, ScoreRow.FLOOR)


def test_broken_motion_is_worse_than_other_real_drives_on_a_real_road(shared_data: Path, tmp_path: Path) -> None:
    clips = find_videos(shared_data / "driving-hills")
    config = EvaluateConfig(protocol=PROTOCOL, diversity=False)
    scores = evaluate(config, clips[16:18], clips[22:24], tmp_path)
    for control in (ScoreRow.FROZEN, ScoreRow.SHUFFLED):
        assert scores.value(CLIP, control) > scores.value(CLIP)
