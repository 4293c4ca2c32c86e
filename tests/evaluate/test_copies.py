"""Generated videos that repeat a real drive are told by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.copies import neighbour_lines
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.lines import score_lines
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video

Frames = NDArray[np.uint8]


class CornerColour:
    """The mean of three corners of a clip."""

    name = "corners"
    kind = FeatureKind.CLIP
    feature_dim = 3
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (corners)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        corners = frames_BTHWC[:, :, [0, 0, -1], [0, -1, 0]].astype(np.float32)
        return torch.from_numpy(corners).mean(dim=(1, 3))


def drive(seed: int, noise: int = 0) -> Frames:
    """Clips of a drive look alike, drives do not."""
    level = np.random.default_rng(seed).uniform(40, 200, size=(1, 8, 16, 1))
    wobble = np.random.default_rng(seed + 100 + noise).normal(size=(16, 8, 16, 1))
    return np.repeat(np.clip(level + wobble, 0, 255), 3, axis=3).astype(np.uint8)


def test_a_copied_drive_is_named_and_others_are_not(tmp_path: Path) -> None:
    real = [Video(name=f"real {seed}", frames=drive(seed), fps=4.0) for seed in range(12)]
    made = [Video(name=f"made {seed}", frames=drive(seed, noise=1), fps=4.0) for seed in (3, 20, 21)]
    config = EvaluateConfig(
        protocol=ProtocolConfig(num_frames=4, context_frames=0, fps=4.0),
        controls=ControlsConfig(shuffled=False, frozen=False, noisy=False, floor=False),
        diversity=False,
        drift=DriftConfig(enabled=False),
    )
    scores = evaluate(config, made, real, tmp_path, [CornerColour()])
    (entry,) = scores.neighbours
    copy, other, another = entry.videos
    assert (copy.nearest, copy.num_copies, copy.num_clips) == ("real 3", 4, 4)
    assert copy.ratio < 0.2 < min(other.ratio, another.ratio)
    assert other.num_copies == another.num_copies == 0
    assert entry.quartiles[0] <= 1 <= entry.quartiles[1]
    assert any("4 of 4 clips are copies" in line for line in score_lines(scores))
    assert "real 3" in (tmp_path / "report.html").read_text(encoding="utf-8")
    legend, first, *others = neighbour_lines(scores.neighbours)
    assert "far below 1 is copying" in legend and "made 3: nearest real 3" in first and len(others) == 2
    many = replace(entry, videos=[replace(other, name=f"{index}") for index in range(20)] + [copy])
    lines = list(neighbour_lines([many]))
    assert "made 3" in lines[1]
    assert len(lines) == 10 and "and 13 videos that are farther; 1 of all 21 hold copies" in lines[-1]


def test_real_videos_of_one_drive_give_a_note_instead(tmp_path: Path) -> None:
    real = [Video(name=f"real {seed}", frames=drive(seed), fps=4.0, drive="one") for seed in range(4)]
    config = EvaluateConfig(
        protocol=ProtocolConfig(num_frames=4, context_frames=0, fps=4.0),
        controls=ControlsConfig(shuffled=False, frozen=False, noisy=False, floor=False),
        diversity=False,
        drift=DriftConfig(enabled=False),
    )
    scores = evaluate(config, [Video(name="made", frames=drive(9), fps=4.0)], real, tmp_path, [CornerColour()])
    assert scores.neighbours == []
    assert any("2 drives or more" in warning for warning in scores.warnings)
