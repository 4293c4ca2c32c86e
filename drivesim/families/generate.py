"""Generation with the driving models, in latents: single frames from conditions, clips from given frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivesim.conditioning.driving import DrivingConditioner, DrivingConditions
from drivesim.conditioning.given_frames import (
    context_of,
    ends_given,
    first_frames_given,
    kept_still,
    no_context,
    noised,
)
from drivesim.conditioning.moved_frames import moved_along
from drivesim.conditioning.rate_label import RateLabel
from drivesim.diffusion.sampling import Denoiser, Guidance, noise_of, sample
from drivesim.diffusion.schedule import DDIMScheduler
from drivesim.diffusion.settings import PredictionSamplingConfig, SamplingConfig
from drivesim.models.build import UNet2DConditionModel
from drivesim.models.seen_tokens import SeenTokens
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


def prediction_context(
    latents_BTCHW: Tensor, given_BT: Tensor, motion_BT2: Tensor | None, gap_s: float, stack: Any
) -> Tensor:
    """Context channels (B, T, C + 1, h, w) of a prediction, as its temporal stack's config (`stack`) wants them.

    `motion_BT2` and `gap_s` as in `predict_frames`.
    """
    context = context_of(latents_BTCHW, given_BT, hold=stack.hold_context)
    if not stack.view_fov_deg or motion_BT2 is None:
        return context
    return moved_along(context, given_BT, motion_BT2, gap_s, stack.view_fov_deg)


@torch.no_grad()
def predict_frames(
    video_unet: VideoUNet,
    conditioner: DrivingConditioner,
    schedule: DDIMScheduler,
    given_BSCHW: Tensor,
    num_frames: int,
    conditions: DrivingConditions,
    sampling: PredictionSamplingConfig,
    generators: Sequence[torch.Generator],
    motion_BT2: Tensor | None,
    gap_s: float,
) -> Tensor:
    """Latents (B, T, C, h, w) of clips that begin with the given frames, with context guidance (§3.2).

    `motion_BT2` is how the ego car is to drive (`core.motion`), NaN or None = nothing is said; `gap_s` the seconds from
    frame to frame. The given frames come back unchanged at the front, also where the network is shown noisy ones.
    """
    b, s, c, h, w = given_BSCHW.shape
    latents = torch.zeros(b, num_frames, c, h, w, device=given_BSCHW.device, dtype=given_BSCHW.dtype)
    latents[:, :s] = given_BSCHW
    level = None
    if video_unet.temporal.config.context_noise:
        level = torch.full((b,), sampling.context_noise, device=latents.device)
        noise = noise_of(generators, latents.shape[1:])
        latents = noised(latents, level, noise.to(latents), schedule)
    given = first_frames_given(torch.full((b,), s, device=latents.device), num_frames)
    # Of given frames alone it makes no difference what they are told.
    is_told = [False] * b if motion_BT2 is None else motion_BT2[:, s:].isfinite().flatten(1).any(1).tolist()
    motion_BT2 = None if motion_BT2 is None else motion_BT2.to(latents.device)
    context = prediction_context(latents, given, motion_BT2, gap_s, video_unet.temporal.config)
    made = _guided_clips(
        video_unet, conditioner, schedule, context, conditions, sampling, generators,
        scale=_guidance_scale(sampling, is_told, num_frames), noise_level_B=level, motion_BT2=motion_BT2,
    )  # fmt: skip
    return torch.cat([given_BSCHW, made[:, s:]], dim=1)


@torch.no_grad()
def interpolate_frames(
    video_unet: VideoUNet,
    conditioner: DrivingConditioner,
    rate_label: RateLabel,
    schedule: DDIMScheduler,
    ends_B2CHW: Tensor,
    rate_B: Tensor,
    conditions: DrivingConditions,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Latents (B, T, C, h, w) of clips between two given frames, which come back unchanged at the ends.

    Args:
        video_unet: the backbone with the interpolation's temporal stack.
        conditioner: of the spatial layers.
        rate_label: tells the temporal layers which rate is made.
        schedule: the model's noise schedule.
        ends_B2CHW: latents of the first and the last frame of each clip.
        rate_B: int64 number of the rate, 0 = the lowest.
        conditions: what is known of each clip.
        sampling: sampler, steps, context guidance.
        generators: one a clip.
    """
    stack = video_unet.temporal.config
    num_frames = stack.num_frames
    b, _, c, h, w = ends_B2CHW.shape
    latents = torch.zeros(b, num_frames, c, h, w, device=ends_B2CHW.device, dtype=ends_B2CHW.dtype)
    latents[:, [0, -1]] = ends_B2CHW
    given_BT = ends_given(num_frames, latents.device).expand(b, -1)
    held = context_of(latents, given_BT, hold=True)
    context = held if stack.hold_context else context_of(latents, given_BT)
    rate_tokens = rate_label(rate_B.to(latents.device))
    made = _guided_clips(
        video_unet, conditioner, schedule, context, conditions, sampling, generators,
        scale=sampling.guidance, temporal_tokens_BLC=rate_tokens,
    )  # fmt: skip
    made = kept_still(made, held[:, :, :-1], stack.still_below)
    return torch.cat([ends_B2CHW[:, :1], made[:, 1:-1], ends_B2CHW[:, 1:]], dim=1)


def _guidance_scale(sampling: PredictionSamplingConfig, is_told: Sequence[bool], num_frames: int) -> float | Tensor:
    """The scale of context guidance; where clips or their frames differ in it, of each (B, T, 1, 1, 1)."""
    told = sampling.guidance if sampling.told_guidance is None else sampling.told_guidance
    firsts = [told if here else sampling.guidance for here in is_told]
    if sampling.last_guidance is None and len(set(firsts)) == 1:
        return firsts[0]
    lasts = [first if sampling.last_guidance is None else sampling.last_guidance for first in firsts]
    scales = [torch.linspace(first, last, num_frames) for first, last in zip(firsts, lasts, strict=True)]
    return torch.stack(scales)[..., None, None, None]


def _guided_clips(
    video_unet: VideoUNet,
    conditioner: DrivingConditioner,
    schedule: DDIMScheduler,
    context_BTCHW: Tensor,
    conditions: DrivingConditions,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    *,
    scale: float | Tensor,
    temporal_tokens_BLC: Tensor | None = None,
    noise_level_B: Tensor | None = None,
    motion_BT2: Tensor | None = None,
) -> Tensor:
    """Latents (B, T, C, h, w) of clips with this context (C + 1 channels), guided away from those without any."""
    device, dtype = context_BTCHW.device, context_BTCHW.dtype
    _, num_frames, channels, h, w = context_BTCHW.shape
    tokens, mask = conditioner(conditions.to(device))
    seen = SeenTokens()

    def denoiser(context: Tensor) -> Denoiser:
        return lambda x, step: video_unet(
            conditioner.placed(x), step, tokens,
            token_mask_BL=mask, context_BTCHW=context, temporal_tokens_BLC=temporal_tokens_BLC,
            noise_level_B=noise_level_B, motion_BT2=motion_BT2, seen=seen,
        )  # fmt: skip

    without = no_context(context_BTCHW[:, :, :-1])
    if isinstance(scale, Tensor):
        scale = scale.to(device, dtype)
    return sample(
        Guidance(denoiser(context_BTCHW), denoiser(without), scale),
        (num_frames, channels - 1, h, w),
        schedule,
        sampling,
        generators,
        device=device,
        dtype=dtype,
    )
