"""Perceptual distances of pictures: features of an ImageNet network, compared after unit normalisation (LPIPS).

Zhang et al. 2018, eq. 1. The networks have torchvision's parameter names, so torchvision's files load as
they are; the linear weights of LPIPS ship with torchmetrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# LPIPS' input scaling: pictures in [-1, 1] to what torchvision's networks were trained on.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Fire(nn.Module):
    """SqueezeNet's block: few channels in, two kernels side by side out."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 2 * expanded, H, W)."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def squeezenet1_0() -> nn.Sequential:
    """The convolutional part of SqueezeNet 1.0."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(), _pool(),
        Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), _pool(),
        Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), _pool(),
        Fire(512, 64, 256),
    )  # fmt: skip


def squeezenet1_1() -> nn.Sequential:
    """The convolutional part of SqueezeNet 1.1."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), _pool(),
        Fire(64, 16, 64), Fire(128, 16, 64), _pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), _pool(),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """The convolutional part of VGG-16."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


# name -> (network, layers whose outputs are compared, torchmetrics' file of linear weights or None)
NETWORKS = {
    "vgg16": (vgg16, (3, 8, 15, 22, 29), "vgg.pth"),
    "squeezenet1_1": (squeezenet1_1, (1, 4, 7, 9, 10, 11, 12), "squeeze.pth"),
    "squeezenet1_0": (squeezenet1_0, (1, 4, 7, 8, 9, 10, 12), None),
}


class PerceptualDistance(nn.Module):
    """LPIPS where there are linear weights for the network, the plain mean over channels where there are none.

    Args:
        network: one of NETWORKS.
        weights: tensors of the ImageNet network by torchvision's names; a classifier among them is left out.

    Raises:
        ValueError: an unknown network, or weights of another one.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str, weights: Mapping[str, Tensor]):
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"perceptual network {network!r}; valid: {', '.join(NETWORKS)}")
        make, self.taps, lpips_file = NETWORKS[network]
        self.features = make()
        wanted = {f"features.{name}": tuple(t.shape) for name, t in self.features.state_dict().items()}
        for name, shape in wanted.items():
            if name not in weights or tuple(weights[name].shape) != shape:
                found = f"of shape {tuple(weights[name].shape)}" if name in weights else "missing"
                raise ValueError(f"weights of {network}: {name} is {found}, expected {shape}")
        self.features.load_state_dict(
            {name: weights[f"features.{name}"].float() for name in self.features.state_dict()}
        )
        self.name = f"LPIPS ({network})" if lpips_file else f"perceptual distance ({network}, channels unweighted)"
        self.linear = _linear_weights(lpips_file) if lpips_file else None
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """(B,) distances of pictures (B, 3, H, W) in [-1, 1], at least 32 pixels a side."""
        total = a_BCHW.new_zeros(len(a_BCHW))
        for index, (a, b) in enumerate(zip(self._taps(a_BCHW), self._taps(b_BCHW), strict=True)):
            difference = (_unit(a) - _unit(b)).square()
            if self.linear is None:
                total = total + difference.sum(dim=1).mean(dim=(1, 2))
            else:
                total = total + (difference * self.linear[index]).sum(dim=1).mean(dim=(1, 2))
        return total

    def _taps(self, pictures: Tensor) -> Iterator[Tensor]:
        x = (pictures - self.shift) / self.scale
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                yield x


def _unit(x_BCHW: Tensor) -> Tensor:
    # Inside the root: at a position without any feature the root's own gradient would be infinite.
    return x_BCHW / (x_BCHW.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


def _linear_weights(file: str) -> nn.ParameterList:
    path = files("torchmetrics") / "functional" / "image" / "lpips_models" / file
    stored = torch.load(str(path), map_location="cpu", weights_only=True)
    return nn.ParameterList([stored[f"lin{index}.model.1.weight"] for index in range(len(stored))])
