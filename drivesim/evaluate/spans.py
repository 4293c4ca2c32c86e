"""Scores of a part of the generated videos' time, from stored features: nothing is decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drivesim.evaluate.controls import Variant
from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.feature_store import FeatureSet, StoredVideo
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.metric_rows import Table
from drivesim.evaluate.scorer import Key, Side
from drivesim.evaluate.scores import Score, ScoreRow
from drivesim.evaluate.settings import Span
from drivesim.evaluate.stored_scores import StoredScores
from drivesim.evaluate.uncertainty import UncertaintyConfig

_TOLERANCE_S = 1e-6  # of times that are whole frames


def part_of(features: FeatureSet, span: Span, clip_s: float) -> FeatureSet:
    """The clips of `clip_s` seconds that lie in the span as a whole; videos without any are left out."""
    return replace(features, videos=[part for video in features.videos for part in _part_of(video, span, clip_s)])


def _part_of(video: StoredVideo, span: Span, clip_s: float) -> list[StoredVideo]:
    starts_s = video.starts_s()
    inside = (starts_s >= span.begin_s - _TOLERANCE_S) & (starts_s + clip_s <= span.end_s + _TOLERANCE_S)
    numbers = np.flatnonzero(inside) + (video.clips.start or 0)  # in a row: clips are in the order of time
    return [replace(video, clips=slice(int(numbers[0]), int(numbers[-1]) + 1))] if len(numbers) else []


def span_scores(
    stored: StoredScores, extractors: Sequence[Extractor], span: Span, config: UncertaintyConfig
) -> list[Score]:
    """The scores of the generated videos' clips in a span against all real clips, as they are and shuffled.

    Args:
        stored: An evaluation of the whole videos.
        extractors: Its networks.
        span: Which part of the time.
        config: Of the intervals.

    Raises:
        ValueError: no features are stored, or fewer than two generated vectors lie in the span.
    """
    protocol = stored.scores["card"]["protocol"]
    span_frames = (protocol["num_frames"] - 1) * protocol["frame_stride"] + 1
    clip_s = span_frames / (protocol["fps"] or protocol["untimed_fps"] or 1.0)
    scores: list[Score] = []
    for index, extractor in enumerate(extractors):
        sets: dict[Side, dict[Key, FeatureSet]] = {side: {} for side in Side}
        for side, variant in (
            (Side.REAL, Variant.PLAIN),
            (Side.GENERATED, Variant.PLAIN),
            (Side.GENERATED, Variant.SHUFFLED),
        ):
            features = stored.features(side, extractor.name, variant)
            if features is not None:
                sets[side][index, variant] = part_of(features, span, clip_s) if side is Side.GENERATED else features
        if any((index, Variant.PLAIN) not in sets[side] for side in Side):
            raise ValueError(f"{stored.folder}: features of {extractor.name} are gone; evaluate it again")
        num_clips = sum(len(video.starts_s()) for video in sets[Side.GENERATED][index, Variant.PLAIN].videos)
        if num_clips < 2:
            raise ValueError(
                f"{num_clips} generated clips of {clip_s:g} s lie in {span}: a distance asks for 2; "
                "score a longer part, more futures or shorter clips (protocol.num_frames)"
            )
        table = Table(
            index=index,
            extractor=extractor,
            sets=sets,
            store=stored.store_dir,
            floor=False,
            config=config,
            covariance=Covariance(protocol["covariance"]),
            root_eps=protocol["root_eps"],
        )
        own = (ScoreRow.GENERATED, ScoreRow.GENERATED_SHUFFLED)
        scores += [score for score in table.rows().scores if score.row in own]
    return scores
