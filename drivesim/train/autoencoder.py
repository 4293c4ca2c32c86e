"""Training of the image autoencoders: L1, a perceptual term, a regulariser and a patch discriminator."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder, VQModel, decode, encode, to_picture_range
from drivesim.nn.discriminator import PatchDiscriminator
from drivesim.train.optim import OptimConfig
from drivesim.train.perceptual import make_perceptual
from drivesim.train.reconstruction import ReconstructionLossConfig, adversarial_loss, reconstruction_loss
from drivesim.train.stage import Batch, Stage

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class AutoencoderLossConfig(ReconstructionLossConfig):
    """Weights of the loss terms."""

    # Keeps latents near a standard normal. Not to be compared with latent diffusion's 1e-6: both add the KL up over a
    # picture, but errors are summed there and are means here, so that it weighs 3 * height * width times as much.
    kl_weight: float = 1e-6
    commit_weight: float = 1.0  # of a VQ autoencoder's codebook and commitment losses


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
        loss, terms = reconstruction_loss(decoded, frames, self.frozen["perceptual"], w)
        loss, terms = loss + weight * regulariser, terms | {"regulariser": regulariser}
        if w.adversarial_weight and self.training:
            adversarial, more = adversarial_loss(
                self.trained["discriminator"], frames, decoded, errors=loss,
                last_layer=self.autoencoder.decoder.conv_out.weight, share=w.adversarial_weight,
            )  # fmt: skip
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

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """Frames above, their reconstructions below."""
        frames = batch["frames_BTCHW"].flatten(0, 1)[:8]
        with self.ema.swapped_in():
            decoded = decode(self.autoencoder, encode(self.autoencoder, to_picture_range(frames)))
        rows = [np.concatenate(list(row), axis=1) for row in (to_picture_range(frames), decoded)]
        return np.concatenate(rows)
