"""Training of the video decoder on short clips: the encoder is frozen, a discriminator of clips sees what flickers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.autoencoder import decode, encode_pictures, to_picture_range
from drivesim.nn.discriminator import VideoPatchDiscriminator
from drivesim.train.optim import OptimConfig
from drivesim.train.perceptual import make_perceptual
from drivesim.train.reconstruction import ReconstructionLossConfig, adversarial_loss, reconstruction_loss
from drivesim.train.stage import Batch, Stage


@dataclass(kw_only=True, slots=True)
class VideoDecoderLossConfig(ReconstructionLossConfig):
    """Weights of the loss terms, and what moves."""

    difference_weight: float = 0.0  # of the L1 error of what changes from one frame to the next: flicker (ours)
    temporal_alone: bool = False  # trains the layers over time alone; the others stay the image decoder's
    # Of the image decoder's weights in those that a training leaves; validation and pictures are of its own weights.
    image_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        if not 0 <= self.image_share < 1:
            raise ValueError(f"video_decoder_loss.image_share={self.image_share}; it must be at least 0 and below 1")


class VideoDecoderStage(Stage):
    """Trains the decoder's copy and its layers over time; parts: autoencoder, video_decoder."""

    def __init__(self, parts: dict[str, Any], loss: VideoDecoderLossConfig, optim: OptimConfig, seed: int):
        decoder = parts["video_decoder"]
        for name, part in decoder.spatial_parts().items():
            # The codebook belongs to the encoder as much: latents have to stay what they are.
            part.requires_grad_(not loss.temporal_alone and name != "quantize")
        trained = nn.ModuleDict({"video_decoder": decoder})
        if loss.adversarial_weight:
            trained["discriminator"] = VideoPatchDiscriminator(loss.discriminator_channels, loss.discriminator_layers)
        frozen = {"autoencoder": parts["autoencoder"], "perceptual": make_perceptual(loss.perceptual)}
        super().__init__(trained, nn.ModuleDict(frozen), optim, seed)
        self.autoencoder, self.decoder = parts["autoencoder"], decoder
        self.weights = loss

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms for clips frames_BTCHW in [-1, 1]; `difference` is the error of what changes between two frames."""
        w = self.weights
        clips = batch["frames_BTCHW"]
        decoded = self.decoder(self._encoded(clips))
        loss, terms = reconstruction_loss(decoded.flatten(0, 1), clips.flatten(0, 1), self.frozen["perceptual"], w)
        difference = F.l1_loss(decoded.diff(dim=1), clips.diff(dim=1))
        loss, terms["difference"] = loss + w.difference_weight * difference, difference.detach()
        if w.adversarial_weight and self.training:
            adversarial, more = adversarial_loss(
                self.trained["discriminator"], clips, decoded, errors=loss, last_layer=self._last_layer(),
                share=w.adversarial_weight,
            )  # fmt: skip
            loss, terms = loss + adversarial, terms | more
        return {"loss": loss, **terms}

    def finish(self) -> None:
        """Takes the decoder part of the way back to the image decoder."""
        if self.weights.image_share:
            self.decoder.move_towards_image_decoder(self.autoencoder, self.weights.image_share)

    def _encoded(self, clips_BTCHW: Tensor) -> Tensor:
        return encode_pictures(self.autoencoder, clips_BTCHW.flatten(0, 1)).unflatten(0, clips_BTCHW.shape[:2])

    def _last_layer(self) -> Tensor:
        """Weight of the last layer that is trained."""
        if not self.weights.temporal_alone:
            return self.decoder.decoder.conv_out.weight  # type: ignore[no-any-return]
        return [layer for level in self.decoder.temporal for layer in level][-1].convs[-1].weight  # type: ignore[no-any-return]

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """A clip, what the image decoder makes of its latents, and what the video decoder makes of them."""
        clip = batch["frames_BTCHW"][:1]
        latents = self._encoded(clip)
        with self.ema.swapped_in():
            made = to_picture_range(self.decoder(latents)[0])
        rows = (to_picture_range(clip[0]), decode(self.autoencoder, latents[0]), made)
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
