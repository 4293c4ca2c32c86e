"""Drift, faults and futures of files, arrays, pictures and lists alike; what can be read once is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import save_png
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import Scores
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video
from tests.evaluate.colour_videos import Ends, Frames

NUM_FRAMES, ONSET = 12, 6


def darkened(seed: int) -> Frames:
    """Half as bright from the onset on."""
    frames = natural(seed)
    frames[ONSET:] //= 2
    return frames


def natural(seed: int) -> Frames:
    """A window that slides over soft blobs."""
    wide = np.kron(np.random.default_rng(seed).integers(80, 200, (6, 24, 3)), np.ones((8, 8, 1)))
    return np.stack([wide[:, 4 * index : 4 * index + 96] for index in range(NUM_FRAMES)]).astype(np.uint8)


def scores_of(generated: object, out: Path, fps: float | None = 4.0) -> Scores:
    protocol = ProtocolConfig(num_frames=4, context_frames=0, fps=fps)
    config = EvaluateConfig(protocol=protocol, report=ReportConfig(num_generated=0, num_real=0))
    real = [Video(name=f"real {seed}", frames=natural(seed), fps=4.0) for seed in range(10, 15)]
    return evaluate(config, generated, real, out, extractors=[Ends()])  # type: ignore[arg-type]


def written(kind: str, folder: Path) -> object:
    """Two videos, of which the second gets dark."""
    both = {"v0": natural(0), "v1": darkened(0)}
    folder.mkdir()
    for name, frames in both.items():
        if kind == "npz":
            np.savez(folder / f"{name}.npz", frames=frames, fps=4.0)
        if kind == "npy":
            np.save(folder / f"{name}.npy", frames)
        if kind == "png":
            for index, frame in enumerate(frames):
                save_png(folder / name / f"{index}.png", frame)
        if kind == "mp4":
            with VideoWriter(folder / f"{name}.mp4", 4.0) as writer:
                for frame in frames:
                    writer.write(frame)
    return [Video(name=name, frames=frames, fps=4.0) for name, frames in both.items()] if kind == "list" else folder


@pytest.mark.parametrize("kind", ["mp4", "npz", "npy", "png", "list"])
def test_a_fault_and_the_futures_are_found_in_any_kind_of_video(kind: str, tmp_path: Path) -> None:
    scores = scores_of(written(kind, tmp_path / "made"), tmp_path / "out")
    assert scores.drift is not None
    (faults,) = scores.drift.faults.values()
    (fault,) = faults
    assert (fault.kind.value, fault.onset_frame) == ("gain", ONSET)
    assert fault.size == pytest.approx(0.5, abs=0.03)
    assert len(scores.diversity) == 1 and scores.diversity[0].num_futures == 2
    told = [text for text in scores.warnings if "without a rate" in text]
    assert bool(told) == (kind in ("npy", "png"))
    assert all("generated videos without a rate: 2" in text and "protocol.untimed_fps" in text for text in told)


def test_the_rate_of_an_npz_file_is_the_protocol_s_where_that_leaves_it_open(tmp_path: Path) -> None:
    folder = written("npz", tmp_path / "made")
    assert scores_of(folder, tmp_path / "out", fps=None).card.protocol["fps"] == 4.0


def test_frames_of_a_generator_have_no_drift_and_that_is_said(tmp_path: Path) -> None:
    def made() -> Iterator[Video]:
        return (Video(name=f"{seed}", frames=natural(seed), fps=4.0) for seed in range(2))

    scores = scores_of(made(), tmp_path)
    assert scores.drift is None
    assert any("no drift, no diversity; give files or a list" in text for text in scores.warnings)
