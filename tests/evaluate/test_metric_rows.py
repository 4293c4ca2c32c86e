"""Kernel distance, Inception Score and text similarity as rows of an evaluation, from stored features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json, read_rows
from drivesim.evaluate.compare import compare
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.drive_jackknife import Jackknife
from drivesim.evaluate.extractors import ClassScores, Extractor, ExtractorConfig, make_extractor
from drivesim.evaluate.inception_score import InceptionScore
from drivesim.evaluate.kernel_distance import KernelDistance, kernel_distance, kernel_interval
from drivesim.evaluate.metric_kinds import MetricKind, metric_title
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.text_similarity import TextFrameExtractor
from drivesim.evaluate.uncertainty import Sample, UncertaintyConfig
from drivesim.evaluate.videos import Video
from tests.evaluate import colour_videos

Frames = NDArray[np.uint8]
CONFIG = EvaluateConfig(
    protocol=ProtocolConfig(num_frames=4, context_frames=0),
    controls=ControlsConfig(shuffled=False, noisy=False),
    diversity=False,
    drift=DriftConfig(enabled=False),
    report=ReportConfig(num_generated=0, num_real=0),
)


class Ends(colour_videos.Ends):
    """A classifier of six classes by the colours of a clip's first and last frame."""

    class_scores = ClassScores.LOGITS
    metrics = (MetricKind.FRECHET, MetricKind.KERNEL, MetricKind.INCEPTION_SCORE)

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return super().__call__(frames_BTHWC) / 30


class Colours:
    """A text is the colour that it names, a frame the colour that it has."""

    fingerprint = "c"
    feature_dim = 3
    is_standard = False

    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.eye(3)[[["red", "green", "blue"].index(prompt) for prompt in prompts]]

    def frames(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3))


def videos(seeds: range, num_frames: int = 12) -> list[Video]:
    colours = [np.random.default_rng(seed).integers(0, 256, size=(num_frames, 1, 1, 3)) for seed in seeds]
    return [
        Video(name=f"{seed}", frames=np.broadcast_to(colour, (num_frames, 8, 8, 3)).astype(np.uint8))
        for seed, colour in zip(seeds, colours, strict=True)
    ]


def features(clips: list[Video]) -> NDArray[np.float32]:
    return Ends()(np.concatenate([np.reshape(video.frames, (-1, 4, 8, 8, 3)) for video in clips])).numpy()


def test_one_pass_gives_every_score_that_the_network_is_there_for(tmp_path: Path) -> None:
    generated, real = videos(range(6)), videos(range(10, 18))
    scores = evaluate(CONFIG, generated, real, tmp_path, extractors=[Ends()])
    kernel, inception = "Kernel clip distance (ends)", "Inception Score (ends)"
    assert scores.card.extractors[0]["metrics"] == ["Fréchet clip distance (ends)", kernel, inception]
    assert scores.value("ends", metric=kernel) == pytest.approx(
        kernel_distance(features(generated), features(real)), rel=1e-9
    )
    rows = {score.row: score for score in scores.scores if score.metric == inception}
    assert set(rows) == {ScoreRow.GENERATED, ScoreRow.REAL, ScoreRow.FROZEN}
    assert rows[ScoreRow.GENERATED].num_left == 18 and rows[ScoreRow.GENERATED].num_right == 0
    assert rows[ScoreRow.GENERATED].higher_is_better and rows[ScoreRow.GENERATED].spread is not None
    assert all(score.interval is not None for score in scores.scores if score.metric == kernel)
    page = scores.report.read_text(encoding="utf-8")  # type: ignore[union-attr]
    assert kernel in page and "higher is better" in page and "&plusmn;" in page
    written = read_json(tmp_path / "scores.json")
    assert {score["kind"] for score in written["scores"]} == {"fréchet", "kernel", "inception-score"}
    again = evaluate(CONFIG, generated, real, tmp_path, extractors=[Ends()])
    assert all(row["was_stored"] for row in read_rows(tmp_path / "rows.jsonl"))
    assert [score.value for score in again.scores] == [score.value for score in scores.scores]


def test_the_kernel_row_is_what_the_metric_says(tmp_path: Path) -> None:
    generated, real = videos(range(5)), videos(range(10, 16))
    metric = KernelDistance(Ends())
    for side, is_real in ((generated, False), (real, True)):
        for video in side:
            metric.update(np.reshape(video.frames, (-1, 4, 8, 8, 3)), real=is_real)
    scores = evaluate(CONFIG, generated, real, tmp_path, extractors=[Ends()])
    assert scores.value("ends", metric="Kernel clip distance (ends)") == pytest.approx(
        float(metric.compute()), rel=1e-9
    )


