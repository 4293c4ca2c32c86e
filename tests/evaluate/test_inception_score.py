"""The Inception Score against scipy, at its two ends, and over processes; only classifiers get one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from drivesim.evaluate.extractors import ClassScores, ExtractorConfig, FeatureKind, make_extractor
from drivesim.evaluate.feature_store import FeatureSet, StoredVideo
from drivesim.evaluate.inception_score import InceptionScore, equal_parts, split_key
from drivesim.evaluate.set_values import inception_value
from drivesim.evaluate.videos import Video

Clips = NDArray[np.uint8]


class TinyClassifier:
    """Five classes from the mean colours of a clip's first and last frame."""

    name = "tiny-classifier"
    kind = FeatureKind.CLIP
    feature_dim = 5
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (tiny-classifier)"

    def __init__(self, class_scores: ClassScores | None = ClassScores.LOGITS, sharpness: float = 20.0) -> None:
        self.class_scores = class_scores
        self.weights = sharpness * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))

    def __call__(self, frames_BTHWC: Clips) -> Tensor:
        means = torch.from_numpy(frames_BTHWC.astype(np.float32) / 255).mean(dim=(2, 3)) - 0.5
        logits = torch.cat([means[:, 0], means[:, -1]], dim=1) @ self.weights
        return logits.softmax(dim=1) if self.class_scores is ClassScores.PROBABILITIES else logits


@pytest.fixture()
def clips() -> Clips:
    return np.random.default_rng(1).integers(0, 256, size=(40, 3, 2, 3, 3), dtype=np.uint8)


def by_scipy(clips: Clips, num_splits: int) -> tuple[float, float]:
    probabilities = scipy.special.softmax(TinyClassifier()(clips).double().numpy(), axis=1)
    order = sorted(range(len(clips)), key=lambda index: split_key(Video(name="", frames=clips[index]).sha256(), 0, 0))
    scores = []
    for members in np.array_split(order, num_splits):
        part = probabilities[members]
        scores.append(np.exp(np.mean([scipy.stats.entropy(row, part.mean(axis=0)) for row in part])))
    return float(np.mean(scores)), float(np.std(scores))


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("scores", list(ClassScores))
def test_score_equals_the_relative_entropies_of_scipy(clips: Clips, num_splits: int, scores: ClassScores) -> None:
    metric = InceptionScore(TinyClassifier(scores), num_splits)
    metric.update(clips)
    mean, spread = metric.compute()
    expected = by_scipy(clips, num_splits)
    assert expected[0] > 1.5
    tolerance = 1e-9 if scores is ClassScores.LOGITS else 1e-5  # probabilities come in float32
    assert float(mean) == pytest.approx(expected[0], rel=tolerance)
    assert float(spread) == pytest.approx(expected[1], rel=10 * tolerance, abs=1e-12)


def test_equal_clips_score_one(clips: Clips) -> None:
    metric = InceptionScore(TinyClassifier(), num_splits=1)
    metric.update(np.repeat(clips[:1], 8, axis=0))
    assert float(metric.compute()[0]) == pytest.approx(1, rel=1e-12)


def test_a_sure_answer_for_every_class_scores_the_number_of_classes() -> None:
    class OneHot(TinyClassifier):
        def __call__(self, frames_BTHWC: Clips) -> Tensor:
            return 1e4 * torch.eye(5)[torch.from_numpy(frames_BTHWC[:, 0, 0, 0, 0].astype(np.int64)) % 5]

    clips = np.arange(20, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 1, 1, 3), dtype=np.uint8)
    metric = InceptionScore(OneHot(), num_splits=1)
    metric.update(clips)
    assert float(metric.compute()[0]) == pytest.approx(5, rel=1e-9)


def test_noise_on_which_the_network_has_no_opinion_scores_one(clips: Clips) -> None:
    metric = InceptionScore(TinyClassifier(sharpness=0.0), num_splits=2)
    metric.update(clips)
    mean, spread = metric.compute()
    assert float(mean) == pytest.approx(1, rel=1e-12)
    assert float(spread) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cuts", [[40], [9, 40], [1, 2, 30, 40]])
def test_order_batches_and_processes_change_nothing(cuts: list[int], clips: Clips) -> None:
    whole = InceptionScore(TinyClassifier(), num_splits=3)
    whole.update(clips)
    shuffled = clips[np.random.default_rng(2).permutation(40)]
    parts = []
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        parts.append(InceptionScore(TinyClassifier(), num_splits=3))
        for clip in shuffled[start:end]:
            parts[-1].update(clip[None])
    for part in parts[1:]:
        parts[0].merge_state(part)
    for found, expected in zip(parts[0].compute(), whole.compute(), strict=True):
        assert float(found) == pytest.approx(float(expected), rel=1e-9)
    parts[0].reset()
    assert sum(map(len, parts[0].keys)) == 0


