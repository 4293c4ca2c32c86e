"""From stored features to the rows of all scores that a protocol names.

Legend: N clips or frames, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drivesim.core.wording import number_of
from drivesim.evaluate.controls import Variant
from drivesim.evaluate.drive_jackknife import Jackknife
from drivesim.evaluate.extractors import ClassScores, Extractor
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.kernel_distance import kernel_distance, kernel_interval
from drivesim.evaluate.metric_kinds import MetricKind, kinds_of, metric_title
from drivesim.evaluate.score_rows import RowsOfExtractor, Sets, frechet_rows, pairs_of, sample_of
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.scores import Score, ScoreRow
from drivesim.evaluate.set_values import NUM_SPLITS, inception_value, text_value
from drivesim.evaluate.text_similarity import TextFrameExtractor
from drivesim.evaluate.text_vectors import TextVectors
from drivesim.evaluate.uncertainty import UncertaintyConfig

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
    store: Path  # folder of the feature store, which keeps what is made of prompts
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
            each, jackknife = inception_value(features, class_scores, self.extractor.name)
            score, problem = self._own_score(MetricKind.INCEPTION_SCORE, row, jackknife)
            score.spread = float(each.std())
            scores.append(score)
            problems += [problem] if problem and row is ScoreRow.GENERATED else []
        part = self._with_warnings(scores, problems)
        in_split, classes = scores[0].num_left // NUM_SPLITS, self.extractor.feature_dim
        if in_split < classes:
            part.warnings.append(
                f"{scores[0].metric}: {number_of(in_split, 'clip')} in each of {NUM_SPLITS} splits for {classes} "
                "classes: it is biased downwards; compare it with scores of equal counts alone"
            )
        return part

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
            problems.append(f"generated videos without a prompt, left out of the text similarity: {num}")
        own[ScoreRow.OTHER_PROMPTS] = generated
        prompts[ScoreRow.OTHER_PROMPTS] = _others_prompts(prompts[ScoreRow.GENERATED])
        network = self.extractor
        assert isinstance(network, TextFrameExtractor) or hasattr(network, "texts")
        texts = partial(TextVectors(self.store, network.fingerprint).made_by, network.texts)
        for row, side in own.items():
            if any(prompts[row]):
                jackknife = text_value(side, prompts[row], texts)
                score, problem = self._own_score(MetricKind.TEXT_SIMILARITY, row, jackknife)
                scores.append(score)
                problems += [f"no interval: {problem}"] if problem and row is ScoreRow.GENERATED else []
        return RowsOfExtractor(
            scores=scores, content_bias=None, warnings=[f"{scores[0].metric}: {problem}" for problem in problems]
        )

    def _own_score(self, kind: MetricKind, row: ScoreRow, jackknife: Jackknife) -> tuple[Score, str | None]:
        """A score of one set alone, and why it has no interval."""
        problem = jackknife.why_no_interval(self.config.min_drives)
        score = Score(
            extractor=self.extractor.name,
            metric=metric_title(self.extractor, kind),
            kind=kind,
            row=row,
            value=jackknife.value,
            num_left=jackknife.num_vectors,
            num_right=0,
            interval=None if problem else jackknife.interval(self.config.level),
            higher_is_better=True,
        )
        return score, problem

    def _too_few(self, drives: int) -> str | None:
        least = self.config.min_drives
        return None if drives >= least else f"{number_of(drives, 'drive')}: an interval asks for {least}"

    def _with_warnings(self, scores: list[Score], problems: list[str]) -> RowsOfExtractor:
        warnings = [f"{scores[0].metric}: no interval: {problem}" for problem in problems]
        return RowsOfExtractor(scores=scores, content_bias=None, warnings=warnings)


def _others_prompts(prompts: Sequence[str | None]) -> list[str | None]:
    """Each video with the next one of the other prompts; all None where there is one prompt alone."""
    distinct = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
    if len(distinct) < 2:
        return [None] * len(prompts)
    following = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))
    return [None if prompt is None else following[prompt] for prompt in prompts]
