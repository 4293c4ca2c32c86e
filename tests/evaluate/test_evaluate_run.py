"""Whole evaluations on small moving pictures: scores, controls, rows, card, report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json, read_rows, write_json
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.controls import NOISE_LEVELS, ControlsConfig, frozen_clip, noisy_clip, shuffled_clip
from drivesim.evaluate.diversity import measure_diversity, pairwise_spread, same_starts
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.uncertainty import UncertaintyConfig
from drivesim.evaluate.videos import Video, find_videos

Frames = NDArray[np.uint8]
PROTOCOL = ProtocolConfig(num_frames=4, context_frames=0)
SCORES_ALONE = EvaluateConfig(  # for tests that look at nothing else
    protocol=PROTOCOL,
    controls=ControlsConfig(frozen=False, shuffled=False, noisy=False, floor=False),
    diversity=False,
    drift=DriftConfig(enabled=False),
    report=ReportConfig(num_generated=0, num_real=0),
)


class LastMinusFirst:
    """Sees the first frame's colour, and what changes until the last."""

    name = "last-minus-first"
    kind = FeatureKind.CLIP
    feature_dim = 6
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (last-minus-first)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        means = torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3))
        return torch.cat([means[:, 0], means[:, -1] - means[:, 0]], dim=1)


class FrameColour(LastMinusFirst):
    """A vector a frame."""

    name = "frame-colour"
    kind = FeatureKind.FRAME
    feature_dim = 3
    metric_name = "Fréchet frame distance (frame-colour)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3)).flatten(0, 1)


