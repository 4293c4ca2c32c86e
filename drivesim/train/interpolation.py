"""Training of the interpolation model: temporal layers that fill in frames between two given ones, at several rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.conditioning.given_frames import context_of, ends_given
from drivesim.diffusion.objective import add_noise, draw_timesteps
from drivesim.diffusion.settings import SamplingConfig
from drivesim.families.generate import interpolate_frames
from drivesim.models.autoencoder import decode
from drivesim.models.video_unet import VideoUNet
from drivesim.train.latent_ldm import known_on_the_way, losses
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage


@dataclass(kw_only=True, slots=True)
class InterpolationLossConfig:
    """Interpolation conditioning."""

    drop_context: float = 0.1  # share of clips without given frames: the unconditional branch of context guidance
    drop_labels: float = 0.3  # share of clips in which day or night is unknown, as it is for a photo
    box_weight: float = 0.0  # how much more an error inside a box counts; 0 = as outside


class InterpolationStage(Stage):
    """Trains temporal layers and the rate's token in the frozen image model.

    Args:
        parts: autoencoder, backbone, conditioner, scheduler, interpolation, rate_label.
        loss: what is left out how often.
        sampling: of the sample pictures.
        optim: optimizer and averaging.
        seed: key of all noise.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        loss: InterpolationLossConfig,
        sampling: SamplingConfig,
        optim: OptimConfig,
        seed: int,
    ):
        frozen = nn.ModuleDict({name: parts[name] for name in ("autoencoder", "backbone", "conditioner")})
        trained = nn.ModuleDict({name: parts[name] for name in ("interpolation", "rate_label")})
        super().__init__(trained, frozen, optim, seed)
        self.video_unet = VideoUNet(parts["backbone"], parts["interpolation"])
        self.autoencoder, self.conditioner = parts["autoencoder"], parts["conditioner"]
        self.rate_label, self.schedule = parts["rate_label"], parts["scheduler"]
        self.drop, self.sampling = loss, sampling

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for clips latents_BTCHW whose first and last frame are given."""
        x = batch["latents_BTCHW"]
        b, t = x.shape[:2]
        shares = torch.tensor([[self.drop.drop_context], [self.drop.drop_labels]])
        without_context, without_night = (torch.rand(2, b, generator=generator) < shares).to(x.device)
        steps = draw_timesteps(b, self.schedule, generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy, target = add_noise(x, noise, steps, self.schedule)
        tokens, mask = self.conditioner(known_on_the_way(batch, without_night))
        given = ends_given(t, x.device) & ~without_context[:, None]
        prediction = self.video_unet(
            self.conditioner.placed(noisy),
            steps,
            tokens,
            token_mask_BL=mask,
            context_BTCHW=context_of(x, given, hold=self.video_unet.temporal.config.hold_context),
            temporal_tokens_BLC=self.rate_label(batch["rate_B"]),
        )
        return losses(prediction, target, batch, self.drop.box_weight)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For three clips: the real one above, the one filled in between its ends below."""
        first = {name: value[:3] for name, value in batch.items()}
        x = first["latents_BTCHW"]
        known = known_on_the_way(first, torch.zeros(len(x), dtype=torch.bool, device=x.device))
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(len(x))]
        with self.ema.swapped_in():
            made = interpolate_frames(
                self.video_unet, self.conditioner, self.rate_label, self.schedule, x[:, [0, -1]], first["rate_B"],
                known, self.sampling, generators,
            )  # fmt: skip
        rows = [clip for pair in zip(x, made, strict=True) for clip in pair]
        return np.concatenate([np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in rows])
