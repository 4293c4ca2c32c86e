"""Training of the KL image autoencoder: L1, picture gradients, a small KL term and a patch discriminator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.autoencoder import AutoencoderKL, to_picture_range
from drivesim.nn.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    judged_by_fixed,
)
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage


@dataclass(kw_only=True, slots=True)
class AutoencoderLossConfig:
    """Weights of the loss terms."""

    kl_weight: float = 1e-6  # keeps latents near a standard normal (latent diffusion's value)
    mse_weight: float = 0.0  # squared error, which weighs the colour of small bright objects more than L1 does
    gradient_weight: float = 2.0  # L1 of picture gradients, which keeps edges: the stand-in for a perceptual loss
    gradient_scales: int = 3  # octaves at which gradients are compared
    adversarial_weight: float = 0.0  # share of the discriminator's pull beside that of all errors; 0 = none is trained
    discriminator_channels: int = 32  # of the discriminator's first layer
    discriminator_layers: int = 2  # its strided layers


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
        trained = nn.ModuleDict({"autoencoder": autoencoder})
        if loss.adversarial_weight:
            trained["discriminator"] = PatchDiscriminator(loss.discriminator_channels, loss.discriminator_layers)
        super().__init__(trained, nn.ModuleDict(), optim, seed)
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
        terms = {"l1": l1, "mse": mse, "edges": edges, "kl": kl}
        if w.adversarial_weight and self.training:
            adversarial, more = self._adversarial(frames, decoded, loss)
            loss, terms = loss + adversarial, terms | more
        return {"loss": loss, **terms}

    def _adversarial(
        self, frames_BCHW: Tensor, decoded_BCHW: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss and its pull on the decoder in one sum.

        One backward pass serves both: the discriminator sees pictures without gradients, and the decoder is judged
        by the discriminator's weights without gradients.
        """
        discriminator = self.trained["discriminator"]
        pull = generator_loss(judged_by_fixed(discriminator, decoded_BCHW))
        weight = adaptive_weight(reconstruction, pull, self.autoencoder.decoder.conv_out.weight)
        judged = discriminator_loss(discriminator(frames_BCHW), discriminator(decoded_BCHW.detach()))
        total = self.weights.adversarial_weight * weight * pull + judged
        return total, {"discriminator": judged, "generator": pull, "adaptive_weight": weight}

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """Frames above, their reconstructions below."""
        frames = batch["frames_BTCHW"].flatten(0, 1)[:8]
        with self.ema.swapped_in():
            decoded = self.autoencoder.decode(self.autoencoder.encode(frames).latent_dist.mode()).sample
        rows = [np.concatenate(list(to_picture_range(row)), axis=1) for row in (frames, decoded)]
        return np.concatenate(rows)
