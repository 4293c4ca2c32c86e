"""The patch discriminator and its losses."""

import pytest
import torch
from torch import nn

from drivesim.nn.discriminator import (
    PatchDiscriminator,
    VideoPatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    judged_by_fixed,
)


def test_each_judgement_sees_one_patch() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(channels=8, num_layers=2)
    pictures = torch.randn(2, 3, 32, 64, requires_grad=True)
    judged = net(pictures)
    assert judged.shape == (2, 1, 7, 15)
    # Group norms look at the whole picture; without them what one number sees is a patch of 22 pixels.
    for index, layer in enumerate(net.layers):
        if isinstance(layer, nn.GroupNorm):
            net.layers[index] = nn.Identity()
    (seen,) = torch.autograd.grad(net(pictures)[0, 0, 3, 7], pictures)
    rows, columns = seen[0].abs().sum(0).nonzero().unbind(1)
    assert int(rows.max() - rows.min()) + 1 == 22
    assert int(columns.max() - columns.min()) + 1 == 22
    assert (seen[1] == 0).all()


def test_hinge_losses_are_zero_beyond_the_margin_alone() -> None:
    assert discriminator_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -3.0])) == 0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])).item() == pytest.approx(0.5 * (1 + 1.5))
    assert generator_loss(torch.tensor([1.0, 3.0])).item() == -2.0


def test_judging_for_the_generator_leaves_the_discriminator_alone() -> None:
    net = PatchDiscriminator(channels=8)
    pictures = torch.randn(1, 3, 16, 16, requires_grad=True)
    judged = judged_by_fixed(net, pictures)
    torch.testing.assert_close(judged, net(pictures))
    judged.sum().backward()
    assert pictures.grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_the_adaptive_weight_makes_both_losses_pull_alike() -> None:
    last = nn.Parameter(torch.tensor([2.0, -1.0]))
    reconstruction, adversarial = (3 * last).sum(), 0.5 * (last * torch.tensor([1.0, 1.0])).sum()
    assert adaptive_weight(reconstruction, adversarial, last).item() == pytest.approx(6.0, rel=1e-4)
    assert adaptive_weight(reconstruction, adversarial, last, most=2.0).item() == 2.0


def test_each_judgement_of_a_clip_sees_a_patch_of_a_few_frames() -> None:
    torch.manual_seed(0)
    net = VideoPatchDiscriminator(channels=8, num_layers=2)
    clips = torch.randn(2, 9, 3, 32, 64, requires_grad=True)
    assert net(clips).shape == (2, 9, 1, 7, 15)
    net.norms = nn.ModuleList(nn.Identity() for _ in net.norms)  # which look at the whole frame
    (seen,) = torch.autograd.grad(net(clips)[0, 4, 0, 3, 7], clips)
    frames, rows, columns = seen[0].abs().sum(1).nonzero().unbind(1)
    assert sorted(set(frames.tolist())) == list(range(1, 8))
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == 22
    assert (seen[1] == 0).all()
