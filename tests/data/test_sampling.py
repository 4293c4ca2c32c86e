"""Frames by time, starts of clips, splits by hash."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.data.sampling import choose_frames, frame_times, hash_split, nearest_frames


def test_nearest_frame_of_uneven_times_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    timestamps_s = np.cumsum(rng.uniform(0.01, 0.2, 50))
    wanted_s = rng.uniform(-0.5, timestamps_s[-1] + 0.5, 200)
    index, distance_s = nearest_frames(timestamps_s, wanted_s)
    brute = np.abs(timestamps_s[None] - wanted_s[:, None])
    np.testing.assert_array_equal(index, brute.argmin(axis=1))
    np.testing.assert_allclose(distance_s, brute.min(axis=1))


def test_a_fifth_of_the_native_rate_takes_every_fifth_frame() -> None:
    index = choose_frames("d", np.arange(100) / 20, start_s=1.0, num_frames=8, fps=4)
    np.testing.assert_array_equal(index, 20 + 5 * np.arange(8))


def test_a_rate_above_the_native_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"30 fps wanted, recorded at 20"):
        choose_frames("d", np.arange(100) / 20, start_s=0, num_frames=8, fps=30)


def test_a_clip_over_the_end_or_over_a_gap_is_refused() -> None:
    times_s = np.concatenate([np.arange(20), np.arange(40, 60)]) / 20
    with pytest.raises(ValueError, match=r"no frame at 1\.250 s"):
        choose_frames("d", times_s, start_s=0, num_frames=6, fps=4)
    with pytest.raises(ValueError, match=r"the drive lasts 2\.950 s"):
        choose_frames("d", times_s, start_s=2.5, num_frames=6, fps=4)
    times, is_there = frame_times(times_s, 4)
    np.testing.assert_array_equal(times[~is_there], [1.25, 1.5, 1.75])


def test_one_skipped_frame_of_a_12_hz_camera_is_no_gap() -> None:
    times_s = np.delete(np.arange(60) / 12, 20)
    choose_frames("d", times_s, start_s=0, num_frames=10, fps=4)


def test_lost_frames_are_not_made_up_for_at_the_rate_of_the_recording() -> None:
    times_s = np.delete(np.arange(120) / 30, range(50, 55))
    with pytest.raises(ValueError, match=r"no frame at 1\.667 s"):
        choose_frames("d", times_s, start_s=1.5, num_frames=12, fps=30)
    times, is_there = frame_times(times_s, 30)
    np.testing.assert_allclose(times[~is_there], np.arange(50, 55) / 30)
    choose_frames("d", times_s, start_s=0.0, num_frames=12, fps=4)  # where none of them is far off


def test_hash_split_holds_when_names_come_and_go() -> None:
    names = [f"scene-{k:04}" for k in range(400)]
    split = hash_split(names, 0.1)
    assert 20 < list(split.values()).count("val") < 60
    fewer = hash_split(names[::2], 0.1)
    assert all(split[name] == fewer[name] for name in fewer)


def test_two_drives_are_one_in_each_split_and_a_single_one_is_for_training() -> None:
    for val_share in (0.01, 0.99):
        assert sorted(hash_split(["a", "b"], val_share).values()) == ["train", "val"]
    assert hash_split(["a"], 0.99) == {"a": "train"}
