"""Speed and yaw rate from a path, and from what a person asks for: the same drive, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.core.motion import MotionSegment, motion_along, motion_at


def test_a_circle_is_driven_at_its_speed_and_yaw_rate_across_the_seam_of_angles() -> None:
    radius_m, rate, gap_s = 10.0, 0.5, 0.25
    yaw = np.arange(40) * rate * gap_s + 2.0  # passes pi
    circle = np.stack([radius_m * np.sin(yaw), -radius_m * np.cos(yaw), (yaw + np.pi) % (2 * np.pi) - np.pi], axis=1)
    motion = motion_along(circle[1:], circle[:-1], gap_s)
    chord = 2 * radius_m * np.sin(rate * gap_s / 2) / gap_s  # straight from frame to frame
    np.testing.assert_allclose(motion, np.tile([chord, rate], (39, 1)), rtol=1e-5)
    mirrored = circle * [1, -1, -1]
    np.testing.assert_allclose(motion_along(mirrored[1:], mirrored[:-1], gap_s)[:, 1], -rate, rtol=1e-5)


def test_backwards_is_a_negative_speed_and_an_unknown_frame_an_unknown_motion() -> None:
    path = np.array([[0.0, 0, 0], [-1, 0, 0]])
    np.testing.assert_allclose(motion_along(path[1:], path[:1], 0.5), [[-2.0, 0.0]])
    assert np.isnan(motion_along(path[1:], np.full((1, 3), np.nan), 0.5)).all()


def test_segments_follow_one_another_and_a_gap_over_their_border_is_the_mean() -> None:
    segments = [MotionSegment(seconds=1, speed_mps=8), MotionSegment(seconds=1, speed_mps=4, yaw_deg_per_s=-30)]
    motion = motion_at(segments, np.arange(5) * 0.6, 0.6)
    right = -np.radians(30)
    wanted = [[8, 0], [8, 0], [4 / 0.6, right * 0.2 / 0.6], [4, right], [np.nan] * 2]
    np.testing.assert_allclose(motion, wanted, rtol=1e-5)  # 2.4 s is behind the end
    assert np.isnan(motion_at([], np.arange(3.0), 1.0)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seconds": 0.0}, "seconds=0.0; must be a number above 0"),
        ({"yaw_deg_per_s": float("nan")}, "must be numbers"),
        ({"speed_mps": 100.0}, "speed_mps=100.0, .*; no car does more than 70 m/s"),
        ({"yaw_deg_per_s": -400.0}, "no car does more than 70 m/s and 180 degrees a second"),
    ],
)
def test_what_nobody_can_drive_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MotionSegment(**{"seconds": 1.0, "speed_mps": 3.0, **wrong})
