"""Two evaluations beside each other in every score of the store: paired differences with their intervals."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.evaluate.compare import ComparedScore, Comparison, compare
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.drive_jackknife import Jackknife, jackknife_difference
from drivesim.evaluate.extractors import ClassScores, ExtractorConfig
from drivesim.evaluate.kernel_distance import kernel_difference, kernel_interval
from drivesim.evaluate.lines import comparison_lines
from drivesim.evaluate.metric_kinds import MetricKind
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.text_similarity import TextFrameExtractor
from drivesim.evaluate.uncertainty import Sample, UncertaintyConfig
from drivesim.evaluate.videos import Video
from tests.evaluate import colour_videos

WORDS = ("red", "green", "blue")
CONFIG = EvaluateConfig(
    protocol=ProtocolConfig(num_frames=4, context_frames=0),
    controls=ControlsConfig(frozen=False, shuffled=False, noisy=False, floor=False),
    diversity=False,
    drift=DriftConfig(enabled=False),
    report=ReportConfig(num_generated=0, num_real=0),
)


class Ends(colour_videos.Ends):
    """A classifier of six classes by the colours of a clip's first and last frame."""

    class_scores = ClassScores.LOGITS
    metrics = (MetricKind.FRECHET, MetricKind.KERNEL, MetricKind.INCEPTION_SCORE)

    def __call__(self, frames_BTHWC: colour_videos.Frames) -> torch.Tensor:
        return super().__call__(frames_BTHWC) / 30


class Colours:
    """A text is the colour that it names, a frame the colour that it has; counts what it is asked."""

    fingerprint = "c"
    feature_dim = 3
    is_standard = False

    def __init__(self) -> None:
        self.num_texts = 0

    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        self.num_texts += len(prompts)
        return torch.eye(3)[[WORDS.index(prompt) for prompt in prompts]]

    def frames(self, frames_BTHWC: colour_videos.Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3))


def videos(seed: int, number: int, strength: float) -> list[Video]:
    """Videos whose prompt names their strongest colour, the more so the larger `strength` is."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(number):
        colours = rng.uniform(20, 120, size=(12, 1, 1, 3))
        colours[..., index % 3] += strength
        frames = np.broadcast_to(colours, (12, 8, 8, 3)).astype(np.uint8)
        found.append(Video(name=f"v{index}", frames=frames, fps=4.0, prompt=WORDS[index % 3]))
    return found


def network() -> TextFrameExtractor:
    return TextFrameExtractor(Colours(), ExtractorConfig(name="clip-vit-b-32"))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A set whose colours are strong, as those of the real videos, and a weak one."""
    for name, strength in (("strong", 110.0), ("weak", 40.0)):
        evaluate(CONFIG, videos(1, 15, strength), videos(0, 15, 120), tmp_path / name, extractors=[Ends(), network()])
    return tmp_path / "strong", tmp_path / "weak"


def by_kind(found: Comparison) -> dict[str, ComparedScore]:
    return {score.metric.split()[0]: score for score in found.scores if score.row == "generated"}


def test_every_score_of_the_store_has_a_paired_difference_on_the_right_side(runs: tuple[Path, Path]) -> None:
    found = compare(runs, UncertaintyConfig())
    assert found.notes == []
    scores = by_kind(found)
    assert set(scores) == {"Fréchet", "Kernel", "Inception", "Text"}
    for name, score in scores.items():
        assert score.difference is not None
        assert score.difference.low < score.difference.estimate < score.difference.high
        is_higher_better = name in ("Inception", "Text")
        assert (score.difference.low > 0) if is_higher_better else (score.difference.high < 0)
        assert np.sign(score.first - score.second) == np.sign(score.difference.estimate)
    assert sum("A - B at infinitely many" in line for line in comparison_lines(found)) == 4
    turned = by_kind(compare(runs[::-1], UncertaintyConfig()))
    for name, score in scores.items():
        assert turned[name].difference.estimate == pytest.approx(-score.difference.estimate)
    # The mean over clips is what is paired, video by video.
    text = scores["Text"]
    assert text.difference.estimate == pytest.approx(text.first - text.second, rel=1e-9)


