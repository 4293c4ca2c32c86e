"""Scores of a part of the time, from the features of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import EvaluateConfig, Span
from drivesim.evaluate.spans import span_scores
from drivesim.evaluate.stored_scores import StoredScores
from tests.evaluate.test_evaluate_run import LastMinusFirst, brightening

SECONDS = 8.0
FPS = 4.0
CONFIG = EvaluateConfig(
    protocol=ProtocolConfig(num_frames=4, context_frames=1),
    controls=ControlsConfig(frozen=False, noisy=False, floor=False),
    drift=DriftConfig(enabled=False),
    diversity=False,
)


def write(folder: Path, seeds: range, seconds: float) -> Path:
    """Videos whose first half gets brighter and whose second half stands still."""
    for seed in seeds:
        frames = brightening(seed)
        frames = np.concatenate([frames, np.repeat(frames[-1:], 16, axis=0)])
        with VideoWriter(folder / f"future_{seed:03d}.mp4", FPS, crf=0) as writer:
            for frame in frames[: round(seconds * FPS)]:
                writer.write(frame)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredScores:
    root = tmp_path_factory.mktemp("spans")
    made, real = write(root / "made", range(4), SECONDS), write(root / "real", range(10, 14), SECONDS)
    evaluate(CONFIG, made, real, root / "whole", extractors=[LastMinusFirst()])  # type: ignore[list-item]
    return StoredScores.load(root / "whole")[0]


def value(stored: StoredScores, span: Span, row: ScoreRow = ScoreRow.GENERATED) -> float:
    scores = span_scores(stored, [LastMinusFirst()], span, CONFIG.uncertainty)  # type: ignore[list-item]
    return next(score.value for score in scores if score.row is row)


def test_the_first_seconds_score_as_videos_that_were_cut_there(stored: StoredScores, tmp_path: Path) -> None:
    cut = write(tmp_path / "cut", range(4), 4.0)
    scores = evaluate(CONFIG, cut, stored.folder.parent / "real", tmp_path / "out", extractors=[LastMinusFirst()])  # type: ignore[list-item]
    assert value(stored, Span(begin_s=0, end_s=4.0)) == pytest.approx(scores.value("last-minus-first"), rel=1e-9)


def test_the_whole_time_scores_as_the_evaluation_and_parts_differ(stored: StoredScores) -> None:
    whole = value(stored, Span(begin_s=0, end_s=SECONDS))
    rows = {score["row"]: score["value"] for score in stored.scores["scores"]}
    assert whole == pytest.approx(rows[ScoreRow.GENERATED.value], rel=1e-9)
    shuffled = value(stored, Span(begin_s=0, end_s=SECONDS), ScoreRow.GENERATED_SHUFFLED)
    assert shuffled == pytest.approx(rows[ScoreRow.GENERATED_SHUFFLED.value], rel=1e-9)
    still = value(stored, Span(begin_s=4.25, end_s=SECONDS))
    assert abs(still - value(stored, Span(begin_s=0, end_s=4.0))) > 0.1 * whole


def test_a_part_that_no_clip_fills_is_named(stored: StoredScores) -> None:
    with pytest.raises(ValueError, match=r"0 generated clips of 1 s lie in 0-1 s"):
        value(stored, Span(begin_s=0, end_s=1.0))  # the first clip begins after the given frame
