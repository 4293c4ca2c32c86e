"""Training of a latent x4 upscaler, on pieces of large frames: a small one from nothing, and temporal layers in any.

Axes: B samples, T frames, C channels, H W pixels of large frames, h w latents of them, which are small frames' pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.picture import resize_area
from drivesim.data.captions import texts_of
from drivesim.diffusion.objective import add_noise, diffusion_loss
from drivesim.models.autoencoder import (
    decode_pictures,
    downsampling,
    encode_pictures,
    to_model_range,
    to_picture_range,
)
from drivesim.models.upsampler import enlarged
from drivesim.models.video_unet import VideoUNet
from drivesim.train.stage import Batch
from drivesim.train.text_ldm import TextStage


class TextImageUpscalerStage(TextStage):
    """Trains an x4 upscaler of single frames: of large ones' latents, beside the small frame and its noise level.

    Parts: autoencoder, tokenizer, text_encoder, scheduler, low_res_scheduler and backbone of the upscaler's
    checkpoint.

    Args:
        parts: these.
        trains: names of the parts whose weights move.
        max_noise_level: small frames are noised to a step drawn from 0 to this, and the network is told.
        settings: of `TextStage`.
    """

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], *, max_noise_level: int, **settings: Any):
        super().__init__(parts, trains, **settings)
        self.backbone = parts["backbone"]
        self.low_schedule = parts["low_res_scheduler"]
        self.max_noise_level = max_noise_level
        self.scale = downsampling(parts["autoencoder"])

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for frames_BTCHW in [-1, 1]."""
        frames = batch["frames_BTCHW"]
        b, t = frames.shape[:2]
        x = encode_pictures(self.autoencoder, frames.flatten(0, 1)).unflatten(0, (b, t))
        tokens = self.tokens(self.captions(batch, generator))
        noised, level = self.noised_small(frames, generator)
        noisy, steps, target = self.denoised(x, generator)
        return {"loss": diffusion_loss(self.predict(noisy, steps, tokens, noised, level), target)}

    def noised_small(self, frames_BTCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Small frames with noise of a level drawn for each clip, and the levels."""
        b = len(frames_BTCHW)
        low = self.small(frames_BTCHW.flatten(0, 1)).unflatten(0, (b, -1))
        level = torch.randint(0, self.max_noise_level + 1, (b,), generator=generator).to(low.device)
        noise = torch.randn(low.shape, generator=generator).to(low)
        noised, _ = add_noise(low, noise, level, self.low_schedule)
        return noised, level

    def predict(
        self, noisy_BTChw: Tensor, steps_B: Tensor, tokens_BLD: Tensor, noised_low_BTChw: Tensor, level_B: Tensor
    ) -> Tensor:
        """The prediction for clips of one frame."""
        x = torch.cat([noisy_BTChw, noised_low_BTChw], dim=2)[:, 0]
        made: Tensor = self.backbone(x, steps_B, tokens_BLD, class_labels=level_B).sample
        return made[:, None]

    def small(self, frames_NCHW: Tensor) -> Tensor:
        """Small frames (N, 3, h, w) in [-1, 1], as a real downscale makes them."""
        if frames_NCHW.is_meta:
            return frames_NCHW[..., :: self.scale, :: self.scale]
        height, width = (side // self.scale for side in frames_NCHW.shape[-2:])
        return to_model_range(resize_area(to_picture_range(frames_NCHW), (height, width))).to(frames_NCHW)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For a clip: small frames enlarged above, what is made of them in the middle, the real ones below."""
        frames = batch["frames_BTCHW"][:1]
        low = self.small(frames[0])[None]
        level = torch.zeros(1, dtype=torch.int64, device=self.device)
        shape = (frames.shape[1], self.autoencoder.config.latent_channels, *low.shape[-2:])
        with self.ema.swapped_in():
            tokens, none = self.tokens(texts_of(batch["caption_BL"][:1])), self.tokens([""])
            made = self.sampled(
                lambda z, step: self.predict(z, step, tokens, low, level),
                lambda z, step: self.predict(z, step, none, low, level),
                shape,
                1,
            )
        rows = [enlarged(low[0], self.scale), decode_pictures(self.autoencoder, made[0]), frames[0]]
        return np.concatenate([np.concatenate(list(to_picture_range(row)), axis=1) for row in rows])


class TextUpscalerStage(TextImageUpscalerStage):
    """Trains temporal layers that see the small frames, in a frozen x4 upscaler (Table 8).

    Parts: those of `TextImageUpscalerStage`, and upscaler_temporal.
    """

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], **settings: Any):
        super().__init__(parts, trains, **settings)
        self.video_unet = VideoUNet(parts["backbone"], parts["upscaler_temporal"])

    def predict(
        self, noisy_BTChw: Tensor, steps_B: Tensor, tokens_BLD: Tensor, noised_low_BTChw: Tensor, level_B: Tensor,
        *, network: VideoUNet | None = None,
    ) -> Tensor:  # fmt: skip
        """The prediction of a network, None = the trained one; small frames are its input and its layers' context."""
        network = network or self.video_unet
        made: Tensor = network(
            torch.cat([noisy_BTChw, noised_low_BTChw], dim=2),
            steps_B,
            tokens_BLD,
            context_BTCHW=noised_low_BTChw,
            temporal_tokens_BLC=tokens_BLD,
            noise_level_B=level_B,
        )
        return made
