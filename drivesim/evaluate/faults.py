"""Names what is wrong with a video from its curves: blur, gain, flicker, frozen tail, shuffled frames.

A fault is sudden or unlike anything that real video does; slow change is drift, see `drift.py`.

Legend: T frames, K frames of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drivesim.core.boxes import ObjectClass
from drivesim.evaluate.binomial import rank_that_covers
from drivesim.evaluate.curves import SMOOTHING_FRAMES, Curve, VideoCurves, log_of, smoothed
from drivesim.evaluate.picture_statistics import FINE_DETAIL_PX, ORDER_FRAMES

STILL = 0.1  # grey levels of change below which a frame repeats the one before
KEY_FRAME_STEP = 2.5  # grey levels that a codec's key frame may change between repeated frames
MARGIN = 1.5  # times what real video does at most, before it is called a fault
JUST_STOPPED = 4  # repeated frames at the end that any real video may have: the car may just have stopped
_JUMP_FRAMES = 3  # medians before and after a frame run over so many
_ORDER_WINDOW = 8  # frames over which the share out of order is taken
_PIXEL_PX = 0.5  # sigma of the blur that a picture's own pixels amount to


class FaultKind(str, Enum):
    """Faults that can be named. The size's unit stands behind each."""

    BLUR = "blur"  # sigma of a Gaussian in pixels
    GAIN = "gain"  # factor by which the light is multiplied
    FLICKER = "flicker"  # factor between neighbouring frames' light, the typical one, above 1
    FROZEN_TAIL = "frozen tail"  # seconds
    SHUFFLED = "shuffled frames"  # frames from the first out of order to the last
    REMOVED_OBJECT = "removed object"  # area in pixels, mean over its frames
    ADDED_OBJECT = "added object"  # area in pixels, mean over its frames


@dataclass(kw_only=True, slots=True)
class Fault:
    """One fault of one video."""

    kind: FaultKind
    onset_frame: int  # first frame that shows it
    size: float  # in the unit that stands beside its kind
    xyxy_px: tuple[float, float, float, float] | None = None  # where it begins; None = the whole picture
    object_class: ObjectClass | None = None  # of the box at its place; None = no boxes known, or none there


@dataclass(kw_only=True, slots=True)
class FaultSeries:
    """What faults are looked for in, (T,): a video's own numbers, or their differences from a reference."""

    log_sharpness: Curve
    light: Curve  # log gain since the frame before
    still: NDArray[np.bool_]  # the frame repeats the one before
    out_of_order: NDArray[np.bool_]


@dataclass(kw_only=True, slots=True)
class FaultLimits:
    """What is no fault yet."""

    sharpness_jump: float = 0.3  # fall of the log of sharpness
    light_jump: float = 0.05  # log gain that stays
    flicker: float = 0.03  # log gain from frame to frame, median over neighbours
    out_of_order: float = 0.45  # share of `_ORDER_WINDOW` frames
    still_tail: int = 2  # repeated frames at the end; of real videos: in a row, wherever they are


def series_of(curves: VideoCurves) -> FaultSeries:
    """The series of a video that stands alone."""
    return FaultSeries(
        log_sharpness=log_of(curves.sharpness),
        light=curves.light,
        still=_still(curves.motion),
        out_of_order=curves.out_of_order > 0,
    )


def _still(motion: Curve) -> NDArray[np.bool_]:
    """Frames that repeat the one before, a codec's key frames among them included."""
    still = motion < STILL
    still[0] = False
    between = np.zeros(len(still), dtype=bool)
    between[1:-1] = still[:-2] & still[2:]
    return still | (between & (motion < KEY_FRAME_STEP))


def natural_limits(real: Sequence[VideoCurves], share: float = 0.9, confidence: float = 0.95) -> FaultLimits:
    """Limits from real videos: `MARGIN` times what a `share` of them stays below over the whole length.

    By the rank of each video's largest value, as `real_band` does it; never below the limits between a
    video and its reference, which stand for coding noise. Too few videos: the largest value of all.
    """
    if not real:
        raise ValueError("no real videos; what is natural cannot be learnt from none")
    rank = rank_that_covers(len(real), share, confidence) or len(real)
    series = [series_of(curves) for curves in real]

    def bound(largest: list[float]) -> float:
        return sorted(largest)[rank - 1]

    floor = FaultLimits()
    return FaultLimits(
        sharpness_jump=max(floor.sharpness_jump, MARGIN * bound([-_jumps(s.log_sharpness).min() for s in series])),
        light_jump=max(floor.light_jump, MARGIN * bound([np.abs(_jumps(np.cumsum(s.light))).max() for s in series])),
        flicker=max(floor.flicker, MARGIN * bound([_flicker(s.light).max() for s in series])),
        out_of_order=max(floor.out_of_order, bound([_disorder(s.out_of_order).max() for s in series])),
        still_tail=max(JUST_STOPPED, math.ceil(MARGIN * bound([_longest_run(s.still) for s in series]))),
    )


