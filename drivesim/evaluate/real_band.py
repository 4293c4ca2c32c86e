"""The band that real video spans, with a stated confidence, and when a curve leaves it.

Legend: N videos, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.evaluate.binomial import rank_that_covers, share_below_largest
from drivesim.evaluate.curves import Curve

MIN_VIDEOS = 4  # real videos below which no band is drawn
_SPREAD_FLOOR = 0.25  # of the mean spread: at the first frame, where all curves start from 0, the band has a width


@dataclass(kw_only=True, slots=True)
class RealBand:
    """Centre +- half width over time. A `share` of real videos stay inside over its whole length."""

    low: Curve  # (T,)
    high: Curve  # (T,)
    num_videos: int  # N
    share: float  # of real videos that never leave the band
    confidence: float  # of that statement


def real_band(courses: Sequence[Curve], share: float, confidence: float) -> RealBand:
    """The band of N real videos' curves of one length T.

    Each video is held against mean and standard deviation of all others, frame by frame; the largest
    deviation over its time is its score. The width is the smallest score that, by its rank alone,
    exceeds `share` of the scores of all such videos with `confidence`. It is one statement for the
    whole length: no allowance for looking at many frames is needed. Too few videos for that: the
    largest score, and the share that it covers with that confidence.

    Raises:
        ValueError: fewer than `MIN_VIDEOS` curves, or of different lengths.
    """
    if len({len(curve) for curve in courses}) > 1:
        raise ValueError(f"curves of {sorted({len(curve) for curve in courses})} frames; a band needs one length")
    num_videos = len(courses)
    if num_videos < MIN_VIDEOS:
        raise ValueError(f"{num_videos} real videos; a band needs at least {MIN_VIDEOS}")
    values_NT = np.stack(courses).astype(np.float64)
    scores = np.sort(_largest_deviations(values_NT))
    rank = rank_that_covers(num_videos, share, confidence)
    if rank is None:
        rank, share = num_videos, share_below_largest(num_videos, confidence)
    centre = values_NT.mean(axis=0)
    half = scores[rank - 1] * _floored(values_NT.std(axis=0, ddof=1))
    return RealBand(low=centre - half, high=centre + half, num_videos=num_videos, share=share, confidence=confidence)


def _largest_deviations(values_NT: Curve) -> Curve:
    """(N,) the largest deviation of each curve from the others, in their standard deviations."""
    scores = []
    for index in range(len(values_NT)):
        others = np.delete(values_NT, index, axis=0)
        spread = _floored(others.std(axis=0, ddof=1))
        scores.append(np.max(np.abs(values_NT[index] - others.mean(axis=0)) / spread))
    return np.array(scores)


def _floored(spread: Curve) -> Curve:
    """A spread that is nowhere far below its own mean, and nowhere 0."""
    return np.maximum(spread, max(_SPREAD_FLOOR * float(spread.mean()), 1e-9))


def leaves_at(curve: Curve, band: RealBand) -> int | None:
    """The first frame at which a curve is outside a band; None = never. Beyond the band's end its last value holds."""
    low, high = (_of_length(edge, len(curve)) for edge in (band.low, band.high))
    outside = np.flatnonzero((curve < low) | (curve > high))
    return int(outside[0]) if len(outside) else None


def _of_length(edge: Curve, num_frames: int) -> Curve:
    return edge[np.minimum(np.arange(num_frames), len(edge) - 1)]