def brightening(seed: int, num_frames: int = 16, noise: float = 12.0) -> Frames:
    """A video that gets brighter by 8 a frame; a shuffled or frozen one does not."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(20, 60, size=3)
    ramp = start + 8 * np.arange(num_frames)[:, None] + rng.normal(size=(num_frames, 3)) * noise / 6
    pixels = ramp[:, None, None] + rng.normal(size=(num_frames, 16, 32, 3)) * noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_set(folder: Path, seeds: range, fps: float = 4.0) -> Path:
    for seed in seeds:
        with VideoWriter(folder / f"future_{seed:03d}.mp4", fps) as writer:
            for frame in brightening(seed):
                writer.write(frame)
    return folder


def run(config: EvaluateConfig, generated: object, real: object, out: Path, extractor: object = None):  # type: ignore[no-untyped-def]
    networks = [extractor or LastMinusFirst()]
    return evaluate(config, generated, real, out, extractors=networks)  # type: ignore[arg-type]


def test_good_videos_beat_both_controls_and_everything_is_written(tmp_path: Path) -> None:
    generated, real = write_set(tmp_path / "made", range(0, 6)), write_set(tmp_path / "real", range(10, 18))
    config = EvaluateConfig(protocol=PROTOCOL)
    scores = run(config, generated, real, tmp_path / "out")
    name = "last-minus-first"
    assert scores.value(name) < scores.value(name, ScoreRow.FROZEN)
    assert scores.value(name) < scores.value(name, ScoreRow.SHUFFLED)
    assert scores.value(name, ScoreRow.FLOOR) < scores.value(name, ScoreRow.FROZEN)
    written = read_json(tmp_path / "out" / "scores.json")
    assert written["card"]["generated"]["num_clips"] == 24
    assert written["card"]["real"]["num_videos"] == 8
    assert written["card"]["protocol"]["fps"] == 4.0
    assert written["card"]["protocol"]["size_hw"] == [16, 32]
    assert written["card"]["versions"]["torch"]
    assert len(read_rows(tmp_path / "out" / "rows.jsonl")) == 14
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 10  # 6 generated, 4 real
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_standing_videos_lose_to_the_shuffled_control(tmp_path: Path) -> None:
    standing = [np.repeat(brightening(seed)[:1], 16, axis=0) for seed in range(8)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), standing, [brightening(seed) for seed in range(10, 18)], tmp_path)
    assert scores.value("last-minus-first") > scores.value("last-minus-first", ScoreRow.SHUFFLED)


def test_corrupt_video_is_a_row_and_counted(tmp_path: Path) -> None:
    generated, real = write_set(tmp_path / "made", range(3)), write_set(tmp_path / "real", range(10, 14))
    broken = real / "future_011.mp4"
    broken.write_bytes(broken.read_bytes()[:700])
    (real / "future_999.mp4").write_bytes(b"no video at all")
    scores = run(SCORES_ALONE, generated, real, tmp_path / "out")
    assert scores.card.real.num_left_out == 2
    assert scores.card.real.num_videos == 3
    assert scores.card.real.num_clips == 12
    causes = [row["error"] for row in read_rows(tmp_path / "out" / "rows.jsonl") if not row["ok"]]
    assert len(causes) == 2
    assert all("future_011.mp4" in cause or "future_999.mp4" in cause for cause in causes)
    assert any("left out: 2" in warning for warning in scores.warnings)


def test_video_that_breaks_half_way_leaves_no_trace_in_the_score(tmp_path: Path) -> None:
    class Breaking:
        def __iter__(self) -> Iterator[Frames]:
            yield from brightening(5)[:9]
            raise OSError("the disk went away")

    generated = [brightening(seed) for seed in range(4)]
    real = [Video(name=str(seed), frames=brightening(seed)) for seed in range(10, 14)]
    clean = run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path / "a")
    broken = run(
        EvaluateConfig(protocol=PROTOCOL), generated, [*real, Video(name="b", frames=Breaking())], tmp_path / "b"
    )
    assert broken.card.real.num_left_out == 1
    assert broken.value("last-minus-first") == clean.value("last-minus-first")


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_batches_do_not_change_a_score(tmp_path: Path, batch: int) -> None:
    generated, real = [brightening(seed) for seed in range(3)], [brightening(seed) for seed in range(10, 14)]
    expected = run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path)
    found = run(EvaluateConfig(protocol=PROTOCOL, batch_clips=batch), generated, real, tmp_path)
    for score, other in zip(expected.scores, found.scores, strict=True):
        assert (score.row, score.num_left, score.num_right) == (other.row, other.num_left, other.num_right)
        assert other.value == pytest.approx(score.value, rel=1e-9)


def test_given_frames_are_left_out_unless_counted(tmp_path: Path) -> None:
    generated, real = [brightening(seed) for seed in range(3)], [brightening(seed) for seed in range(10, 13)]
    counts = {}
    for counted in (False, True):
        protocol = replace(PROTOCOL, context_frames=2, count_context=counted)
        scores = run(EvaluateConfig(protocol=protocol), generated, real, tmp_path)
        counts[counted] = scores.card.generated.num_clips
    assert counts == {False: 9, True: 12}


def test_the_real_set_given_twice_is_noticed(tmp_path: Path) -> None:
    real = write_set(tmp_path / "real", range(3))
    scores = run(SCORES_ALONE, real, real, tmp_path / "out")
    assert scores.value("last-minus-first") < 1e-6
    assert any("given twice" in warning for warning in scores.warnings)


def test_slow_real_videos_name_the_remedy(tmp_path: Path) -> None:
    generated, real = write_set(tmp_path / "made", range(2)), write_set(tmp_path / "real", range(3, 5), fps=2.0)
    with pytest.raises(ValueError, match="no real video can be scored.*lower protocol.fps"):
        run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path / "out")


def test_frame_metrics_have_no_shuffled_row(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(3)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), videos, videos[::-1], tmp_path, FrameColour())
    assert {score.row for score in scores.scores} == {
        ScoreRow.GENERATED,
        ScoreRow.FROZEN,
        ScoreRow.NOISY,
        ScoreRow.FLOOR,
    }
    assert scores.scores[0].num_left == 48
    with pytest.raises(ValueError, match="there are frame-colour: generated"):
        scores.value("frame-colour", ScoreRow.SHUFFLED)


def test_controls_can_be_switched_off(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(3)]
    config = EvaluateConfig(
        protocol=PROTOCOL, controls=ControlsConfig(frozen=False, shuffled=False, noisy=False, floor=False)
    )
    assert [score.row for score in run(config, videos, videos, tmp_path).scores] == [ScoreRow.GENERATED]


def test_max_clips_limits_both_sides(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(3)]
    config = EvaluateConfig(protocol=replace(PROTOCOL, max_clips=5))
    card = run(config, videos, videos, tmp_path).card
    assert (card.generated.num_clips, card.real.num_clips) == (5, 5)


def test_scores_of_other_real_videos_carry_another_key(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(5)]
    config = EvaluateConfig(protocol=PROTOCOL)
    first = run(config, videos[:2], videos[2:], tmp_path)
    again = run(config, videos[1:2], videos[2:], tmp_path)
    other = run(config, videos[:2], videos[1:], tmp_path)
    assert first.card_sha256 == again.card_sha256 != other.card_sha256


def test_videos_over_the_size_limit_are_strips_alone(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(3)]
    config = EvaluateConfig(protocol=PROTOCOL, report=ReportConfig(max_video_mb=0.0))
    page = run(config, videos, videos, tmp_path).report.read_text(encoding="utf-8")
    assert "data:video" not in page
    assert page.count("data:image/jpeg") == 6


def test_names_in_the_report_are_escaped(tmp_path: Path) -> None:
    videos = [Video(name="<script>", frames=brightening(seed)) for seed in range(2)]
    page = run(EvaluateConfig(protocol=PROTOCOL), videos, videos, tmp_path).report.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert page.count("<script>") == 1


def test_controls_keep_the_pictures_and_break_the_motion() -> None:
    clip = brightening(0)
    assert (frozen_clip(clip) == clip[0]).all()
    shuffled = shuffled_clip(clip, 0, "video", 1)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in clip)
    assert (shuffled != clip).any()
    np.testing.assert_array_equal(shuffled, shuffled_clip(clip, 0, "video", 1))
    for key in range(20):
        assert (shuffled_clip(clip[:2], key) != clip[:2]).any()
    with pytest.raises(ValueError, match="cannot be shuffled"):
        shuffled_clip(clip[:1], 0)


def test_noise_is_as_strong_as_it_says_and_fixed_by_its_key() -> None:
    clip = np.full((4, 32, 32, 3), 128, dtype=np.uint8)
    noisy = noisy_clip(clip, 0, "video", 1)
    assert noisy.mean() == pytest.approx(128, abs=1)
    assert noisy.std() == pytest.approx(NOISE_LEVELS, rel=0.05)
    np.testing.assert_array_equal(noisy, noisy_clip(clip, 0, "video", 1))
    assert (noisy != noisy_clip(clip, 0, "video", 2)).any()


def test_shuffling_raises_a_metric_that_sees_motion(tmp_path: Path) -> None:
    generated, real = [brightening(seed) for seed in range(6)], [brightening(seed) for seed in range(10, 18)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path)
    (bias,) = scores.content_bias
    shuffled = scores.value("last-minus-first", ScoreRow.GENERATED_SHUFFLED)
    assert bias.rise == pytest.approx(shuffled - scores.value("last-minus-first"))
    assert bias.share == pytest.approx(bias.rise / scores.value("last-minus-first"))
    assert bias.is_seen and bias.interval is not None
    assert not any("shuffling" in warning for warning in scores.warnings)
    assert "shuffling the generated frames changes the score by +" in scores.report.read_text(encoding="utf-8")


class MeanColour(LastMinusFirst):
    """Sees no order of frames at all."""

    name = "mean-colour"
    feature_dim = 3

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(1, 2, 3))


def test_a_metric_that_is_blind_to_motion_is_warned_of(tmp_path: Path) -> None:
    generated, real = [brightening(seed) for seed in range(6)], [brightening(seed) for seed in range(10, 18)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path, MeanColour())
    assert scores.content_bias[0].rise == pytest.approx(0, abs=1e-3)
    assert any("it says nothing of their motion" in warning for warning in scores.warnings)


def test_every_row_has_its_interval_where_there_are_drives_enough(tmp_path: Path) -> None:
    generated, real = [brightening(seed) for seed in range(6)], [brightening(seed) for seed in range(10, 18)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), generated, real, tmp_path)
    intervals = {score.row: score.interval for score in scores.scores}
    assert set(intervals) == set(ScoreRow) - {ScoreRow.REAL, ScoreRow.OTHER_PROMPTS}
    assert all(interval is not None and interval.low <= interval.high for interval in intervals.values())
    assert intervals[ScoreRow.GENERATED].num_drives == 6
    assert intervals[ScoreRow.FLOOR].low < scores.value("last-minus-first", ScoreRow.FROZEN)
    written = read_json(tmp_path / "scores.json")["scores"][0]["interval"]
    assert written["low"] == intervals[ScoreRow.GENERATED].low
    assert f"[{written['low']:.4g}, {written['high']:.4g}]" in scores.report.read_text(encoding="utf-8")


def test_too_few_drives_are_said_instead_of_an_interval(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(3)]
    scores = run(EvaluateConfig(protocol=PROTOCOL), videos, [brightening(seed) for seed in range(10, 18)], tmp_path)
    assert scores.scores[0].interval is None
    assert any("no interval: 3 drives: an interval asks for 4" in warning for warning in scores.warnings)


def test_a_wide_interval_says_how_many_drives_it_would_take(tmp_path: Path) -> None:
    real = [brightening(seed) for seed in range(10, 18)]
    far = [brightening(seed) // 2 for seed in range(6)]
    config = EvaluateConfig(protocol=PROTOCOL, uncertainty=UncertaintyConfig(wanted_share=1e-3))
    warnings = run(config, far, real, tmp_path).warnings
    assert any("that takes about" in warning and "drives, there are 6" in warning for warning in warnings)
    near = run(config, [brightening(seed) for seed in range(20, 26)], real, tmp_path)
    assert near.scores[0].interval.low == 0
    assert any("the interval reaches 0" in warning for warning in near.warnings)


def test_videos_of_one_drive_are_one_sample(tmp_path: Path) -> None:
    generated, real = (
        [Video(name=f"future_{seed:03d}.mp4", frames=brightening(seed), fps=4.0) for seed in seeds]
        for seeds in (range(0, 8), range(10, 18))
    )
    mapping = tmp_path / "drives.json"
    mapping.write_text('{"future_00[01]*": "a", "future_00[23]*": "b", "night_*": "c"}')
    config = replace(SCORES_ALONE, drives=str(mapping))
    scores = run(config, generated, real, tmp_path / "out")
    assert scores.scores[0].interval.num_drives == 6  # a, b and four videos of their own
    drives = [row["drive"] for row in read_rows(tmp_path / "out" / "rows.jsonl")][:5]
    assert drives == ["a", "a", "b", "b", "generated future_004.mp4"]
    assert any("no video fits the pattern 'night_*'" in warning for warning in scores.warnings)
    mapping.write_text('["a"]')
    with pytest.raises(ValueError, match="expected an object of names"):
        run(config, generated, real, tmp_path / "out")


def test_futures_of_one_start_are_one_sample_unless_patterns_say_otherwise(tmp_path: Path) -> None:
    for start, seeds in (("a", range(0, 3)), ("b", range(3, 6)), ("prompted", range(6, 8))):
        folder = tmp_path / "runs" / start
        for number, seed in enumerate(seeds):
            with VideoWriter(folder / f"future_{number:03d}.mp4", 4.0) as writer:
                for frame in brightening(seed):
                    writer.write(frame)
        sha256 = None if start == "prompted" else f"{start}" * 64
        write_json(folder / "run.json", {"start": start, "start_sha256": sha256})
    real = [Video(name=f"real_{seed}", frames=brightening(seed), fps=4.0) for seed in range(10, 18)]
    run(SCORES_ALONE, tmp_path / "runs", real, tmp_path / "out")
    drives = [row["drive"] for row in read_rows(tmp_path / "out" / "rows.jsonl")][:8]
    assert drives == [
        *["start a aaaaaaaaaaaa"] * 3,
        *["start b bbbbbbbbbbbb"] * 3,
        "generated prompted/future_000.mp4",
        "generated prompted/future_001.mp4",
    ]
    mapping = tmp_path / "drives.json"
    mapping.write_text('{"a/future_002*": "own"}')
    run(replace(SCORES_ALONE, drives=str(mapping)), tmp_path / "runs", real, tmp_path / "out")
    assert [row["drive"] for row in read_rows(tmp_path / "out" / "rows.jsonl")][2] == "own"


def test_futures_of_one_start_differ_more_than_its_reencodings(tmp_path: Path) -> None:
    still = np.kron(brightening(0, 1)[:, ::4, ::4], np.ones((1, 4, 4, 1), dtype=np.uint8))
    for future in range(4):
        with VideoWriter(tmp_path / "start_a" / f"future_{future:03d}.mp4", 4.0) as writer:
            for step in range(8):
                writer.write(np.roll(still[0], step * (future - 2), axis=1))
    for other in range(2):  # another start in the same folder
        with VideoWriter(tmp_path / "start_a" / f"other_{other}.mp4", 4.0) as writer:
            writer.write(255 - still[0])
    groups = same_starts(find_videos(tmp_path))
    sizes = {name: len(videos) for name, videos in groups.items()}
    assert sizes == {"start_a/future_000.mp4": 4, "start_a/other_0.mp4": 2}
    futures = groups["start_a/future_000.mp4"]
    found = measure_diversity("start_a", futures, 4.0)
    assert found.num_futures == 4
    assert found.curve[0] < 1 < found.curve[-1]
    assert found.ratio > 2
    same = measure_diversity("same", [futures[0]] * 4, 4.0)
    assert same.futures == 0
    assert same.ratio < 1


def test_spread_of_known_videos() -> None:
    videos = [np.full((2, 4, 4, 3), value, dtype=np.uint8) for value in (10, 13, 16)]
    np.testing.assert_allclose(pairwise_spread(videos), [4.0, 4.0])
    with pytest.raises(ValueError, match="at least 2"):
        pairwise_spread(videos[:1])
    with pytest.raises(ValueError, match="different sizes"):
        pairwise_spread([videos[0], videos[0][:, :2]])


def test_frames_of_a_generator_are_refused() -> None:
    with pytest.raises(ValueError, match="give an array"):
        Video(name="v", frames=iter(brightening(0)))


def test_report_shows_as_many_videos_as_asked(tmp_path: Path) -> None:
    videos = [brightening(seed) for seed in range(4)]
    config = EvaluateConfig(protocol=PROTOCOL, report=ReportConfig(num_generated=1, num_real=2))
    page = run(config, iter(videos), iter(videos[1:]), tmp_path).report.read_text(encoding="utf-8")
    assert page.count("data:video/mp4") == 3
    assert "3 more generated videos" in page
