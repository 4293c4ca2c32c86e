"""Training of the text family's interpolation: a U-Net of its own that sees given frames in its input, all weights.

Axes: B samples, T frames, C H W latents, L tokens, D channels of a token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.conditioning.given_frames import context_of, ends_given, noised
from drivesim.data.captions import texts_of
from drivesim.models.autoencoder import decode
from drivesim.models.video_unet import VideoUNet
from drivesim.train.latent_ldm import losses
from drivesim.train.stage import Batch
from drivesim.train.text_ldm import TextStage


class TextInterpolationStage(TextStage):
    """Fills in frames between two given ones, at several rates (Table 8).

    The U-Net's input is the noisy latents, the given ones with zeros between them, and the mask. The given frames are
    noised to a level that is told (conditioning augmentation); rollouts give clean ones, level 0.

    Parts: autoencoder, tokenizer, text_encoder, scheduler, interpolation_unet, interpolation, rate_label.
    """

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], **settings: Any):
        super().__init__({name: part for name, part in parts.items() if name != "backbone"}, trains, **settings)
        self.video_unet = VideoUNet(parts["interpolation_unet"], parts["interpolation"])
        self.rate_label = parts["rate_label"]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for clips latents_BTCHW whose first and last frame are given."""
        x = batch["latents_BTCHW"]
        tokens = self.tokens(self.captions(batch, generator))
        most = self.video_unet.temporal.config.context_noise
        level = torch.randint(0, most + 1, (len(x),), generator=generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        shown = noised(x, level, noise, self.schedule)
        noisy, steps, target = self.denoised(x, generator)
        return losses(self.predict(noisy, steps, tokens, shown, batch["rate_B"], level), target, batch, 0.0)

    def predict(
        self, noisy_BTCHW: Tensor, steps_B: Tensor, tokens_BLD: Tensor, shown_BTCHW: Tensor, rate_B: Tensor,
        level_B: Tensor, *, network: VideoUNet | None = None, label: nn.Module | None = None,
    ) -> Tensor:  # fmt: skip
        """The prediction of a network and its rate label, None = the trained ones; of `shown_BTCHW` the ends count."""
        network, label = network or self.video_unet, label or self.rate_label
        b, t = noisy_BTCHW.shape[:2]
        masked = context_of(shown_BTCHW, ends_given(t, noisy_BTCHW.device).expand(b, -1))
        made: Tensor = network(
            torch.cat([noisy_BTCHW, masked], dim=2),
            steps_B,
            tokens_BLD,
            temporal_tokens_BLC=torch.cat([tokens_BLD, label(rate_B)], dim=1),
            noise_level_B=level_B,
        )
        return made

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For three clips: the real one above, the one filled in between its ends below."""
        x, rate = batch["latents_BTCHW"][:3], batch["rate_B"][:3]
        level = torch.zeros_like(rate)
        with self.ema.swapped_in():
            tokens, none = self.tokens(texts_of(batch["caption_BL"][:3])), self.tokens([""] * len(x))
            made = self.sampled(
                lambda z, step: self.predict(z, step, tokens, x, rate, level),
                lambda z, step: self.predict(z, step, none, x, rate, level),
                tuple(x.shape[1:]),
                len(x),
            )
        made = torch.cat([x[:, :1], made[:, 1:-1], x[:, -1:]], dim=1)
        rows = [clip for pair in zip(x, made, strict=True) for clip in pair]
        return np.concatenate([np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in rows])
