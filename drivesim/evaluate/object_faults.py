"""Road users that come or go from one frame to the next in the middle of a video that stands alone.

Real road users enter at the border, from behind something, or small and far away. One that is large, free
and in the middle, and was not there the frame before, was added; one that is gone the frame after was removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.core.boxes import CLASSES
from drivesim.evaluate.binomial import rank_that_covers
from drivesim.evaluate.detector import Detections
from drivesim.evaluate.faults import MARGIN, Fault, FaultKind, is_explained
from drivesim.evaluate.object_tracks import MAX_GAP_FRAMES, Array, Track, follow

MIN_FRAMES = 3  # in which an object must have been found
_BORDER = 0.06  # share of the picture's width or height: what is expected so near to the border has left or come
_AS_LARGE = 2.0  # factor between the areas of one object in two frames
_COVERED = 0.25  # share of its expected place that lies behind a nearer box


@dataclass(kw_only=True, slots=True)
class ObjectLimits:
    """What is no fault yet; the defaults were measured on toytown, see `evaluation/toytown-detector`."""

    size: float = 0.15  # root of the area over the picture's height, up to which real objects come and go at once
    sure_score: float = 0.5  # of the detector


@dataclass(kw_only=True, slots=True)
class SuddenObject:
    """A road user that came or went at once."""

    is_added: bool
    frame: int  # first frame with it, or without it
    size: float  # root of the area over the picture's height
    track: Track


def find_object_faults(
    detections: Sequence[Detections], size_hw: tuple[int, int], limits: ObjectLimits | None = None
) -> list[Fault]:
    """Added and removed objects of one video, by onset; their size is the area in pixels next to the event.

    Args:
        detections: One a frame, of frames of `size_hw`.
        size_hw: Height and width in pixels.
        limits: What is no fault; None = toytown's.
    """
    limits = limits or ObjectLimits()
    found = []
    for event in sudden_objects(detections, size_hw, limits.sure_score):
        if event.size <= limits.size:
            continue
        near = event.track.boxes[:MIN_FRAMES] if event.is_added else event.track.boxes[-MIN_FRAMES:]
        left, top, right, bottom = (near[0] if event.is_added else near[-1]).tolist()
        found.append(
            Fault(
                kind=FaultKind.ADDED_OBJECT if event.is_added else FaultKind.REMOVED_OBJECT,
                onset_frame=event.frame,
                size=round(float(np.mean([_area(box) for box in near])), 1),
                xyxy_px=(left, top, right, bottom),
                object_class=CLASSES[event.track.class_id],
            )
        )
    return sorted(found, key=lambda fault: fault.onset_frame)


def add_object_faults(
    faults: dict[str, list[Fault]],
    made: Mapping[str, Sequence[Detections]],
    real: Sequence[Sequence[Detections]],
    size_hw: tuple[int, int],
) -> None:
    """Adds objects that came or went to the faults of each video, where no fault of the whole picture explains them.

    Args:
        faults: By video; a video without any may be absent.
        made: Detections of those videos, one a frame.
        real: Of real videos: they tell what is natural.
        size_hw: Of the frames.
    """
    limits = natural_object_limits(real, size_hw)
    for name, detections in made.items():
        known = faults.get(name, [])
        found = find_object_faults(detections, size_hw, limits)
        new = [fault for fault in found if not is_explained(fault.onset_frame, known, len(detections))]
        if new:
            faults[name] = sorted(known + new, key=lambda fault: fault.onset_frame)


def natural_object_limits(
    real: Sequence[Sequence[Detections]],
    size_hw: tuple[int, int],
    *,
    sure_score: float = 0.5,
    share: float = 0.9,
    confidence: float = 0.95,
) -> ObjectLimits:
    """Limits from real videos: `MARGIN` times what a `share` of them stays below over the whole length.

    By the rank of each video's largest road user that comes or goes at once; never below the defaults. Too few
    videos: the largest of all.

    Args:
        real: One video's detections each, one a frame.
        size_hw: Of their frames.
        sure_score: Of the detector.
        share: Of real videos.
        confidence: That so many of them stay below.
    """
    largest = [max((event.size for event in sudden_objects(video, size_hw, sure_score)), default=0.0) for video in real]
    rank = rank_that_covers(len(real), share, confidence) or len(real)
    natural = sorted(largest)[rank - 1] if real else 0.0
    return ObjectLimits(size=max(ObjectLimits().size, MARGIN * natural), sure_score=sure_score)


def sudden_objects(
    detections: Sequence[Detections], size_hw: tuple[int, int], sure_score: float
) -> Iterator[SuddenObject]:
    """Every road user that came or went at once, whatever its size."""
    tracks = follow(detections, sure_score)
    for track in tracks:
        if sum(score >= sure_score for score in track.scores) < MIN_FRAMES:
            continue
        for is_added in (True, False):
            frame = track.frames[0] if is_added else track.frames[-1] + 1
            outside = frame - 1 if is_added else frame  # the frame without it
            # At the video's ends nobody knows; a track may have a gap there.
            if outside < 0 or outside >= len(detections) - (0 if is_added else MAX_GAP_FRAMES):
                continue
            end = track.boxes[0] if is_added else track.boxes[-1]
            score = track.scores[0] if is_added else track.scores[-1]
            expected = track.expected(outside)
            if score < sure_score or _at_border(expected, size_hw) or _at_border(end, size_hw):
                continue
            if not _is_covered(expected, outside, track, tracks) and not _has_jumped(
                track, is_added, tracks, sure_score
            ):
                size = float(np.sqrt(_area(end))) / size_hw[0]
                yield SuddenObject(is_added=is_added, frame=frame, size=size, track=track)


def _at_border(box: Array, size_hw: tuple[int, int]) -> bool:
    height, width = size_hw
    left, top, right, bottom = box
    sides = left <= _BORDER * width or right >= (1 - _BORDER) * width
    return bool(sides or top <= _BORDER * height or bottom >= (1 - _BORDER) * height)


def _is_covered(place: Array, frame: int, track: Track, tracks: Sequence[Track]) -> bool:
    """Whether something nearer stands before an object's place: its lower border is lower."""
    for other in tracks:
        if other is track or not other.frames[0] - 1 <= frame <= other.frames[-1] + 1:
            continue
        box = other.expected(frame) if frame not in other.frames else other.boxes[other.frames.index(frame)]
        sides = np.minimum(box[2:], place[2:]) - np.maximum(box[:2], place[:2])
        if (sides > 0).all() and box[3] >= place[3] - 1 and sides.prod() > _COVERED * _area(place):
            return True
    return False


def _has_jumped(track: Track, is_added: bool, tracks: Sequence[Track], sure_score: float) -> bool:
    """Whether another object as large came when this one went, or the other way round: in a turn, it is this one."""
    for other in tracks:
        mine, its = (0, -1) if is_added else (-1, 0)
        if other is track or other.frames[its] - track.frames[mine] != (-1 if is_added else 1):
            continue
        ratio = _area(other.boxes[its]) / max(_area(track.boxes[mine]), 1.0)
        if other.scores[its] >= sure_score and 1 / _AS_LARGE < ratio < _AS_LARGE:
            return True
    return False


def _area(box: Array) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
