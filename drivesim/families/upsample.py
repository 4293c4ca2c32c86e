"""Upsampling with the driving models: portions of frames, and a video's frames as they come, portion by portion.

Axes: T frames, C channels, H W pixels of the large picture, h w pixels of the small one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drivesim.core.seeds import Key, torch_generator
from drivesim.diffusion.objective import add_noise
from drivesim.diffusion.sampling import sample
from drivesim.diffusion.schedule import DDIMScheduler
from drivesim.diffusion.settings import SamplingConfig
from drivesim.models.upsampler import COLOURS, Upsampler

FRAMES_AT_ONCE = 8  # of an upsampler without temporal layers


@dataclass(kw_only=True, slots=True)
class UpsamplingModel:
    """An upsampler and how it is run."""

    networks: Upsampler
    schedule: DDIMScheduler  # the upsampler's own
    sampling: SamplingConfig  # sampler and steps; there is no guidance, because nothing could be left out
    noise_level: int  # diffusion step whose noise small frames get; the network is told
    overlap: int = 0  # frames of a portion that the one before it makes as well

    @property
    def portion(self) -> int:
        """Frames that are made at once."""
        video_unet = self.networks.video_unet
        return FRAMES_AT_ONCE if video_unet is None else int(video_unet.temporal.config.num_frames)


@torch.no_grad()
def upsample_portion(model: UpsamplingModel, low_TChw: Tensor, *, first_frame: int, key: tuple[Key, ...]) -> Tensor:
    """Large frames of a portion of small ones, of any size that the U-Net's levels divide.

    A frame's noise depends on its own number in the video, so that portions that overlap begin from the same noise
    where they do.

    Args:
        model: its networks make every frame by itself where they have no temporal layers.
        low_TChw: small frames in [-1, 1]; at most a portion.
        first_frame: number of the first frame in its video.
        key: of the video's noise.

    Returns:
        Frames (T, 3, H, W), about in [-1, 1], on the networks' device.

    Raises:
        ValueError: small frames that the U-Net cannot halve as often as it has to.
    """
    networks = model.networks
    networks.check_low((low_TChw.shape[-2], low_TChw.shape[-1]))
    device, dtype = networks.unet.device, networks.unet.dtype
    low = low_TChw.to(device, dtype)
    generators = [torch_generator(*key, "upsample", first_frame + frame) for frame in range(len(low))]
    low_noise = torch.stack([torch.randn(low.shape[1:], generator=g) for g in generators]).to(low)
    level = torch.tensor([model.noise_level], device=device)
    noised_low, _ = add_noise(low, low_noise, level.expand(len(low)), model.schedule)

    def denoise(x_TCHW: Tensor, step_T: Tensor) -> Tensor:
        return networks(x_TCHW[None], step_T[:1], noised_low[None], level)[0]  # type: ignore[no-any-return]

    height, width = (side * networks.scale for side in low.shape[-2:])
    shape = (COLOURS, height, width)
    made = sample(denoise, shape, model.schedule, model.sampling, generators, device=device, dtype=dtype)
    return networks.from_diffused(made, low)
