"""Training of the image autoencoders: L1, a perceptual term, a regulariser and a patch discriminator."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder, VQModel, decode, encode, to_picture_range
from drivesim.nn.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    judged_by_fixed,
)
from drivesim.train.optim import OptimConfig
from drivesim.train.perceptual import PerceptualConfig, make_perceptual
from drivesim.train.stage import Batch, Stage

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class AutoencoderLossConfig:
    """Weights of the loss terms."""

    kl_weight: float = 1e-6  # keeps latents near a standard normal (latent diffusion's value)
    commit_weight: float = 1.0  # of a VQ autoencoder's codebook and commitment losses
    mse_weight: float = 0.0  # squared error, which weighs the colour of small bright objects more than L1 does
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)  # LPIPS, or picture gradients
    adversarial_weight: float = 0.0  # share of the discriminator's pull beside that of all errors; 0 = none is trained
    discriminator_channels: int = 32  # of the discriminator's first layer
    discriminator_layers: int = 2  # its strided layers


class AutoencoderStage(Stage):
    """Trains encoder and decoder on single frames."""

    def __init__(self, autoencoder: Autoencoder, loss: AutoencoderLossConfig, optim: OptimConfig, seed: int):
        trained = nn.ModuleDict({"autoencoder": autoencoder})
        if loss.adversarial_weight:
            trained["discriminator"] = PatchDiscriminator(loss.discriminator_channels, loss.discriminator_layers)
        perceptual = make_perceptual(loss.perceptual)
        _log.info("perceptual term: %s", perceptual.name)
        super().__init__(trained, nn.ModuleDict({"perceptual": perceptual}), optim, seed)
        self.autoencoder = autoencoder
        self.weights = loss

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms for frames_BTCHW in [-1, 1]."""
        w = self.weights
        frames = batch["frames_BTCHW"].flatten(0, 1)
        decoded, regulariser, weight = self._reconstructed(frames, generator)
        terms = {
            "l1": F.l1_loss(decoded, frames),
            "mse": F.mse_loss(decoded, frames),
            "perceptual": self.frozen["perceptual"](decoded, frames).mean(),
            "regulariser": regulariser,
        }
        loss = terms["l1"] + w.mse_weight * terms["mse"] + w.perceptual.weight * terms["perceptual"]
        loss = loss + weight * regulariser
        if w.adversarial_weight and self.training:
            adversarial, more = self._adversarial(frames, decoded, loss)
            loss, terms = loss + adversarial, terms | more
        return {"loss": loss, **terms}

    def _reconstructed(self, frames_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
        """Decoded frames, and what keeps latents in bounds with its weight: KL, or codebook and commitment losses."""
        if isinstance(self.autoencoder, VQModel):
            made = self.autoencoder.decode(self.autoencoder.encode(frames_BCHW).latents)
            return made.sample, made.commit_loss, self.weights.commit_weight
        posterior = self.autoencoder.encode(frames_BCHW).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(frames_BCHW)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        return decoded, posterior.kl().mean(), self.weights.kl_weight

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
            decoded = decode(self.autoencoder, encode(self.autoencoder, to_picture_range(frames)))
        rows = [np.concatenate(list(row), axis=1) for row in (to_picture_range(frames), decoded)]
        return np.concatenate(rows)