def test_frames_of_a_frame_classifier_count_one_by_one(clips: Clips) -> None:
    class FrameClassifier(TinyClassifier):
        kind = FeatureKind.FRAME

        def __call__(self, frames_BTHWC: Clips) -> Tensor:
            return super().__call__(frames_BTHWC.reshape(-1, 1, *frames_BTHWC.shape[2:]))

    metric = InceptionScore(FrameClassifier(), num_splits=2)
    metric.update(clips)
    keys = torch.cat(metric.keys)
    assert keys.shape == (120, 32) and len(keys.unique(dim=0)) == 120
    assert torch.cat(metric.probabilities).shape == (120, 5)


def test_splits_differ_by_one_clip_at_most_and_follow_from_keys() -> None:
    keys = [split_key("video", clip, 0) for clip in range(43)]
    splits = equal_parts(keys, 10)
    assert sorted(np.bincount(splits)) == [4] * 7 + [5] * 3
    np.testing.assert_array_equal(equal_parts(keys[::-1], 10), splits[::-1])
    np.testing.assert_array_equal(splits[np.argsort(keys)], np.sort(splits))


@pytest.mark.parametrize("num", [10, 33])
def test_an_evaluation_of_the_same_clips_gives_the_same_mean_and_spread(num: int, clips: Clips, tmp_path: Path) -> None:
    classifier = TinyClassifier(sharpness=5.0)
    metric = InceptionScore(classifier)
    metric.update(clips[:num])
    stored = []
    for index, clip in enumerate(clips[:num]):
        path = tmp_path / f"{index}.safetensors"
        save_file({"features_CVD": classifier(clip[None])[None].numpy()}, path)
        sha256 = Video(name=f"{index}", frames=clip).sha256()
        stored.append(StoredVideo(path=path, name=f"{index}", sha256=sha256, drive=f"{index}", clips=slice(0, 1)))
    features = FeatureSet(kind=FeatureKind.CLIP, feature_dim=5, videos=stored)
    each, jackknife = inception_value(features, ClassScores.LOGITS, classifier.name)
    mean, spread = metric.compute()
    assert float(spread) > 0.01 or num == 10  # one clip in each split: all score 1
    assert float(mean) == pytest.approx(jackknife.value, rel=1e-9)
    assert float(spread) == pytest.approx(float(each.std()), rel=1e-9, abs=1e-12)


def test_a_process_without_clips_sends_tensors_of_the_same_axes(clips: Clips) -> None:
    busy, idle = InceptionScore(TinyClassifier()), InceptionScore(TinyClassifier())
    busy.update(clips)
    for name in ("keys", "probabilities"):
        (sent,) = getattr(idle, name)
        gathered = torch.cat(getattr(busy, name))
        assert (len(sent), sent.shape[1:], sent.dtype) == (0, gathered.shape[1:], gathered.dtype)


@pytest.mark.parametrize("num", [1, 3])
def test_fewer_clips_than_splits_are_refused_with_the_remedy(num: int, clips: Clips) -> None:
    metric = InceptionScore(TinyClassifier())
    metric.update(clips[:num])
    with pytest.raises(ValueError, match=f"{num} clips? for 10 splits; .* lower num_splits"):
        metric.compute()


def test_features_that_are_no_classes_get_no_score() -> None:
    with pytest.raises(ValueError, match="toytown-clip: its features are no class scores; choose c3d-ucf101"):
        InceptionScore(make_extractor(ExtractorConfig()))
    with pytest.raises(ValueError, match="no class scores"):
        InceptionScore(TinyClassifier(class_scores=None))


def test_logits_that_are_sold_as_probabilities_are_refused(clips: Clips) -> None:
    class Liar(TinyClassifier):
        def __call__(self, frames_BTHWC: Clips) -> Tensor:
            return torch.full((len(frames_BTHWC), 5), -2.0)

    with pytest.raises(ValueError, match="add up to -10 .* no probabilities"):
        InceptionScore(Liar(ClassScores.PROBABILITIES)).update(clips)


@pytest.mark.parametrize("num_splits", [0, -1])
def test_no_splits_are_refused(num_splits: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        InceptionScore(TinyClassifier(), num_splits)
