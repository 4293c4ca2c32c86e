"""Training of the upsampler: its U-Net on single pictures, then temporal layers in the frozen U-Net on clips.

Axes: B samples, T frames, C channels, H W pixels of the large picture, h w pixels of the small one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.core.picture import resize_area
from drivesim.diffusion.objective import add_noise, diffusion_loss, draw_timesteps
from drivesim.diffusion.settings import SamplingConfig
from drivesim.families.upsample import UpsamplingModel, upsample_portion
from drivesim.models.autoencoder import decode, encode, to_model_range, to_picture_range
from drivesim.models.upsampler import Upsampler, UpsamplerConfig, enlarged
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage


@dataclass(kw_only=True, slots=True)
class UpsamplerLossConfig:
    """Small pictures of training, made of the large ones on the fly."""

    max_noise_level: int = 250  # small pictures are noised to a diffusion step drawn from 0 to this
    through_autoencoder: bool = False  # small pictures are what the autoencoder makes of them, as in a rollout


def check_crop(crop_hw: list[int], config: UpsamplerConfig, low_hw: list[int], align_px: int) -> None:
    """Raises ValueError for pieces of large pictures that are no whole number of small pixels or U-Net halvings."""
    step = math.lcm(align_px, config.patch_px * 2 ** (len(config.block_out_channels) - 1))
    for what, size in (("crop.size_hw", crop_hw), ("size_hw * upsampler.scale", [config.scale * s for s in low_hw])):
        if any(side % step for side in size):
            raise ValueError(f"{what} = {list(size)} (height, width): both must divide by {step} pixels")


class UpsamplerStage(Stage):
    """Trains the U-Net on frames by themselves, or temporal layers in it, where there are any.

    Args:
        parts: autoencoder, upsampler, upsampler_scheduler, and for clips upsampler_temporal.
        config: scale and what is diffused; the sample pictures' noise level.
        loss: how small pictures are made.
        sampling: of the sample pictures.
        optim: optimizer and averaging.
        seed: key of all noise.
        fps: of the clips.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        config: UpsamplerConfig,
        *,
        loss: UpsamplerLossConfig,
        sampling: SamplingConfig,
        optim: OptimConfig,
        seed: int,
        fps: float,
    ):
        temporal = parts.get("upsampler_temporal")
        trained = {"upsampler": parts["upsampler"]} if temporal is None else {"upsampler_temporal": temporal}
        frozen = {name: parts[name] for name in ("autoencoder", "upsampler") if name not in trained}
        super().__init__(nn.ModuleDict(trained), nn.ModuleDict(frozen), optim, seed)
        self.upsampler = Upsampler(parts["upsampler"], temporal, scale=config.scale, detail_gain=config.detail_gain)
        self.autoencoder, self.schedule, self.small = parts["autoencoder"], parts["upsampler_scheduler"], loss
        self.model = UpsamplingModel(
            networks=self.upsampler, schedule=self.schedule, sampling=sampling, noise_level=config.noise_level, fps=fps
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for frames_BTCHW in [-1, 1], and how large what is diffused is."""
        frames = batch["frames_BTCHW"]
        b, t = frames.shape[:2]
        low = self._small(frames.flatten(0, 1))
        x = self.upsampler.to_diffused(frames.flatten(0, 1), low).unflatten(0, (b, t))
        low_BTChw = low.unflatten(0, (b, t))
        levels = torch.randint(0, self.small.max_noise_level + 1, (b,), generator=generator).to(x.device)
        low_noise = torch.randn(low_BTChw.shape, generator=generator).to(x)
        noised_low, _ = add_noise(low_BTChw, low_noise, levels, self.schedule)
        steps = draw_timesteps(b, self.schedule, generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy, target = add_noise(x, noise, steps, self.schedule)
        prediction = self.upsampler(noisy, steps, noised_low, levels)
        return {"loss": diffusion_loss(prediction, target), "diffused_rms": x.square().mean().sqrt()}

    @torch.no_grad()
    def _small(self, frames_NCHW: Tensor) -> Tensor:
        """Small pictures (N, 3, h, w) in [-1, 1], as a real downscale makes them, or as they come out of a rollout."""
        height, width = (side // self.upsampler.scale for side in frames_NCHW.shape[-2:])
        low_NhwC = resize_area(to_picture_range(frames_NCHW), (height, width))
        if self.small.through_autoencoder:
            low_NhwC = decode(self.autoencoder, encode(self.autoencoder, low_NhwC))
        return to_model_range(low_NhwC).to(frames_NCHW)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For three clips: small frames enlarged above, what is made of them in the middle, the real ones below."""
        rows = []
        with self.ema.swapped_in():
            for frames_TCHW in batch["frames_BTCHW"][:3]:
                low = self._small(frames_TCHW)
                made = upsample_portion(self.model, low, first_frame=0, key=(self.seed,))
                rows += [enlarged(low, self.upsampler.scale), self.upsampler.unfolded(made), frames_TCHW]
        return np.concatenate([np.concatenate(list(to_picture_range(row)), axis=1) for row in rows])
