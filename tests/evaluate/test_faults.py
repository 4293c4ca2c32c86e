"""Faults put into toytown drives are named with onset and size; clean drives raise none.

Stated tolerances: onset within 1 frame (shuffled frames: 3), size within 20 % (shuffled frames: 4 frames).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from drivesim.core.boxes import ObjectClass
from drivesim.evaluate.curves import VideoCurves, video_curves
from drivesim.evaluate.faults import (
    Fault,
    FaultKind,
    FaultLimits,
    blur_sigma_px,
    find_faults,
    natural_limits,
    series_of,
)
from drivesim.evaluate.paired_faults import find_paired_faults
from tests.evaluate.town_videos import (
    FPS,
    NUM_FRAMES,
    ONSET,
    Frames,
    TownVideo,
    blurred,
    boxes_of,
    brightened,
    car_in_sight,
    drive,
    flickering,
    frozen,
    shuffled,
    without,
)

NUM_REAL = 10
HELD_OUT = (30, 32, 33)
INJECTED = {
    FaultKind.BLUR: (lambda frames: blurred(frames, 1.2), 1.2),
    FaultKind.GAIN: (lambda frames: brightened(frames, 0.75), 0.75),
    FaultKind.FLICKER: (lambda frames: flickering(frames, 0.08), 1.08 / 0.92),
    FaultKind.FROZEN_TAIL: (frozen, (NUM_FRAMES - ONSET) / FPS),
    FaultKind.SHUFFLED: (lambda frames: shuffled(frames, 12), 12.0),
}


@pytest.fixture(scope="module")
def limits() -> FaultLimits:
    return natural_limits([video_curves(drive(scene).frames_THWC) for scene in range(NUM_REAL)])


@pytest.fixture(scope="module")
def held_out() -> list[TownVideo]:
    return [drive(scene) for scene in HELD_OUT]


def check(faults: list[Fault], kind: FaultKind, size: float) -> None:
    assert [fault.kind for fault in faults] == [kind]
    (fault,) = faults
    is_order = kind is FaultKind.SHUFFLED
    assert abs(fault.onset_frame - ONSET) <= (3 if is_order else 1)
    assert fault.size == pytest.approx(size, abs=4) if is_order else fault.size == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("kind", INJECTED)
def test_a_fault_is_named_by_what_real_video_does(
    kind: FaultKind, held_out: list[TownVideo], limits: FaultLimits
) -> None:
    inject, size = INJECTED[kind]
    for video in held_out:
        check(find_faults(series_of(video_curves(inject(video.frames_THWC))), limits, FPS), kind, size)


@pytest.mark.parametrize("kind", INJECTED)
def test_a_fault_is_named_against_the_clean_video(kind: FaultKind, held_out: list[TownVideo]) -> None:
    inject, size = INJECTED[kind]
    clean = held_out[0].frames_THWC
    check(find_paired_faults(inject(clean), clean, FPS), kind, size)


def test_clean_held_out_drives_raise_no_fault(held_out: list[TownVideo], limits: FaultLimits) -> None:
    for video in held_out:
        assert find_faults(series_of(video_curves(video.frames_THWC)), limits, FPS) == []
        assert find_paired_faults(video.frames_THWC, video.frames_THWC, FPS) == []


def changed_px(first: Frames, second: Frames) -> float:
    """Mean area that differs, over the frames in which anything does."""
    areas = (np.abs(first.astype(int) - second).max(axis=-1) > 16).sum(axis=(1, 2))
    return float(areas[areas > 0].mean())


def test_one_removed_car_and_one_added_car_are_named_with_their_class(held_out: list[TownVideo]) -> None:
    video = next(video for video in [drive(0), *held_out] if boxes_of(video)[ONSET].num_cars())
    track = car_in_sight(video, 6)
    boxes, full, emptier = boxes_of(video), video.frames_THWC, without(video, track)
    size = changed_px(full, emptier)
    for kind, frames, reference in (
        (FaultKind.REMOVED_OBJECT, emptier, full),
        (FaultKind.ADDED_OBJECT, full, emptier),
    ):
        faults = find_paired_faults(frames, reference, FPS, boxes=boxes, reference_boxes=boxes)
        check(faults, kind, size)
        assert faults[0].object_class is ObjectClass.CAR


def test_blur_is_measured_in_pixels_on_a_picture_of_edges() -> None:
    rng = np.random.default_rng(0)
    frames = np.zeros((16, 128, 256, 3), dtype=np.uint8)
    for _ in range(400):  # leaves of all sizes and greys: power falls as 1 / frequency^2
        top, left = rng.integers(-20, 128), rng.integers(-20, 256)
        height, width = (16 / rng.uniform(0.1, 1, size=2)).astype(int)
        frames[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = rng.integers(0, 255, 3)
    frames[:] = cv2.GaussianBlur(frames[0], (0, 0), 0.5)  # as lens and pixels do
    for sigma in (0.7, 1.5):
        found = find_faults(series_of(video_curves(blurred(frames, sigma))), FaultLimits(still_tail=99), FPS)
        check(found, FaultKind.BLUR, sigma)
    assert blur_sigma_px(0.0) == pytest.approx(0, abs=1e-6)


def curves(**parts: np.ndarray) -> VideoCurves:  # type: ignore[type-arg]
    """Curves of a quiet video but for the parts given."""
    quiet = {
        name: np.full(NUM_FRAMES, 10.0) for name in ("brightness", "contrast", "sharpness", "saturation", "motion")
    }
    quiet |= {name: np.zeros(NUM_FRAMES) for name in ("light", "out_of_order")}
    return VideoCurves(**(quiet | parts))


def test_a_coded_frozen_tail_may_hold_key_frames() -> None:
    motion = np.full(NUM_FRAMES, 6.0)
    motion[ONSET:] = 0.02
    motion[16] = 1.2
    (fault,) = find_faults(series_of(curves(motion=motion)), FaultLimits(), FPS)
    assert (fault.kind, fault.onset_frame) == (FaultKind.FROZEN_TAIL, ONSET)


def test_a_flash_of_one_frame_is_no_gain_and_two_gains_are_two() -> None:
    light = np.zeros(NUM_FRAMES)
    light[[8, 9]] = 0.4, -0.4
    assert find_faults(series_of(curves(light=light)), FaultLimits(), FPS) == []
    light = np.zeros(NUM_FRAMES)
    light[[6, 15]] = 0.4, -0.2
    found = [
        (fault.onset_frame, round(math.log(fault.size), 6))
        for fault in find_faults(series_of(curves(light=light)), FaultLimits(), FPS)
    ]
    assert found == [(6, 0.4), (15, -0.2)]


def test_cars_that_stop_now_and_then_excuse_as_long_a_tail() -> None:
    motion = np.full(NUM_FRAMES, 6.0)
    standing = motion.copy()
    standing[4:12] = 0.0
    motion[-8:] = 0.0
    assert find_faults(series_of(curves(motion=motion)), natural_limits([curves(motion=standing)]), FPS) == []
    assert find_faults(series_of(curves(motion=motion)), natural_limits([curves()]), FPS) != []
    with pytest.raises(ValueError, match="no real videos"):
        natural_limits([])


def test_a_video_and_a_reference_of_other_length_or_size_are_refused() -> None:
    frames = np.zeros((4, 32, 64, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="different numbers"):
        find_paired_faults(frames, frames[:3], FPS)
    with pytest.raises(ValueError, match="sizes differ"):
        find_paired_faults(frames, frames[:, :16], FPS)
