"""Road users followed through a video by a detector's boxes.

Legend: T frames, N objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.detector import Detections
from drivesim.evaluate.overlaps import overlap_matrix

Array = NDArray[np.float64]

MAX_GAP_FRAMES = 2  # frames without a detection that a track outlives
_REACH = 0.8  # share of its size, and as much of its last step again, by which an object may be off its expected place
_MAX_GROWTH = 1.8  # of a side, from one detection to the next
_WEAK_OVERLAP = 0.3  # of intersection over union with its place, below which a weak detection is something else


@dataclass(kw_only=True, slots=True)
class Track:
    """One road user; a box for each frame in which it was found."""

    frames: list[int] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)  # (4,) left, top, right, bottom in pixels
    scores: list[float] = field(default_factory=list)
    class_ids: list[int] = field(default_factory=list)

    def add(self, frame: int, box: Array, score: float, class_id: int) -> None:
        """A further detection."""
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)
        self.class_ids.append(class_id)

    @property
    def class_id(self) -> int:
        """The class that its detections speak for together."""
        votes: dict[int, float] = {}
        for class_id, score in zip(self.class_ids, self.scores, strict=True):
            votes[class_id] = votes.get(class_id, 0.0) + score
        return max(votes, key=lambda class_id: votes[class_id])

    def expected(self, frame: int) -> Array:
        """(4,) where its box should be in a later frame, or in an earlier one, by the nearest step."""
        later = frame >= self.frames[-1]
        here, before = (-1, -2) if later else (0, 1)
        if len(self.frames) < 2:
            return self.boxes[here]
        step = (self.boxes[here] - self.boxes[before]) / (self.frames[here] - self.frames[before])
        return np.asarray(self.boxes[here] + step * (frame - self.frames[here]))


def follow(detections: Sequence[Detections], sure_score: float) -> list[Track]:
    """The tracks of a video, by their first frame; each holds a detection of at least `sure_score`.

    Weaker detections go on with a track, and begin one that a sure one follows: an object fades in a
    detector's eyes before it is gone.

    Args:
        detections: One a frame.
        sure_score: From which on an object is there for certain.
    """
    tracks: list[Track] = []
    for frame, found in enumerate(detections):
        open_tracks = [track for track in tracks if track.frames[-1] >= frame - 1 - MAX_GAP_FRAMES]
        taken: set[int] = set()
        pairs = sorted(
            (distance, index, number)
            for index in range(len(found.boxes))
            for number, track in enumerate(open_tracks)
            if (distance := _distance(track, frame, found.boxes.xyxy_px[index], found.scores[index] >= sure_score))
            is not None
        )
        matched: dict[int, Track] = {}
        for _, index, number in pairs:
            if index not in matched and number not in taken:
                matched[index] = open_tracks[number]
                taken.add(number)
        for index in range(len(found.boxes)):
            track = matched.get(index)
            if track is None:
                track = Track()
                tracks.append(track)
            box, class_id = found.boxes.xyxy_px[index], int(found.boxes.class_ids[index])
            track.add(frame, box, float(found.scores[index]), class_id)
    return [track for track in tracks if max(track.scores) >= sure_score]


def _distance(track: Track, frame: int, box: Array, is_sure: bool) -> float | None:
    """How far a box is from where a track should be, in sizes; None = too far or too different."""
    expected, last = track.expected(frame), track.boxes[-1]
    sides, expected_sides = box[2:] - box[:2], np.maximum(expected[2:] - expected[:2], 1.0)
    growth = np.maximum(sides / expected_sides, expected_sides / np.maximum(sides, 1.0))
    last_growth = np.maximum(sides / np.maximum(last[2:] - last[:2], 1.0), np.maximum(last[2:] - last[:2], 1.0) / sides)
    if min(growth.max(), last_growth.max()) > _MAX_GROWTH:
        return None
    centre = (box[:2] + box[2:]) / 2
    way = np.linalg.norm(centre - (expected[:2] + expected[2:]) / 2)
    step = np.linalg.norm((expected[:2] + expected[2:]) / 2 - (last[:2] + last[2:]) / 2)
    size = float(np.sqrt(expected_sides.prod()))
    if way > _REACH * (size + step):
        return None
    # Where a large object is gone, a detector may half see a small one behind it.
    if not is_sure and overlap_matrix(box[None], np.stack([expected, last])).max() < _WEAK_OVERLAP:
        return None
    return float(way / size)
