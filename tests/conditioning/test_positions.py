"""Latents that know their place."""

import torch

from drivesim.conditioning.driving import DrivingConditioner
from drivesim.conditioning.positions import num_position_channels, with_positions


def test_latents_stay_in_front_and_places_follow() -> None:
    x = torch.randn(2, 5, 3, 4, 8)
    placed = with_positions(x, 2)
    assert placed.shape == (2, 5, 3 + num_position_channels(2), 4, 8)
    assert torch.equal(placed[:, :, :3], x)
    # sin of half a wave from top to bottom, at the middle of a row of cells
    row = torch.sin(torch.pi * torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(placed[1, 3, 3, :, 5], row)


def test_every_place_differs_from_every_other() -> None:
    channels = with_positions(torch.zeros(1, 0, 8, 16), 4)[0].flatten(1).T
    distances = torch.cdist(channels, channels) + torch.eye(128) * 9
    assert distances.min() > 0.1


def test_the_same_place_has_the_same_channels_at_another_resolution() -> None:
    coarse, fine = (with_positions(torch.zeros(1, 0, h, 2 * h), 3)[0] for h in (4, 12))
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse)


def test_a_conditioner_without_positions_leaves_latents_alone() -> None:
    x = torch.randn(1, 4, 2, 2)
    assert DrivingConditioner(dim=8).placed(x) is x
    assert DrivingConditioner(dim=8, position_frequencies=3).num_channels == 12
