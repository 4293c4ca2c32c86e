"""What is asked of decoded pictures, by the autoencoder and by the video decoder: few errors, and to look real."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.nn.discriminator import adaptive_weight, discriminator_loss, generator_loss, judged_by_fixed
from drivesim.train.perceptual import PerceptualConfig


@dataclass(kw_only=True, slots=True)
class ReconstructionLossConfig:
    """Weights of the loss terms."""

    mse_weight: float = 0.0  # squared error, which weighs the colour of small bright objects more than L1 does
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)  # LPIPS, or picture gradients
    adversarial_weight: float = 0.0  # share of the discriminator's pull beside that of all errors; 0 = none is trained
    discriminator_channels: int = 32  # of the discriminator's first layer
    discriminator_layers: int = 2  # its strided layers


def reconstruction_loss(
    decoded_BCHW: Tensor, frames_BCHW: Tensor, perceptual: nn.Module, config: ReconstructionLossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted errors of decoded pictures in one sum, and each by name."""
    terms = {
        "l1": F.l1_loss(decoded_BCHW, frames_BCHW),
        "mse": F.mse_loss(decoded_BCHW, frames_BCHW),
        "perceptual": perceptual(decoded_BCHW, frames_BCHW).mean(),
    }
    loss = terms["l1"] + config.mse_weight * terms["mse"] + config.perceptual.weight * terms["perceptual"]
    return loss, terms


def adversarial_loss(
    discriminator: nn.Module, real: Tensor, made: Tensor, *, errors: Tensor, last_layer: Tensor, share: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss and its pull on what made the pictures in one sum, and each by name.

    One backward pass serves both: the discriminator sees pictures without gradients, and the decoder is judged by the
    discriminator's weights without gradients.

    Args:
        discriminator: judges pictures, or clips.
        real: what it should hold to be real.
        made: what was decoded, with gradients.
        errors: the decoder's loss without the discriminator.
        last_layer: weight of the last trained layer of the decoder, where both pulls are measured.
        share: length of the discriminator's pull beside that of the errors.
    """
    pull = generator_loss(judged_by_fixed(discriminator, made))
    weight = adaptive_weight(errors, pull, last_layer)
    judged = discriminator_loss(discriminator(real), discriminator(made.detach()))
    return share * weight * pull + judged, {"discriminator": judged, "generator": pull, "adaptive_weight": weight}
