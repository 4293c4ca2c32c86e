"""The perceptual part of the autoencoder's loss: LPIPS from a checked file, picture gradients without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from drivesim.core.weights_files import Checksum, checked_file
from drivesim.nn.perceptual import NETWORKS, PerceptualDistance

_WHERE = (
    "torchvision's ImageNet weights have the right names: vgg16-397923af.pth, squeezenet1_1-b8a52dc0.pth or "
    "squeezenet1_0-b66bff10.pth; leave perceptual.network empty to compare picture gradients instead"
)


@dataclass(kw_only=True, slots=True)
class PerceptualConfig:
    """Which network compares pictures, and where its weights are."""

    network: str | None = None  # vgg16, squeezenet1_1, squeezenet1_0; None = picture gradients, which need no file
    weights: str | None = None  # path or URL, safetensors or torchvision's .pth
    sha256: str | None = None  # of that file
    weight: float = 2.0  # of the term
    gradient_scales: int = 3  # octaves at which picture gradients are compared
    cache_folder: str = "~/.cache/drivesim"  # for downloaded weights

    def __post_init__(self) -> None:
        if self.network is None:
            return
        if self.network not in NETWORKS:
            raise ValueError(f"perceptual.network={self.network}; valid: {', '.join(NETWORKS)}, or null for gradients")
        if self.weights is None or self.sha256 is None:
            raise ValueError(
                f"perceptual.network={self.network} needs perceptual.weights and perceptual.sha256. {_WHERE}"
            )


class GradientDistance(nn.Module):
    """L1 between horizontal and vertical differences of pictures, over octaves: keeps edges, needs no network."""

    name = "picture gradients"

    def __init__(self, scales: int):
        super().__init__()
        self.scales = scales

    def forward(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """(B,) distances of pictures (B, C, H, W)."""
        total = a_BCHW.new_zeros(len(a_BCHW))
        for _ in range(self.scales):
            for dim in (-1, -2):
                total = total + (a_BCHW.diff(dim=dim) - b_BCHW.diff(dim=dim)).abs().flatten(1).mean(dim=1)
            a_BCHW, b_BCHW = F.avg_pool2d(a_BCHW, 2), F.avg_pool2d(b_BCHW, 2)
        return total / self.scales


def make_perceptual(config: PerceptualConfig) -> GradientDistance | PerceptualDistance:
    """What compares pictures; its `name` says what it is.

    Raises:
        FileNotFoundError: weights that are not there or cannot be downloaded.
        ValueError: weights with another checksum, or of another network.
    """
    if config.network is None:
        return GradientDistance(config.gradient_scales)
    assert config.weights is not None
    path = checked_file(config.weights, Checksum(sha256=config.sha256), Path(config.cache_folder), where_to_get=_WHERE)
    is_safe = path.suffix == ".safetensors"
    weights = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    return PerceptualDistance(config.network, weights)
