"""Videos of plain greys, a network that sees their colours, and a record of the files that were decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.video import Picture, iter_pictures
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate import videos
from drivesim.evaluate.extractors import FeatureKind

Frames = NDArray[np.uint8]


class Ends:
    """The colours of the first and the last frame; counts what it is shown."""

    name = "ends"
    kind = FeatureKind.CLIP
    feature_dim = 6
    min_frames = 1
    fingerprint = "a"
    is_standard = False
    metric_name = "Fréchet clip distance (ends)"

    def __init__(self) -> None:
        self.num_clips = 0

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        self.num_clips += len(frames_BTHWC)
        means = torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3))
        return torch.cat([means[:, 0], means[:, -1]], dim=1)


def write_set(folder: Path, seeds: range, num_frames: int = 16) -> Path:
    """One video of 4 frames a second for each seed."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        with VideoWriter(folder / f"v_{seed:03d}.mp4", 4.0) as writer:
            for level in rng.uniform(30, 200, size=num_frames):
                writer.write(np.full((16, 32, 3), level, dtype=np.uint8))
    return folder


def record_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the names of the files that are decoded to their end."""
    names: list[str] = []

    def counted(path: Path) -> Iterator[tuple[float, Picture]]:
        yield from iter_pictures(path)
        names.append(Path(path).name)

    monkeypatch.setattr(videos, "iter_pictures", counted)
    return names