def test_an_inception_score_knows_no_order_of_videos_and_has_equal_splits(tmp_path: Path) -> None:
    generated, real = videos(range(20)), videos(range(30, 34))
    first = evaluate(CONFIG, generated, real, tmp_path / "a", extractors=[Ends()])
    other = evaluate(CONFIG, generated[::-1], real, tmp_path / "b", extractors=[Ends()])
    name = "Inception Score (ends)"
    assert other.value("ends", metric=name) == pytest.approx(first.value("ends", metric=name), rel=1e-9)
    assert 1 < first.value("ends", metric=name) < 6
    assert not any("splits" in warning for warning in first.warnings)  # 6 clips in each for 6 classes are enough
    few = evaluate(CONFIG, generated[:4], real, tmp_path / "c", extractors=[Ends()])
    assert any("1 clip in each of 10 splits for 6 classes: it is biased downwards" in text for text in few.warnings)
    interval = next(s.interval for s in first.scores if s.metric == name and s.row is ScoreRow.GENERATED)
    assert interval is not None and interval.low < interval.estimate < interval.high


def test_the_inception_row_of_videos_of_one_clip_is_what_the_metric_says(tmp_path: Path) -> None:
    generated, real = videos(range(25), num_frames=4), videos(range(30, 34), num_frames=4)
    metric = InceptionScore(Ends())
    metric.update(np.stack([video.frames for video in generated]))
    mean, spread = metric.compute()
    scores = evaluate(CONFIG, generated, real, tmp_path, extractors=[Ends()])
    name = "Inception Score (ends)"
    row = next(s for s in scores.scores if s.metric == name and s.row is ScoreRow.GENERATED)
    assert row.spread is not None and row.spread > 0.01
    assert row.value == pytest.approx(float(mean), rel=1e-9)
    assert row.spread == pytest.approx(float(spread), rel=1e-9)


def test_prompts_that_fit_score_higher_than_those_of_others(tmp_path: Path) -> None:
    words = ["red", "green", "blue"]

    def of(index: int) -> Video:
        frames = np.zeros((8, 8, 8, 3), dtype=np.uint8)
        frames[..., index % 3] = 200
        frames[..., (index + 1) % 3] = 10 * index
        return Video(name=f"{index}", frames=frames, prompt=words[index % 3])

    generated = [of(index) for index in range(6)]
    network = TextFrameExtractor(Colours(), ExtractorConfig(name="clip-vit-b-32"))
    scores = evaluate(CONFIG, generated, videos(range(4)), tmp_path, extractors=[network])
    rows = {score.row: score for score in scores.scores}
    assert set(rows) == {ScoreRow.GENERATED, ScoreRow.OTHER_PROMPTS}  # the real videos have no prompts
    expected = np.mean([200 / np.hypot(200, 10 * index) for index in range(6)])
    assert rows[ScoreRow.GENERATED].value == pytest.approx(expected, rel=1e-6)
    assert rows[ScoreRow.OTHER_PROMPTS].value < 0.3
    interval = rows[ScoreRow.GENERATED].interval
    assert interval is not None and interval.estimate == pytest.approx(expected, rel=1e-6)
    assert rows[ScoreRow.GENERATED].metric == "Text similarity (clip-vit-b-32 of other weights, c)"
    assert scores.card.generated.prompts_sha256 and not scores.card.real.prompts_sha256
    other = [replace(video, prompt="red") for video in generated]
    evaluate(CONFIG, other, videos(range(4)), tmp_path / "other", extractors=[network])
    with pytest.raises(ValueError, match="generated.prompts_sha256 is"):
        compare([tmp_path, tmp_path / "other"], CONFIG.uncertainty)


def test_a_text_similarity_without_prompts_says_where_they_belong(tmp_path: Path) -> None:
    network = TextFrameExtractor(Colours(), ExtractorConfig(name="clip-vit-b-32"))
    with pytest.raises(ValueError, match="captions.csv .header file,prompt"):
        evaluate(CONFIG, videos(range(2)), videos(range(2, 4)), tmp_path, extractors=[network])
    some = [replace(videos(range(1))[0], prompt="red"), *videos(range(1, 4))]
    scores = evaluate(CONFIG, some, videos(range(4, 6)), tmp_path, extractors=[network])
    assert any(
        "generated videos without a prompt, left out of the text similarity: 3" in warning
        for warning in scores.warnings
    )


