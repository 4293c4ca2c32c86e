"""Training of the KL image autoencoder: L1, picture gradients and a small KL term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.autoencoder import AutoencoderKL, to_picture_range
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage


@dataclass(kw_only=True, slots=True)
class AutoencoderLossConfig:
    """Weights of the loss terms."""

    kl_weight: float = 1e-6  # keeps latents near a standard normal (latent diffusion's value)
    mse_weight: float = 0.0  # squared error, which weighs the colour of small bright objects more than L1 does
    gradient_weight: float = 2.0  # L1 of picture gradients, which keeps edges: the stand-in for a perceptual loss
    gradient_scales: int = 3  # octaves at which gradients are compared


def gradient_loss(prediction_BCHW: Tensor, target_BCHW: Tensor, scales: int) -> Tensor:
    """Mean L1 between horizontal and vertical differences, over octaves of the picture."""
    total = prediction_BCHW.new_zeros(())
    for _ in range(scales):
        for dim in (-1, -2):
            total = total + F.l1_loss(prediction_BCHW.diff(dim=dim), target_BCHW.diff(dim=dim))
        prediction_BCHW, target_BCHW = F.avg_pool2d(prediction_BCHW, 2), F.avg_pool2d(target_BCHW, 2)
    return total / scales


class AutoencoderStage(Stage):
    """Trains encoder and decoder on single frames."""

    def __init__(self, autoencoder: AutoencoderKL, loss: AutoencoderLossConfig, optim: OptimConfig, seed: int):
        super().__init__(nn.ModuleDict({"autoencoder": autoencoder}), nn.ModuleDict(), optim, seed)
        self.autoencoder = autoencoder
        self.weights = loss

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms for frames_BTCHW in [-1, 1]."""
        frames = batch["frames_BTCHW"].flatten(0, 1)
        posterior = self.autoencoder.encode(frames).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(frames)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        l1 = F.l1_loss(decoded, frames)
        edges = gradient_loss(decoded, frames, self.weights.gradient_scales)
        mse = F.mse_loss(decoded, frames)
        kl = posterior.kl().mean()
        w = self.weights
        loss = l1 + w.mse_weight * mse + w.gradient_weight * edges + w.kl_weight * kl
        return {"loss": loss, "l1": l1, "mse": mse, "edges": edges, "kl": kl}

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """Frames above, their reconstructions below."""
        frames = batch["frames_BTCHW"].flatten(0, 1)[:8]
        with self.ema.swapped_in():
            decoded = self.autoencoder.decode(self.autoencoder.encode(frames).latent_dist.mode()).sample
        rows = [np.concatenate(list(to_picture_range(row)), axis=1) for row in (frames, decoded)]
        return np.concatenate(rows)
