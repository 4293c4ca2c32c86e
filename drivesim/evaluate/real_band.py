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


def real_band(courses: Sequence[Curve], share: float, confidence: float, *, is_steady: bool = False) -> RealBand:
    """The band of N real videos' curves of one length T.

    Each video's score is its largest deviation over time. The width is the smallest score that, by its
    rank alone, exceeds `share` of the scores of all such videos with `confidence`. It is one statement
    for the whole length: no allowance for looking at many frames is needed. Too few videos for that:
    the largest score, and the share that it covers with that confidence.

    Args:
        courses: One a real video.
        share: Of real videos that stay inside.
        confidence: Of that statement.
        is_steady: False = the curves spread with time: deviations are from mean and standard deviation of
            all other videos, frame by frame. True = they do not: deviations are from the median over
            videos and time, in distances to the 10 % and 90 % quantiles, and the band is level.

    Raises:
        ValueError: fewer than `MIN_VIDEOS` curves, or of different lengths.
    """
    if len({len(curve) for curve in courses}) > 1:
        raise ValueError(f"curves of {sorted({len(curve) for curve in courses})} frames; a band needs one length")
    num_videos = len(courses)
    if num_videos < MIN_VIDEOS:
        raise ValueError(f"{num_videos} real videos; a band needs at least {MIN_VIDEOS}")
    values_NT = np.stack(courses).astype(np.float64)
    if is_steady:
        centre, down, up = _level(values_NT)
        scores = np.maximum((values_NT - centre) / up, (centre - values_NT) / down).max(axis=1)
    else:
        centre = values_NT.mean(axis=0)
        down = up = _floored(values_NT.std(axis=0, ddof=1))
        scores = _largest_deviations(values_NT)
    rank = rank_that_covers(num_videos, share, confidence)
    if rank is None:
        rank, share = num_videos, share_below_largest(num_videos, confidence)
    width = np.sort(scores)[rank - 1]
    low = centre - width * down
    return RealBand(
        low=np.maximum(low, 0.0) if is_steady else low,  # steady measures are sizes and shares
        high=centre + width * up,
        num_videos=num_videos,
        share=share,
        confidence=confidence,
    )


def _level(values_NT: Curve) -> tuple[Curve, Curve, Curve]:
    """(T,) each, level: median of all values, and the distances down to 10 % and up to 90 % of them."""
    low, middle, high = np.quantile(values_NT, [0.1, 0.5, 0.9])
    down, up = middle - low, high - middle
    least = max(_SPREAD_FLOOR * max(down, up), 1e-9)
    level = np.ones(values_NT.shape[1])
    return middle * level, max(down, least) * level, max(up, least) * level


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
