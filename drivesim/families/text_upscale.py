"""Upscaling in latents, with Stable Diffusion's x4 upscaler and layers over time: portions for `families.portions`.

Axes: T frames, C channels, h w pixels of the small picture, which are latents of the large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.finite import check_finite
from drivesim.core.seeds import Key, torch_generator
from drivesim.diffusion.sampling import JointGuidance, OnStep, noise_of, sample
from drivesim.diffusion.settings import TextSamplingConfig
from drivesim.families.prompts import Prompts
from drivesim.families.text_generate import DeepReuse
from drivesim.families.text_tokens import Telling, Told
from drivesim.models.autoencoder import decode_pictures, downsampling, to_picture_range
from drivesim.models.seen_tokens import SeenTokens, each_frame
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import TextToImage
from drivesim.models.video_unet import VideoUNet

NOISE_LEVEL = 30  # of the small pictures at inference (Table 8, App. H)
PORTION, OVERLAP = 8, 2  # frames that are made at once, and how many of them the portion before makes as well


@dataclass(kw_only=True, slots=True)
class LatentUpscaling:
    """An x4 upscaler and how it is run."""

    image: TextToImage  # the upscaler's checkpoint
    temporal: TemporalStack | None  # None = every frame by itself
    telling: Telling  # by the upscaler's own text encoder
    sampling: TextSamplingConfig
    fps: float  # of the video, to name times
    duration_s: float  # of the video, over which prompts are spread
    noise_level: int = NOISE_LEVEL  # diffusion step whose noise small pictures get; the network is told
    overlap: int = OVERLAP
    listen: Callable[[str], OnStep | None] = lambda _stage: None  # who is told of a stage's steps

    _video_unet: VideoUNet | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.temporal is not None:
            self._video_unet = VideoUNet(self.image.unet, self.temporal).eval()
        most = self.portion // 2
        if self.temporal is None:
            self.overlap = 0
        elif not 0 <= self.overlap <= most:
            raise ValueError(
                f"upscaler: overlap={self.overlap} of a portion of {self.portion}; at most {most} overlaps"
            )
        if self.temporal is None and self.sampling.deep_every != 1:
            raise ValueError(
                f"upscaler: deep_every={self.sampling.deep_every} needs layers over time; frame by frame every call is "
                "whole: stages.upsample_sampler.deep_every=1"
            )
        last = min(
            int(self.image.unet.config.num_class_embeds or 1000),
            self.image.low_res_scheduler.config.num_train_timesteps,
        )
        if not 0 <= self.noise_level < last:
            raise ValueError(
                f"upscaler: noise_level={self.noise_level}, expected a diffusion step from 0 to {last - 1}"
            )

    @property
    def portion(self) -> int:
        """Frames that are made at once."""
        return PORTION if self.temporal is None else int(self.temporal.config.num_frames)

    @property
    def frame_by_frame(self) -> bool:
        """Whether frames of a portion are made without regard to each other."""
        return self.temporal is None

    @property
    def scale(self) -> int:
        """Pixels of the large picture to one of the small one, a side."""
        return downsampling(self.image.vae)

    def none(self, low_TChw: Tensor) -> Tensor:
        """No latents (0, C, h, w)."""
        return low_TChw.new_zeros(0, self.image.unet.config.out_channels, *low_TChw.shape[-2:])

    @torch.no_grad()
    def make(self, low_TChw: Tensor, *, first_frame: int, key: tuple[Key, ...], conditions: Prompts) -> Tensor:
        """Latents (T, C, h, w) of large frames, from small ones in [-1, 1]; at most a portion."""
        unet = self.image.unet
        device, dtype = unet.device, unet.dtype
        low, frames = low_TChw.to(device, dtype), range(first_frame, first_frame + len(low_TChw))
        generators = [torch_generator(*key, "upsample", frame) for frame in frames]
        noise = noise_of(generators, low.shape[1:]).to(low)
        level = torch.tensor([self.noise_level], device=device)
        noised = self.image.low_res_scheduler.add_noise(low, noise, level.expand(len(low)))
        moments_T = [frame / self.fps for frame in frames]
        # Frame by frame, a frame is a clip of one.
        told = self.telling.told(conditions, [moments_T], self.duration_s, self.sampling.guidance)
        network = partial(
            self._network, noised_TChw=noised, told=told, reuse=DeepReuse(self.sampling.deep_every), seen=SeenTokens()
        )
        shape = (unet.config.out_channels, *low.shape[-2:])
        denoise = JointGuidance(network, self.sampling.guidance)
        return sample(
            denoise, shape, self.image.scheduler, self.sampling, generators,
            device=device, dtype=dtype, on_step=self.listen("upscaling"),
        )  # fmt: skip

    def _network(
        self, x: Tensor, step: Tensor, *, noised_TChw: Tensor, told: Told, reuse: DeepReuse, seen: SeenTokens
    ) -> Tensor:
        """The prediction for all frames of a portion, (T, ...), or of both branches, (2 T, ...)."""
        unet, num_branches = self.image.unet, len(x) // len(noised_TChw)
        low = torch.cat([noised_TChw] * num_branches)
        x = torch.cat([x, low], dim=1)
        if self._video_unet is None:
            levels = step.new_full((len(x),), self.noise_level)
            return unet(x, step, each_frame(told.spatial_BFLD, len(noised_TChw)), class_labels=levels).sample  # type: ignore[no-any-return]
        video = (num_branches, -1)
        made: Tensor = self._video_unet(
            x.unflatten(0, video),
            step[:num_branches],
            told.spatial_BFLD,
            context_BTCHW=low.unflatten(0, video),
            temporal_tokens_BLC=told.temporal_BLD,
            noise_level_B=step.new_full((num_branches,), self.noise_level),
            deep=reuse.next(),
            seen=seen,
        )
        return made.flatten(0, 1)

    def pictures(self, made_TCYX: Tensor, *, first_frame: int) -> NDArray[np.uint8]:
        """uint8 RGB pictures (T, H, W, 3) of latents, each by itself."""
        frames = decode_pictures(self.image.vae, made_TCYX)
        check_finite(frames, "decoding of what was upscaled", first_frame, self.fps)
        return to_picture_range(frames)
