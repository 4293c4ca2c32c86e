"""A given picture moved along with the ego car, against what toytown's camera really sees there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drivesim.conditioning.given_frames import context_of, first_frames_given
from drivesim.conditioning.moved_frames import moved_along, poses
from drivesim.core.camera import Camera
from drivesim.core.motion import motion_along
from drivesim.toytown import TownConfig, render, simulate

FOV_DEG, FPS, SIZE_HW = 64.0, 10 / 3, (64, 128)
TOWN = TownConfig(fps=FPS, key_fps=FPS, size_hw=SIZE_HW, night_share=0.0)
NUM_FRAMES = 4


def sharpest_turn(scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) and motion (T, 2) of a held-out drive where it turns most."""
    episode = simulate(TOWN, scene)
    first = int(np.abs(np.diff(np.unwrap(episode.ego_path[:, 2]))).argmax()) - 1
    frames = range(first, first + NUM_FRAMES)
    motion_T2 = np.full((NUM_FRAMES, 2), np.nan, dtype=np.float32)
    path = episode.ego_path[first : first + NUM_FRAMES]
    motion_T2[1:] = motion_along(path[1:], path[:-1], 1 / FPS)
    return np.stack([render(episode, frame, Camera.front(SIZE_HW)) for frame in frames]), motion_T2


def held(frames_THWC: np.ndarray, num_given: int) -> tuple[torch.Tensor, torch.Tensor]:
    video_BTCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)[None].float()
    given_BT = first_frames_given(torch.tensor([num_given]), len(frames_THWC))
    return context_of(video_BTCHW, given_BT, hold=True), given_BT


@pytest.mark.parametrize("scene", [9001, 9002])
def test_in_a_turn_the_moved_picture_is_nearer_to_what_is_seen_than_the_held_one(scene: int) -> None:
    frames_THWC, motion_T2 = sharpest_turn(scene)
    assert np.abs(np.degrees(motion_T2[1:, 1]) / FPS).max() > 5
    context, given_BT = held(frames_THWC, 1)
    moved = moved_along(context, given_BT, torch.from_numpy(motion_T2)[None], 1 / FPS, FOV_DEG)
    assert torch.equal(moved[:, 0], context[:, 0]) and torch.equal(moved[:, :, -1], context[:, :, -1])
    true_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float()
    for frame in (1, 2):
        is_seen_HW = moved[0, frame, :-1].sum(0) > 0
        assert is_seen_HW.float().mean() > 0.5
        errors = [(c[0, frame, :-1] - true_TCHW[frame]).abs()[:, is_seen_HW].mean() for c in (moved, context)]
        assert errors[0] < 0.65 * errors[1]
        mirrored = moved_along(context, given_BT, torch.from_numpy(motion_T2)[None] * torch.tensor([1, -1]), 0.3, 64.0)
        assert (mirrored[0, frame, :-1] - true_TCHW[frame]).abs()[:, is_seen_HW].mean() > 1.5 * errors[0]


def test_what_is_not_known_to_move_stays_bit_for_bit() -> None:
    context, given_BT = held(np.random.default_rng(0).integers(0, 255, (6, 8, 16, 3), dtype=np.uint8), 2)
    unknown = torch.full((1, 6, 2), torch.nan)
    assert torch.equal(moved_along(context, given_BT, unknown, 0.3, FOV_DEG), context)
    standing = torch.zeros(1, 6, 2)
    assert torch.equal(moved_along(context, given_BT, standing, 0.3, FOV_DEG), context)
    before = unknown.clone()
    before[:, :2] = torch.tensor([9.0, 0.5])  # of the given frames alone
    assert torch.equal(moved_along(context, given_BT, before, 0.3, FOV_DEG), context)
    until = unknown.clone()
    until[:, 2:4] = torch.tensor([9.0, 0.5])  # then nobody knows: the view stays where it was
    moved = moved_along(context, given_BT, until, 0.3, FOV_DEG)
    assert not torch.equal(moved[:, 3], moved[:, 2])
    assert torch.equal(moved[:, 4], moved[:, 3]) and torch.equal(moved[:, 5], moved[:, 3])


def test_a_place_is_as_exact_in_16_bits() -> None:
    context, given_BT = held(np.random.default_rng(0).integers(0, 255, (4, 16, 256, 3), dtype=np.uint8), 1)
    motion_BT2 = torch.tensor([6.0, 0.3]).expand(1, 4, 2)
    short = moved_along(context.bfloat16(), given_BT, motion_BT2, 0.3, FOV_DEG)
    assert short.dtype is torch.bfloat16
    torch.testing.assert_close(
        short.float(), moved_along(context, given_BT, motion_BT2, 0.3, FOV_DEG), atol=1, rtol=0.01
    )


def test_no_frame_given_leaves_nothing_to_move() -> None:
    context, given_BT = held(np.full((4, 8, 16, 3), 9, dtype=np.uint8), 0)
    assert not moved_along(context, given_BT, torch.ones(1, 4, 2), 0.3, FOV_DEG).any()


def test_a_circle_ends_where_it_began() -> None:
    rate = 2 * np.pi / (40 * 0.25)
    motion_BT2 = torch.tensor([4.0, rate]).expand(1, 41, 2)
    way = poses(motion_BT2, 0.25)[0]
    torch.testing.assert_close(way[40, :2], way[0, :2], atol=1e-5, rtol=0)
    assert way[20, 1] == pytest.approx(2 * 4.0 / rate, rel=0.01)  # half way round, to the left
