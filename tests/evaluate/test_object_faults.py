"""Cars that come or go at once are named; those that real video lets come and go are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.evaluate.detector import Detections, Detector
from drivesim.evaluate.faults import Fault, FaultKind
from drivesim.evaluate.object_faults import (
    ObjectLimits,
    add_object_faults,
    find_object_faults,
    natural_object_limits,
)
from drivesim.evaluate.object_tracks import follow
from tests.evaluate.town_videos import ONSET, TownVideo, boxes_of, car_in_sight, drive, pictures, without

SIZE_HW = (128, 256)
CAR = ObjectClass.CAR.id
NUM_FRAMES = 16
Row = tuple[float, float, float, float, float]  # centre x and y, half width, half height, score


def video(*cars: dict[int, Row]) -> list[Detections]:
    """Detections of cars by the frames in which they are seen."""
    frames = []
    for frame in range(NUM_FRAMES):
        rows = [car[frame] for car in cars if frame in car]
        rows.sort(key=lambda row: -row[4])
        boxes = Boxes2D(
            xyxy_px=np.array([[x - w, y - h, x + w, y + h] for x, y, w, h, _ in rows]).reshape(-1, 4),
            class_ids=np.full(len(rows), CAR),
            depth_m=np.full(len(rows), 10.0),
            visibility=np.full(len(rows), np.nan),
        )
        frames.append(Detections(boxes=boxes, scores=np.array([row[4] for row in rows]), night=0.0))
    return frames


def standing(frames: range, x: float = 120, y: float = 70, half: float = 20, score: float = 0.9) -> dict[int, Row]:
    return dict.fromkeys(frames, (x, y, half, half, score))


def test_a_car_that_is_gone_at_once_is_removed_and_one_that_is_there_at_once_was_added() -> None:
    (removed,) = find_object_faults(video(standing(range(9))), SIZE_HW)
    assert (removed.kind, removed.onset_frame, removed.size) == (FaultKind.REMOVED_OBJECT, 9, 1600.0)
    assert removed.object_class is ObjectClass.CAR
    (added,) = find_object_faults(video(standing(range(9, NUM_FRAMES))), SIZE_HW)
    assert (added.kind, added.onset_frame) == (FaultKind.ADDED_OBJECT, 9)
    assert added.xyxy_px == (100, 50, 140, 90)


def test_cars_that_stay_leave_shrink_fade_or_hide_are_no_fault() -> None:
    leaves = {frame: (130 + 12.0 * frame, 80.0, 20.0, 20.0, 0.9) for frame in range(9)}  # over the right border
    shrinks = {frame: (120.0, 66.0, 20 / (1 + frame), 20 / (1 + frame), 0.9) for frame in range(9)}
    fades = {frame: (120.0, 70.0, 20.0, 20.0, 0.9 if frame < 6 else 0.2) for frame in range(9)}
    hides = [standing(range(9)), {frame: (20.0 * frame - 70, 76.0, 24.0, 30.0, 0.9) for frame in range(NUM_FRAMES)}]
    misses = {frame: row for frame, row in standing(range(NUM_FRAMES)).items() if frame not in (6, 7)}
    for cars in ([standing(range(NUM_FRAMES))], [leaves], [shrinks], [fades], hides, [misses]):
        assert find_object_faults(video(*cars), SIZE_HW) == []


def test_a_detection_of_one_or_two_frames_is_no_object() -> None:
    assert find_object_faults(video(standing(range(5, 7))), SIZE_HW) == []


def test_two_cars_that_pass_each_other_are_two_tracks() -> None:
    right = {frame: (40 + 10.0 * frame, 60.0, 8.0, 6.0, 0.9) for frame in range(NUM_FRAMES)}
    left = {frame: (200 - 10.0 * frame, 80.0, 12.0, 8.0, 0.8) for frame in range(NUM_FRAMES)}
    tracks = follow(video(right, left), 0.5)
    assert sorted(len(track.frames) for track in tracks) == [NUM_FRAMES, NUM_FRAMES]


def test_what_comes_and_goes_in_real_video_raises_the_limit() -> None:
    real = [video(standing(range(9), half=24)), video(standing(range(NUM_FRAMES)))]
    limits = natural_object_limits(real, SIZE_HW)
    assert limits.size == 1.5 * 48 / 128
    assert find_object_faults(video(standing(range(9))), SIZE_HW, limits) == []
    assert natural_object_limits(real[1:], SIZE_HW) == ObjectLimits()


def test_what_a_fault_of_the_whole_picture_explains_is_not_named_again() -> None:
    frozen = Fault(kind=FaultKind.FROZEN_TAIL, onset_frame=8, size=2.0)
    faults = {"frozen": [frozen]}
    made = {"frozen": video(standing(range(9))), "whole": video(standing(range(9)))}
    add_object_faults(faults, made, [video(standing(range(NUM_FRAMES)))], SIZE_HW)
    assert faults["frozen"] == [frozen]
    assert [fault.kind for fault in faults["whole"]] == [FaultKind.REMOVED_OBJECT]


@pytest.fixture(scope="module")
def town_video() -> TownVideo:
    return drive(62)


def test_a_car_taken_out_of_or_put_into_a_toytown_drive_is_named_without_a_reference(town_video: TownVideo) -> None:
    """With the shipped detector; `evaluation/toytown-detector` says how often it succeeds."""
    detector = Detector.shipped()
    size_hw = (64, 128)
    assert find_object_faults(detector(town_video.frames_THWC), size_hw) == []
    track = car_in_sight(town_video, 6)
    boxes = boxes_of(town_video)[ONSET]
    left, top, right, bottom = boxes.xyxy_px[list(boxes.track_ids).index(track)]
    motion = town_video.episode.motion
    pose = motion.pose.copy()
    pose[:ONSET, int(track.rsplit("-", 1)[1]), :2] += 5000.0
    added = pictures(replace(town_video.episode, motion=replace(motion, pose=pose)))
    for kind, frames in ((FaultKind.REMOVED_OBJECT, without(town_video, track)), (FaultKind.ADDED_OBJECT, added)):
        (fault,) = find_object_faults(detector(frames), size_hw)
        assert (fault.kind, fault.object_class) == (kind, ObjectClass.CAR)
        assert abs(fault.onset_frame - ONSET) <= 1
        assert 0.5 < fault.size / ((right - left) * (bottom - top)) < 2
