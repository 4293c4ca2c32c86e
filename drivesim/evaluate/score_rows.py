"""From stored features to the rows of a Fréchet distance: controls, floor, intervals, content bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivesim.core.wording import number_of
from drivesim.evaluate.controls import Variant
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance
from drivesim.evaluate.scorer import Key, Side
from drivesim.evaluate.scores import ContentBias, Score, ScoreRow
from drivesim.evaluate.uncertainty import (
    Sample,
    UncertaintyConfig,
    drives_wanted,
    frechet_difference,
    frechet_interval,
    why_no_interval,
)

Sets = Mapping[Side, Mapping[Key, FeatureSet]]


@dataclass(kw_only=True, slots=True)
class RowsOfExtractor:
    """What one extractor says."""

    scores: list[Score]
    content_bias: ContentBias | None
    warnings: list[str]


def statistics_of(features: FeatureSet) -> FrechetStatistics:
    """Count, mean and scatter, video by video: memory does not grow with their number."""
    total = FrechetStatistics.empty(features.feature_dim)
    for video in features.videos:
        total.update(video.features().reshape(-1, features.feature_dim))
    return total


def sample_of(features: FeatureSet) -> Sample:
    """All vectors with their drives."""
    vectors, drives = features.vectors()
    return Sample(vectors_ND=vectors.astype("float64"), drives_N=drives)


def frechet_rows(
    pairs: dict[ScoreRow, tuple[FeatureSet, FeatureSet]],
    extractor: Extractor,
    config: UncertaintyConfig,
    covariance: Covariance,
    root_eps: float | None,
) -> RowsOfExtractor:
    """All rows of a Fréchet distance; a control that was not asked for, or has one vector alone, is no row.

    Args:
        pairs: What stands against what.
        extractor: For its names.
        config: Of the intervals.
        covariance: The protocol's.
        root_eps: The protocol's; the intervals are those of the exact distance.

    Raises:
        ValueError: fewer than two generated or real vectors.
    """
    statistics = {side: statistics_of(side) for pair in pairs.values() for side in pair}
    counts = {row: [statistics[side].count for side in pair] for row, pair in pairs.items()}
    made, real = counts[ScoreRow.GENERATED]
    if min(made, real) < 2:
        raise ValueError(
            f"{number_of(made, 'feature vector')} of generated videos and {real} of real ones; a covariance needs at "
            "least 2 of each: more or longer videos, or a smaller protocol.num_frames or protocol.spacing_frames"
        )
    pairs = {row: pair for row, pair in pairs.items() if row is ScoreRow.GENERATED or min(counts[row]) >= 2}
    with_samples = extractor.feature_dim <= config.max_features
    samples = {side: sample_of(side) for pair in pairs.values() for side in pair} if with_samples else {}
    scores = []
    for row, (left, right) in pairs.items():
        value = frechet_distance(statistics[left], statistics[right], covariance, root_eps)
        own = [samples[side] for side in (left, right)] if with_samples else []
        scores.append(
            Score(
                extractor=extractor.name,
                metric=extractor.metric_name,
                row=row,
                value=value,
                num_left=counts[row][0],
                num_right=counts[row][1],
                interval=frechet_interval(own[0], own[1], config, covariance)
                if own and why_no_interval(own, config) is None
                else None,
            )
        )
    bias = _content_bias(scores, pairs, samples, config, covariance)
    return RowsOfExtractor(
        scores=scores, content_bias=bias, warnings=_warnings(extractor, scores, pairs, samples, bias, config)
    )


def pairs_of(index: int, sets: Sets, floor: bool) -> dict[ScoreRow, tuple[FeatureSet, FeatureSet]]:
    """What stands against what in each row of a distance.

    Args:
        index: The extractor's position in the keys of `sets`.
        sets: What `Scorer` has filled.
        floor: Whether real against real is a row.
    """
    real = sets[Side.REAL][index, Variant.PLAIN]
    rows = {
        ScoreRow.GENERATED: (Side.GENERATED, Variant.PLAIN),
        ScoreRow.GENERATED_SHUFFLED: (Side.GENERATED, Variant.SHUFFLED),
        ScoreRow.FROZEN: (Side.REAL, Variant.FROZEN),
        ScoreRow.SHUFFLED: (Side.REAL, Variant.SHUFFLED),
        ScoreRow.NOISY: (Side.REAL, Variant.NOISY),
    }
    there = {row: sets[side].get((index, variant)) for row, (side, variant) in rows.items()}
    pairs = {row: (own, real) for row, own in there.items() if own is not None}
    return pairs | ({ScoreRow.FLOOR: (real.half(0), real.half(1))} if floor else {})


def _content_bias(
    scores: list[Score],
    pairs: dict[ScoreRow, tuple[FeatureSet, FeatureSet]],
    samples: Mapping[FeatureSet, Sample],
    config: UncertaintyConfig,
    covariance: Covariance,
) -> ContentBias | None:
    values = {score.row: score.value for score in scores}
    if ScoreRow.GENERATED_SHUFFLED not in values:
        return None
    rise = values[ScoreRow.GENERATED_SHUFFLED] - values[ScoreRow.GENERATED]
    generated, real = pairs[ScoreRow.GENERATED]
    sides = (pairs[ScoreRow.GENERATED_SHUFFLED][0], generated, real)
    own = [samples[side] for side in sides if samples]
    interval = None
    if own and why_no_interval(own, config) is None:
        interval = frechet_difference(own[0], own[1], own[2], config, covariance)
    share = rise / values[ScoreRow.GENERATED] if values[ScoreRow.GENERATED] > 0 else None
    return ContentBias(
        extractor=scores[0].extractor, metric=scores[0].metric, rise=rise, share=share, interval=interval
    )


def _warnings(
    extractor: Extractor,
    scores: list[Score],
    pairs: dict[ScoreRow, tuple[FeatureSet, FeatureSet]],
    samples: Mapping[FeatureSet, Sample],
    bias: ContentBias | None,
    config: UncertaintyConfig,
) -> list[str]:
    """What a reader of these scores has to know."""
    found = []
    name, generated = extractor.metric_name, scores[0]
    own = [samples[side] for side in pairs[ScoreRow.GENERATED] if samples]
    if extractor.kind is FeatureKind.CLIP and min(generated.num_left, generated.num_right) <= extractor.feature_dim:
        found.append(
            f"{number_of(min(generated.num_left, generated.num_right), 'clip')} for {extractor.feature_dim} features "
            f"of {extractor.name}: the distance is biased upwards; compare it with scores of equal counts alone"
        )
    if not own:
        found.append(f"{name}: no interval: {extractor.feature_dim} features, above uncertainty.max_features")
    elif problem := why_no_interval(own, config):
        found.append(f"{name}: no interval: {problem}")
    if generated.interval is not None:
        wanted = drives_wanted(generated.interval, config.wanted_share)
        there = generated.interval.num_drives
        if generated.interval.low <= 0:
            found.append(
                f"{name}: the interval reaches 0: with {number_of(there, 'drive')} these videos are not told from "
                "real ones"
            )
        elif wanted is not None and wanted > there:
            found.append(
                f"{name}: the interval is wider than {config.wanted_share:.2g} of the score on either side; that takes "
                f"about {wanted} drives, there are {there}"
            )
    floor = next((score.interval for score in scores if score.row is ScoreRow.FLOOR), None)
    if floor is not None and floor.num_drives < config.rough_drives:
        found.append(
            f"{name}: real against real compares halves of {floor.num_drives} drives: its plain value is too large by "
            f"the few clips, and its extrapolation swings; {config.rough_drives} drives a half steady it"
        )
    if bias is not None and not bias.is_seen:
        found.append(f"{name}: shuffling the generated frames does not raise it: it says nothing of their motion")
    return found