def test_texts_are_asked_for_once_and_a_comparison_asks_for_none(runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = network()
    evaluate(CONFIG, videos(1, 15, 110), videos(0, 15, 120), runs[0], extractors=[Ends(), text])
    assert text.network.num_texts == 0
    shutil.rmtree(next((runs[1] / "features").glob("texts-*")))
    found = compare(runs, UncertaintyConfig())
    assert by_kind(found)["Text"].difference is None
    assert any("vectors of the prompts of" in note and "evaluate it again" in note for note in found.notes)


def test_too_few_drives_and_too_many_features_are_said(runs: tuple[Path, Path]) -> None:
    found = compare(runs, UncertaintyConfig(min_drives=16, max_features=5))
    assert all(score.difference is None for score in found.scores)
    notes = "\n".join(found.notes)
    assert "6 features, above uncertainty.max_features 5" in notes
    assert notes.count("15 drives: an interval asks for 16") == 3


def test_scores_of_one_side_need_no_common_real_set(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 5)):
        evaluate(CONFIG, videos(seed, 12, 100), videos(seed, 8, 120), tmp_path / name, extractors=[Ends()])
    found = compare((tmp_path / "a", tmp_path / "b"), UncertaintyConfig(), force=True)
    scores = by_kind(found)
    assert scores["Inception"].difference is not None
    assert scores["Fréchet"].difference is scores["Kernel"].difference is None
    assert sum("the real sets differ" in note for note in found.notes) == 2


def sample(rng: np.random.Generator, shared: np.ndarray, shift: float, name: str) -> Sample:  # type: ignore[type-arg]
    """Three clips around the middle of each drive."""
    drives = len(shared)
    vectors = shift + shared[:, None] + rng.normal(size=(drives, 3, 4)) * np.sqrt(0.5)
    return Sample(vectors_ND=vectors.reshape(-1, 4), drives_N=np.repeat([f"{name}{i}" for i in range(drives)], 3))


def test_a_kernel_difference_of_95_percent_holds_a_truth_of_0_and_pairing_narrows_it() -> None:
    rng, config = np.random.default_rng(3), UncertaintyConfig()
    held, widths = [], []
    for _ in range(120):
        common, other = rng.normal(size=(2, 30, 4)) * np.sqrt(0.5)
        real = sample(rng, other, 0.0, "real")
        first, second = (sample(rng, common, 0.8, "start") for _ in range(2))
        found = kernel_difference(first, second, real, config)
        held.append(found.low <= 0 <= found.high)
        alone = kernel_interval(first, real, config)
        widths.append((found.high - found.low) / (alone.high - alone.low))
    assert 0.90 <= np.mean(held) <= 1.0
    assert np.mean(widths) < 0.8


def test_a_difference_of_means_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=9)
    y = x + 0.3 + 0.1 * rng.normal(size=9)

    def mean(values: np.ndarray, names: list[str]) -> Jackknife:  # type: ignore[type-arg]
        without = (values.sum() - values) / 8
        return Jackknife(
            value=values.mean(), num_vectors=9, drives_K=np.array(names), without_K=without, shares_K=np.full(9, 1 / 9)
        )

    names = [f"d{index}" for index in range(9)]
    paired = jackknife_difference(mean(x, names), mean(y, names), 0.95)
    assert paired.estimate == pytest.approx((x - y).mean())
    assert paired.standard_error == pytest.approx((x - y).std(ddof=1) / 3)
    apart = jackknife_difference(mean(x, names), mean(y, [f"e{name}" for name in names]), 0.95)
    assert apart.standard_error == pytest.approx(np.hypot(x.std(ddof=1), y.std(ddof=1)) / 3)


def test_a_drive_with_all_of_a_split_leaves_no_interval_and_no_difference(tmp_path: Path) -> None:
    few = CONFIG.uncertainty
    drives = replace(few, min_drives=4)
    config = replace(CONFIG, uncertainty=drives)
    for name in ("a", "b"):
        evaluate(config, videos(1, 4, 100), videos(0, 5, 120), tmp_path / name, extractors=[Ends()])
    found = compare((tmp_path / "a", tmp_path / "b"), drives)
    assert by_kind(found)["Inception"].difference is None
    assert any("there is no score without generated v" in note for note in found.notes)
