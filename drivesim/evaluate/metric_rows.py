"""From stored features to the rows of all scores that a protocol names.

Legend: N clips or frames, K classes, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.evaluate.controls import Variant
from drivesim.evaluate.extractors import ClassScores, Extractor
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.inception_score import class_probabilities, split_scores
from drivesim.evaluate.kernel_distance import kernel_distance, kernel_interval
from drivesim.evaluate.metric_kinds import MetricKind, kinds_of, metric_title
from drivesim.evaluate.score_rows import RowsOfExtractor, Sets, frechet_rows, pairs_of, sample_of
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.scores import Score, ScoreRow
from drivesim.evaluate.text_similarity import TextFrameExtractor, clip_cosines
from drivesim.evaluate.uncertainty import Interval, UncertaintyConfig, jackknife_interval

NUM_SPLITS = 10  # of an Inception Score, as published ones have

_OWN_ROWS = {
    ScoreRow.GENERATED: (Side.GENERATED, Variant.PLAIN),
    ScoreRow.GENERATED_SHUFFLED: (Side.GENERATED, Variant.SHUFFLED),
    ScoreRow.REAL: (Side.REAL, Variant.PLAIN),
    ScoreRow.FROZEN: (Side.REAL, Variant.FROZEN),
    ScoreRow.SHUFFLED: (Side.REAL, Variant.SHUFFLED),
    ScoreRow.NOISY: (Side.REAL, Variant.NOISY),
}


@dataclass(kw_only=True, slots=True)
class Table:
    """Where rows come from and how they are made."""

    index: int  # the extractor's position in the keys of `sets`
    extractor: Extractor
    sets: Sets
    floor: bool  # whether real against real is a row
    config: UncertaintyConfig
    covariance: Covariance  # the protocol's
    root_eps: float | None  # the protocol's

    def rows(self) -> RowsOfExtractor:
        """The rows of all scores of the extractor.

        Raises:
            ValueError: too few vectors, features that are no class scores, or no prompt.
        """
        found = RowsOfExtractor(scores=[], content_bias=None, warnings=[])
        pairs = pairs_of(self.index, self.sets, self.floor)
        for kind in kinds_of(self.extractor):
            if kind is MetricKind.FRECHET:
                part = frechet_rows(pairs, self.extractor, self.config, self.covariance, self.root_eps)
                found.content_bias = part.content_bias
            elif kind is MetricKind.KERNEL:
                part = self._kernel_rows(pairs)
            elif kind is MetricKind.INCEPTION_SCORE:
                part = self._inception_rows()
            else:
                part = self._text_rows()
            found.scores += part.scores
            found.warnings += part.warnings
        return found

    def _kernel_rows(self, pairs: Mapping[ScoreRow, tuple[FeatureSet, FeatureSet]]) -> RowsOfExtractor:
        scores, problems = [], []
        for row, (left, right) in pairs.items():
            sides = [sample_of(side) for side in (left, right)]
            counts = [len(side.vectors_ND) for side in sides]
            if row is not ScoreRow.GENERATED and min(counts) < 2:
                continue
            drives = min(side.num_drives for side in sides)
            problem = self._too_few(drives)
            problems += [problem] if problem and row is ScoreRow.GENERATED else []
            scores.append(
                Score(
                    extractor=self.extractor.name,
                    metric=metric_title(self.extractor, MetricKind.KERNEL),
                    kind=MetricKind.KERNEL,
                    row=row,
                    value=kernel_distance(sides[0].vectors_ND, sides[1].vectors_ND),
                    num_left=counts[0],
                    num_right=counts[1],
                    interval=None if problem else kernel_interval(sides[0], sides[1], self.config),
                )
            )
        return self._with_warnings(scores, problems)

    def _inception_rows(self) -> RowsOfExtractor:
        class_scores: ClassScores = self.extractor.class_scores  # type: ignore[attr-defined]  # `check_kinds` has seen it
        scores, problems = [], []
        for row, (side, variant) in _OWN_ROWS.items():
            features = self.sets[side].get((self.index, variant))
            if features is None:
                continue
            vectors, drives = features.vectors()
            probabilities = class_probabilities(torch.from_numpy(vectors), class_scores, self.extractor.name)
            splits = _splits(features, min(NUM_SPLITS, len(vectors)))
            each, interval, problem = self._inception_score(probabilities.numpy(), splits, drives)
            problems += [problem] if problem and row is ScoreRow.GENERATED else []
            scores.append(
                Score(
                    extractor=self.extractor.name,
                    metric=metric_title(self.extractor, MetricKind.INCEPTION_SCORE),
                    kind=MetricKind.INCEPTION_SCORE,
                    row=row,
                    value=float(each.mean()),
                    num_left=len(vectors),
                    num_right=0,
                    interval=interval,
                    higher_is_better=True,
                    spread=float(each.std()),
                )
            )
        part = self._with_warnings(scores, problems)
        in_split, classes = scores[0].num_left // NUM_SPLITS, self.extractor.feature_dim
        if in_split < classes:
            part.warnings.append(
                f"{scores[0].metric}: {in_split} clips in each of {NUM_SPLITS} splits for {classes} classes: "
                "it is biased downwards; compare it with scores of equal counts alone"
            )
        return part

    def _inception_score(
        self, probabilities_NK: NDArray[np.float64], splits_N: NDArray[np.int64], drives_N: NDArray[np.str_]
    ) -> tuple[NDArray[np.float64], Interval | None, str | None]:
        """The score of each split, and the interval of their mean or why there is none."""
        num_splits = int(splits_N.max()) + 1

        def of(kept_N: NDArray[np.bool_]) -> NDArray[np.float64]:
            kept, splits = torch.from_numpy(probabilities_NK[kept_N]), torch.from_numpy(splits_N[kept_N])
            likelihood = torch.special.xlogy(kept, kept).sum(dim=1)
            num = torch.bincount(splits, minlength=num_splits).double()
            sums = torch.zeros(num_splits, kept.shape[1], dtype=torch.float64).index_add_(0, splits, kept)
            logs = torch.zeros(num_splits, dtype=torch.float64).index_add_(0, splits, likelihood)
            return np.asarray(split_scores(num, sums, logs).numpy())

        whole = of(np.ones(len(splits_N), dtype=bool))
        names, codes = np.unique(drives_N, return_inverse=True)
        if problem := self._too_few(len(names)):
            return whole, None, problem
        without = np.array([of(codes != drive).mean() for drive in range(len(names))])
        if not np.isfinite(without).all():
            return whole, None, f"a drive has all clips of one of the {num_splits} splits"
        shares = np.bincount(codes) / len(codes)
        return whole, jackknife_interval(float(whole.mean()), without, shares, self.config.level), None

    def _text_rows(self) -> RowsOfExtractor:
        scores, problems = [], []
        generated = self.sets[Side.GENERATED][self.index, Variant.PLAIN]
        own = {ScoreRow.GENERATED: generated, ScoreRow.REAL: self.sets[Side.REAL][self.index, Variant.PLAIN]}
        prompts = {row: [video.prompt for video in side.videos] for row, side in own.items()}
        if not any(prompts[ScoreRow.GENERATED]):
            raise ValueError(
                f"{self.extractor.name}: no generated video has a prompt; put captions.csv (header file,prompt) or "
                'captions.jsonl ({"file": ..., "prompt": ...} a line) beside the videos'
            )
        if num := sum(prompt is None for prompt in prompts[ScoreRow.GENERATED]):
            problems.append(f"{num} generated videos without a prompt are left out of the text similarity")
        own[ScoreRow.OTHER_PROMPTS] = generated
        prompts[ScoreRow.OTHER_PROMPTS] = _others_prompts(prompts[ScoreRow.GENERATED])
        for row, side in own.items():
            if any(prompts[row]):
                score, problem = self._text_score(row, side, prompts[row])
                scores.append(score)
                problems += [f"no interval: {problem}"] if problem and row is ScoreRow.GENERATED else []
        return RowsOfExtractor(
            scores=scores, content_bias=None, warnings=[f"{scores[0].metric}: {problem}" for problem in problems]
        )

    def _text_score(self, row: ScoreRow, side: FeatureSet, prompts: Sequence[str | None]) -> tuple[Score, str | None]:
        network = self.extractor
        assert isinstance(network, TextFrameExtractor) or hasattr(network, "texts")
        kept = [(video, prompt) for video, prompt in zip(side.videos, prompts, strict=True) if prompt is not None]
        texts = network.texts([prompt for _, prompt in kept])
        cosines, drives = [], []
        for (video, _), text in zip(kept, texts, strict=True):
            frames = torch.from_numpy(video.features())
            cosines.append(clip_cosines(text.expand(len(frames), -1), frames).numpy())
            drives += [video.drive] * len(frames)
        values = np.concatenate(cosines)
        names, codes = np.unique(drives, return_inverse=True)
        interval = None
        if not (problem := self._too_few(len(names))):
            counts = np.bincount(codes)
            without = (values.sum() - np.bincount(codes, weights=values)) / (len(values) - counts)
            interval = jackknife_interval(float(values.mean()), without, counts / len(values), self.config.level)
        score = Score(
            extractor=network.name,
            metric=metric_title(network, MetricKind.TEXT_SIMILARITY),
            kind=MetricKind.TEXT_SIMILARITY,
            row=row,
            value=float(values.mean()),
            num_left=len(values),
            num_right=0,
            interval=interval,
            higher_is_better=True,
        )
        return score, problem

    def _too_few(self, drives: int) -> str | None:
        least = self.config.min_drives
        return None if drives >= least else f"{drives} drives: an interval asks for {least}"

    def _with_warnings(self, scores: list[Score], problems: list[str]) -> RowsOfExtractor:
        warnings = [f"{scores[0].metric}: no interval: {problem}" for problem in problems]
        return RowsOfExtractor(scores=scores, content_bias=None, warnings=warnings)


def _splits(features: FeatureSet, num_splits: int) -> NDArray[np.int64]:
    """A split for each vector: equal parts of an order that videos' bytes and clips' numbers fix.

    So neither the order of the videos nor their names change a score.
    """
    keys = []
    for video in features.videos:
        num_clips, num_vectors = video.features().shape[:2]
        start = video.clips.start or 0
        keys += [
            hashlib.sha256(f"{video.sha256} {start + clip} {vector}".encode()).hexdigest()
            for clip in range(num_clips)
            for vector in range(num_vectors)
        ]
    ranks = np.argsort(np.argsort(np.array(keys), kind="stable"), kind="stable")
    return np.asarray(ranks * num_splits // len(keys))


def _others_prompts(prompts: Sequence[str | None]) -> list[str | None]:
    """Each video with the next one of the other prompts; all None where there is one prompt alone."""
    distinct = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
    if len(distinct) < 2:
        return [None] * len(prompts)
    following = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))
    return [None if prompt is None else following[prompt] for prompt in prompts]
