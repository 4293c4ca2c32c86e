"""Patch discriminators of pictures and of clips, and the hinge losses of adversarial training (as in VQGAN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from drivesim.nn.video_convolution import VideoConv


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a picture: strided convolutions, one number a patch (PatchGAN, Isola et al. 2017).

    Args:
        channels: of the first layer; each further one has twice as many.
        num_layers: strided layers; each doubles what a patch sees.
        groups: of the group norms, which unlike batch norms don't depend on the other pictures.
    """

    def __init__(self, channels: int = 32, num_layers: int = 2, groups: int = 8):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index in range(1, num_layers):
            wide = channels * 2**index
            layers += [
                nn.Conv2d(wide // 2, wide, 4, stride=2, padding=1, bias=False),
                nn.GroupNorm(groups, wide),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Conv2d(channels * 2 ** (num_layers - 1), 1, 4, padding=1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 1, h, w): above 0 = real."""
        return self.judge(self.layers(pictures_BCHW))  # type: ignore[no-any-return]


class VideoPatchDiscriminator(nn.Module):
    """As `PatchDiscriminator`, of clips: its patches are a few frames deep, so it sees what flickers (§3.2).

    Args:
        channels: of the first layer; each further one has twice as many.
        num_layers: strided layers; each doubles what a patch sees of a frame, and adds a frame on both sides.
        groups: of the group norms, which look at one frame each.
    """

    def __init__(self, channels: int = 32, num_layers: int = 2, groups: int = 8):
        super().__init__()
        widths = [channels * 2**index for index in range(num_layers)]
        self.convs = nn.ModuleList([VideoConv(3, channels, 4, stride=2)])
        self.convs.extend(VideoConv(wide // 2, wide, 4, stride=2, bias=False) for wide in widths[1:])
        self.norms = nn.ModuleList([nn.Identity()])
        self.norms.extend(nn.GroupNorm(groups, wide) for wide in widths[1:])
        self.judge = VideoConv(widths[-1], 1, 4)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) in [-1, 1] to (B, T, 1, h, w): above 0 = real."""
        x = clips_BTCHW
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            x = F.leaky_relu(norm(x.flatten(0, 1)), 0.2).unflatten(0, x.shape[:2])
        return self.judge(x)  # type: ignore[no-any-return]


def judged_by_fixed(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """What the discriminator says, with gradients for the pictures and none for its own weights."""
    weights = {name: p.detach() for name, p in discriminator.named_parameters()}
    return functional_call(discriminator, weights, (pictures,))  # type: ignore[no-any-return]


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator from its judgements of real and made pictures."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def generator_loss(made: Tensor) -> Tensor:
    """Hinge loss of what made the pictures."""
    return -made.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, most: float = 1e4) -> Tensor:
    """How much an adversarial loss counts for both to pull alike at the last layer (VQGAN, Esser et al. 2021, eq. 7).

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss.
        last_layer: weight of the last layer of the network that both losses train.
        most: upper bound.
    """
    pulls = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    return (pulls[0].norm() / (pulls[1].norm() + 1e-6)).clamp(0, most).detach()
