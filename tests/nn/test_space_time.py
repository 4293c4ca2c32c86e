"""Attention over space and time: fresh, far-reaching, and as far in time as it was trained."""

from __future__ import annotations

import torch

from drivesim.nn.space_time import SpaceTimeBlock


def block(fresh: bool = False, window: int = 4) -> SpaceTimeBlock:
    torch.manual_seed(0)
    made = SpaceTimeBlock(16, 2, num_alphas=1, window=window, feed_forward_mult=2).eval()
    if not fresh:
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def test_a_fresh_block_changes_nothing_and_so_does_one_with_alpha_one() -> None:
    video = torch.randn(8, 16, 4, 6)
    assert torch.equal(block(fresh=True)(video, 4), video)
    trained = block()
    assert not torch.allclose(trained(video, 4), video, atol=1e-3)
    trained.mix.set_alpha(1.0)
    assert torch.equal(trained(video, 4), video)


@torch.no_grad()
def test_every_place_of_every_frame_sees_one_place_of_one_frame() -> None:
    video = torch.randn(4, 16, 4, 6)
    changed = video.clone()
    changed[0, :, 0, 0] = torch.randn(16)
    made, other = block()(video, 4), block()(changed, 4)
    assert (made != other).any(dim=1).all()


@torch.no_grad()
def test_in_a_longer_clip_frames_see_those_as_far_away_as_in_training() -> None:
    video = torch.randn(9, 16, 2, 3)
    changed = video.clone()
    changed[8] = torch.randn(16, 2, 3)
    made, other = block(window=3)(video, 9), block(window=3)(changed, 9)
    assert (made != other).flatten(1).any(1).tolist() == [False] * 5 + [True] * 4


@torch.no_grad()
def test_what_moves_is_found_where_it_was() -> None:
    """The same picture shifted is another place: the block knows where things are, and when."""
    picture = torch.randn(1, 16, 2, 6).expand(3, -1, -1, -1).contiguous()
    made = block()(picture, 3)
    assert not torch.allclose(made[0], made[1], atol=1e-4), "frames of one picture are told apart"
    flat = torch.ones(3, 16, 2, 6)
    assert not torch.allclose(block()(flat, 3)[0, :, 0, 0], block()(flat, 3)[0, :, 0, 5], atol=1e-4)