def find_faults(series: FaultSeries, limits: FaultLimits, fps: float) -> list[Fault]:
    """The faults of one video, by onset. What a stronger fault explains is not named again.

    Args:
        series: Of the video.
        limits: From real videos, or those for a reference.
        fps: Turns a frozen tail into seconds.
    """
    num_frames = len(series.light)
    faults = []
    explained = np.zeros(num_frames, dtype=bool)
    if (tail := still_tail(series)) > limits.still_tail:
        faults.append(Fault(kind=FaultKind.FROZEN_TAIL, onset_frame=num_frames - tail, size=tail / fps))
        explained[num_frames - tail :] = True
    for first, last in _stretches(_flicker(series.light) > limits.flicker, 1, explained):
        near = max(0, first - SMOOTHING_FRAMES // 2)
        strong = near + np.flatnonzero(np.abs(series.light[near : last + 1 + SMOOTHING_FRAMES // 2]) > limits.flicker)
        onset, size = int(strong[0]), float(np.median(np.abs(series.light[strong])))
        faults.append(Fault(kind=FaultKind.FLICKER, onset_frame=onset, size=math.exp(size)))
        explained[max(0, onset - _JUMP_FRAMES) : last + 1 + _JUMP_FRAMES] = True
    for first, last in _stretches(_disorder(series.out_of_order) > limits.out_of_order, _ORDER_WINDOW, explained):
        flagged = first + np.flatnonzero(series.out_of_order[first : last + 1])
        flagged = flagged[_has_neighbour(flagged)]
        if not len(flagged):  # a frozen tail holds the rest
            continue
        onset, end = int(flagged[0]), int(flagged[-1])
        faults.append(Fault(kind=FaultKind.SHUFFLED, onset_frame=onset, size=float(end - onset + 1)))
        # The first frames of a shuffled stretch may be in order by chance.
        explained[max(0, onset - ORDER_FRAMES) : end + 1 + ORDER_FRAMES] = True
    level = np.cumsum(series.light)
    for onset, jump in _steps(level, limits.light_jump, explained):
        faults.append(Fault(kind=FaultKind.GAIN, onset_frame=onset, size=math.exp(jump)))
    for onset, jump in _steps(series.log_sharpness, limits.sharpness_jump, explained):
        if jump < 0:
            faults.append(Fault(kind=FaultKind.BLUR, onset_frame=onset, size=blur_sigma_px(jump)))
    return sorted(faults, key=lambda fault: fault.onset_frame)


def is_explained(onset_frame: int, faults: Sequence[Fault], num_frames: int) -> bool:
    """Whether an object comes or goes while the picture as a whole is wrong."""
    for fault in faults:
        end = num_frames
        if fault.kind is FaultKind.SHUFFLED:
            end = fault.onset_frame + int(fault.size) + ORDER_FRAMES
        # A fault of the order shows a few frames late.
        if fault.onset_frame - ORDER_FRAMES <= onset_frame < end:
            return True
    return False


def blur_sigma_px(log_fall: float) -> float:
    """The Gaussian blur that changes the log of sharpness by `log_fall` (negative) in a picture of edges.

    Edges have power 1 / w^2 at frequency w (Field 1987), so fine detail, all that a Gaussian of variance
    2 a takes away, has the power of integral (1 - exp(-a w^2))^2 exp(-b w^2) dw / w
    = ln((a + b)^2 / (b (2 a + b))) / 2, where b is the variance of all blur, the pixels' own included.
    """
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_fine_detail(middle) - _log_fine_detail(0.0) > log_fall else (low, middle)
    return (low + high) / 2


def _log_fine_detail(sigma_px: float) -> float:
    a, b = FINE_DETAIL_PX**2 / 2, sigma_px**2 + _PIXEL_PX**2
    # (a + b)^2 / (b (2 a + b)) = 1 + a^2 / (b (2 a + b))
    return math.log(math.log1p(a * a / (b * (2 * a + b))))


def _jumps(level: Curve) -> Curve:
    """(T,) at each frame, the median from it on minus the median before it; 0 at the first and the last frame."""
    jumps = np.zeros(len(level))
    for frame in range(1, len(level) - 1):
        after = level[frame : frame + _JUMP_FRAMES]
        jumps[frame] = np.median(after) - np.median(level[max(0, frame - _JUMP_FRAMES) : frame])
    return jumps


def _steps(level: Curve, limit: float, explained: NDArray[np.bool_]) -> list[tuple[int, float]]:
    """Frames at which a level jumps and stays, and by how much; the largest of neighbouring jumps."""
    jumps = np.where(explained, 0.0, _jumps(level))
    found = []
    while len(jumps) and abs(jumps[frame := int(np.abs(jumps).argmax())]) > limit:
        near = slice(max(1, frame - _JUMP_FRAMES), frame + _JUMP_FRAMES + 1)
        change = np.diff(level, prepend=level[0])[near] * np.sign(jumps[frame])
        found.append((near.start + int(change.argmax()), float(jumps[frame])))
        jumps[near] = 0.0
    return found


def _flicker(light: Curve) -> Curve:
    return smoothed(np.abs(light), np.median, SMOOTHING_FRAMES)


def _disorder(out_of_order: NDArray[np.bool_]) -> Curve:
    """(T - K + 1,) share of frames out of order in the window that begins at each frame."""
    window = min(_ORDER_WINDOW, len(out_of_order))
    return np.asarray(sliding_window_view(out_of_order.astype(np.float64), window).mean(axis=-1))


def _has_neighbour(flagged: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of some rising frame numbers have another within 2 frames: a lone one may be out of order by nature."""
    gaps = np.diff(flagged, prepend=-9, append=flagged[-1] + 9 if len(flagged) else 0)
    return np.asarray(np.minimum(gaps[:-1], gaps[1:]) <= 2)


def still_tail(series: FaultSeries) -> int:
    """Repeated frames at the end."""
    moving = np.flatnonzero(~series.still)
    return len(series.still) - 1 - int(moving[-1]) if len(moving) else len(series.still)


def _longest_run(still: NDArray[np.bool_]) -> int:
    """Repeated frames in a row, at most."""
    return max((last - first + 1 for first, last in _runs(still)), default=0)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last position of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def _stretches(is_found: NDArray[np.bool_], window: int, explained: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last frame of each run of windows in which something was found, touching runs joined."""
    covered = np.zeros(len(explained), dtype=bool)
    for start in np.flatnonzero(is_found):
        covered[start : start + window] = True
    return _runs(covered & ~explained)
