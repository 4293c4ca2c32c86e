"""Generation with the driving models, in latents: single frames from conditions, clips from given frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drivesim.conditioning.driving import DrivingConditioner, DrivingConditions
from drivesim.conditioning.given_frames import context_of, first_frames_given, no_context
from drivesim.diffusion.sampling import Denoiser, Guidance, sample
from drivesim.diffusion.schedule import DDIMScheduler
from drivesim.diffusion.settings import SamplingConfig
from drivesim.models.build import UNet2DConditionModel
from drivesim.models.video_unet import VideoUNet


@torch.no_grad()
def generate_frames(
    backbone: UNet2DConditionModel,
    conditioner: DrivingConditioner,
    schedule: DDIMScheduler,
    conditions: DrivingConditions,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Latents (B, C, h, w) of frames that obey the conditions, with classifier-free guidance."""
    device = backbone.device
    tokens, mask = conditioner(conditions.to(device))
    no_tokens, no_mask = conditioner(DrivingConditions.unknown(len(conditions), device))

    def with_conditions(x: Tensor, step: Tensor) -> Tensor:
        return backbone(conditioner.placed(x), step, tokens, encoder_attention_mask=mask).sample  # type: ignore[no-any-return]

    def without_conditions(x: Tensor, step: Tensor) -> Tensor:
        return backbone(conditioner.placed(x), step, no_tokens, encoder_attention_mask=no_mask).sample  # type: ignore[no-any-return]

    config = backbone.config
    return sample(
        Guidance(with_conditions, without_conditions, sampling.guidance),
        (config.out_channels, *config.sample_size),
        schedule,
        sampling,
        generators,
        device=device,
        dtype=backbone.dtype,
    )


@torch.no_grad()
def predict_frames(
    video_unet: VideoUNet,
    conditioner: DrivingConditioner,
    schedule: DDIMScheduler,
    given_BSCHW: Tensor,
    num_frames: int,
    conditions: DrivingConditions,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Latents (B, T, C, h, w) of clips that begin with the given frames, with context guidance (§3.2).

    The given frames come back unchanged at the front.
    """
    backbone = video_unet.backbone
    b, s, c, h, w = given_BSCHW.shape
    latents = torch.zeros(b, num_frames, c, h, w, device=given_BSCHW.device, dtype=given_BSCHW.dtype)
    latents[:, :s] = given_BSCHW
    given = first_frames_given(torch.full((b,), s, device=latents.device), num_frames)
    context = context_of(latents, given, hold=video_unet.temporal.config.hold_context)
    without = no_context(latents)
    tokens, mask = conditioner(conditions.to(backbone.device))

    def denoiser(context_BTCHW: Tensor) -> Denoiser:
        return lambda x, step: video_unet(
            conditioner.placed(x), step, tokens, token_mask_BL=mask, context_BTCHW=context_BTCHW
        )

    made = sample(
        Guidance(denoiser(context), denoiser(without), sampling.guidance),
        (num_frames, c, h, w),
        schedule,
        sampling,
        generators,
        device=backbone.device,
        dtype=backbone.dtype,
    )
    return torch.cat([given_BSCHW, made[:, s:]], dim=1)