@pytest.mark.parametrize(
    ("name", "kinds", "expected"),
    [
        ("FVD", (MetricKind.KERNEL,), "KVD"),
        ("FID", (MetricKind.KERNEL,), "KID"),
        ("Fréchet clip distance (x)", (MetricKind.KERNEL,), "Kernel clip distance (x)"),
        ("FVD", (MetricKind.INCEPTION_SCORE,), "Inception Score (ends)"),
    ],
)
def test_short_names_are_for_standard_networks(name: str, kinds: tuple[MetricKind, ...], expected: str) -> None:
    network = Ends()
    network.metric_name = name
    assert metric_title(network, kinds[0]) == expected


@pytest.mark.parametrize("kind", [MetricKind.INCEPTION_SCORE, MetricKind.TEXT_SIMILARITY])
def test_a_score_that_the_features_do_not_give_is_refused(kind: MetricKind) -> None:
    with pytest.raises(ValueError, match="choose c"):
        make_extractor(ExtractorConfig(name="toytown-clip", metrics=[kind]))


def test_networks_of_other_libraries_are_handed_in() -> None:
    def made(config: ExtractorConfig) -> Extractor:
        return TextFrameExtractor(Colours(), config)

    assert make_extractor(ExtractorConfig(name="x"), {"x": made}).name == "x"
    with pytest.raises(ValueError, match="c3d-ucf101, x$"):
        make_extractor(ExtractorConfig(name="y"), {"x": made})


def correlated(rng: np.random.Generator, drives: int, clips: int, shift: float, name: str) -> Sample:
    """Vectors of 8 numbers whose drives share half of their variance, 1 in all."""
    shared = rng.normal(size=(drives, 1, 8)) * np.sqrt(0.5)
    values = shift + shared + rng.normal(size=(drives, clips, 8)) * np.sqrt(0.5)
    return Sample(vectors_ND=values.reshape(-1, 8), drives_N=np.repeat([f"{name}{i}" for i in range(drives)], clips))


def third_power(m: float) -> float:
    """E (x . y / 8 + 1)^3 of independent x, y, both N(m, 1) in each of 8 places."""
    a, b, c = m * m, (m * m + 1) ** 2, (m**3 + 3 * m) ** 2  # E x y, E x^2 y^2, E x^3 y^3 of one place
    first, second = 8 * a, 8 * b + 56 * a * a
    third = 8 * c + 3 * 56 * b * a + 336 * a**3
    return third / 512 + 3 * second / 64 + 3 * first / 8 + 1


def test_a_kernel_interval_of_95_percent_holds_the_truth_in_93_to_99_of_100() -> None:
    rng = np.random.default_rng(0)
    shift = 0.7
    # x . y between the sets, of means `shift` and 0: E s = 0, E s^2 = 8 (shift^2 + 1), E s^3 = 0
    across = 3 * 8 * (shift**2 + 1) / 64 + 1
    truth = third_power(shift) + third_power(0) - 2 * across
    found = [
        kernel_interval(correlated(rng, 40, 3, shift, "a"), correlated(rng, 40, 3, 0, "b"), UncertaintyConfig())
        for _ in range(200)
    ]
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99
    error = np.std([one.estimate for one in found]) / np.sqrt(200)
    assert abs(np.mean([one.estimate for one in found]) - truth) < 3 * error


def test_clips_of_one_drive_do_not_raise_the_kernel_estimate() -> None:
    rng = np.random.default_rng(1)
    pairs = [(correlated(rng, 10, 8, 0, "a"), correlated(rng, 10, 8, 0, "b")) for _ in range(100)]
    plain = np.mean([kernel_distance(a.vectors_ND, b.vectors_ND) for a, b in pairs])
    estimates = [kernel_interval(a, b, UncertaintyConfig()).estimate for a, b in pairs]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 3 * error < plain


def jackknife(value: float, without: NDArray[np.float64]) -> Jackknife:
    """Of drives of one vector each."""
    num = len(without)
    names = np.array([f"d{index}" for index in range(num)])
    return Jackknife(value=value, num_vectors=num, drives_K=names, without_K=without, shares_K=np.full(num, 1 / num))


def test_the_jackknife_of_a_mean_is_the_textbooks() -> None:
    values = np.array([1.0, 4.0, 2.0, 9.0, 3.0])
    without = (values.sum() - values) / 4
    found = jackknife(values.mean(), without).interval(0.95)
    assert found.estimate == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(5))


def test_the_jackknife_takes_away_a_bias_by_the_number_of_vectors() -> None:
    """The plug-in variance is too small by 1 / N."""
    values = np.random.default_rng(2).normal(size=7)
    without = np.array([np.delete(values, index).var() for index in range(7)])
    assert jackknife(values.var(), without).estimate == pytest.approx(values.var(ddof=1))
