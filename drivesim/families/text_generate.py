"""Generation with text-to-video networks, in latents: key frames from prompts, and frames between two of them.

Axes: B clips, S given frames, T frames, C channels, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivesim.conditioning.given_frames import context_of, ends_given
from drivesim.diffusion.consistency import clean_and_noise, levels
from drivesim.diffusion.objective import add_noise
from drivesim.diffusion.sampling import Denoiser, JointGuidance, OnStep, noise_of, sample
from drivesim.diffusion.settings import KeyFrameSamplingConfig, TextSamplingConfig
from drivesim.families.text_tokens import Told
from drivesim.models.seen_tokens import SeenTokens
from drivesim.models.video_unet import DeepFeatures, VideoUNet


class DeepReuse:
    """Which network calls of a sample are whole: every n-th one. The others reuse what its deep levels made.

    With every 2nd, 3rd and 5th call whole, key frames of a tiny two-level model with random weights differ from those
    of whole calls by 0.9, 1.7 and 2.6 % (root mean square, 24 steps); trained models have yet to be measured.
    """

    def __init__(self, every: int):
        self.every = every
        self._num_calls = 0
        self._kept = DeepFeatures()

    def next(self) -> DeepFeatures | None:
        """What to hand to the next call; None = nothing is ever reused."""
        if self.every == 1:
            return None
        if self._num_calls % self.every == 0:
            self._kept.features_NCHW = None
        self._num_calls += 1
        return self._kept


@torch.no_grad()
def generate_keys(
    video_unet: VideoUNet,
    schedule: Any,
    told: Told,
    shape: tuple[int, int, int, int],
    sampling: KeyFrameSamplingConfig,
    generators: Sequence[torch.Generator],
    *,
    given_BSCHW: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, T, C, h, w) of key frames.

    A given first frame is shown to the network at every step with the noise of that step, and the others are led to go
    with it where `sampling.start_weight` is not 0; it comes back unchanged. The temporal layers of key frames have no
    context to be shown it by (§3.1). A step that leads has a backward pass, in which layers are run again, and its
    network calls are whole.

    Args:
        video_unet: the image model's U-Net with the temporal layers.
        schedule: the image model's scheduler, whose noise levels and target are read.
        told: of the clips; both branches where `sampling.guidance` is not 1.
        shape: (T, C, h, w).
        sampling: sampler, steps, classifier-free guidance, weight of a given first frame.
        generators: one a clip.
        given_BSCHW: latents of the first frames; None = none.
        on_step: called after each step; None = nobody listens.
    """
    device, dtype = video_unet.backbone.device, video_unet.backbone.dtype
    is_led = given_BSCHW is not None and sampling.start_weight > 0
    reuse, seen = DeepReuse(1 if is_led else sampling.deep_every), SeenTokens()
    if is_led:
        video_unet.enable_gradient_checkpointing()

    def network(x: Tensor, step_B: Tensor) -> Tensor:
        return video_unet(
            x, step_B, told.spatial_BFLD, temporal_tokens_BLC=told.temporal_BLD, deep=reuse.next(), seen=seen
        )  # type: ignore[no-any-return]

    denoise: Denoiser = JointGuidance(network, sampling.guidance)
    if given_BSCHW is not None:
        denoise = _shown_given(denoise, given_BSCHW.to(device, dtype), schedule, generators, sampling.start_weight)
    made = sample(denoise, shape, schedule, sampling, generators, device=device, dtype=dtype, on_step=on_step)
    return made if given_BSCHW is None else torch.cat([given_BSCHW.to(made), made[:, given_BSCHW.shape[1] :]], dim=1)


def _shown_given(
    denoise: Denoiser, given_BSCHW: Tensor, schedule: Any, generators: Sequence[torch.Generator], weight: float
) -> Denoiser:
    """A denoiser whose first frames are the given ones, with the noise of the step.

    The other frames are led to where the network finds the given ones again in what it is shown: reconstruction
    guidance (Ho et al. 2022, arXiv 2204.03458), of that weight. With 0 a video cuts to another place after its first
    frame.
    """
    num_given, shape = given_BSCHW.shape[1], given_BSCHW.shape[1:]
    noise = noise_of(generators, shape).to(given_BSCHW)

    def shown(x_BTCHW: Tensor, step_B: Tensor) -> Tensor:
        noisy, _ = add_noise(given_BSCHW, noise, step_B, schedule)
        if weight == 0:
            return denoise(torch.cat([noisy, x_BTCHW[:, num_given:]], dim=1), step_B)
        others = x_BTCHW[:, num_given:].detach().requires_grad_()
        with torch.enable_grad():
            seen = torch.cat([noisy, others], dim=1)
            clean, _ = clean_and_noise(seen, denoise(seen, step_B), step_B, schedule)
            error = (clean[:, :num_given] - given_BSCHW).float().square().sum()
            (gradient,) = torch.autograd.grad(error, others)
        seen, clean = seen.detach(), clean.detach()
        a, s = levels(step_B, schedule, seen)
        clean[:, num_given:] -= weight / 2 * a * gradient
        return add_noise(clean, (seen - a * clean) / s, step_B, schedule)[1]

    return shown


@torch.no_grad()
def interpolate_windows(
    video_unet: VideoUNet,
    schedule: Any,
    told: Told,
    rate_tokens_BLD: Tensor,
    ends_B2CHW: Tensor,
    sampling: TextSamplingConfig,
    generators: Sequence[torch.Generator],
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, T, C, h, w) of clips between two given frames, which come back unchanged at the ends.

    The U-Net sees the noisy latents, the given ones with zeros between them, and the mask: 4 + 4 + 1 channels. The
    given frames are clean (noise augmentation of level 0), which networks are told that were built to be told.

    Args:
        video_unet: the interpolation's own U-Net with its temporal layers.
        schedule: the image model's scheduler, whose noise levels and target are read.
        told: of the clips; both branches where `sampling.guidance` is not 1.
        rate_tokens_BLD: tells the temporal layers which rate is made; in addition to the text, in both branches.
        ends_B2CHW: latents of the first and the last frame of each clip.
        sampling: sampler, steps, classifier-free guidance.
        generators: one a clip.
        on_step: called after each step; None = nobody listens.
    """
    device, dtype = video_unet.backbone.device, video_unet.backbone.dtype
    num_frames = int(video_unet.temporal.config.num_frames)
    b, _, c, h, w = ends_B2CHW.shape
    ends = ends_B2CHW.to(device, dtype)
    latents = torch.zeros(b, num_frames, c, h, w, device=device, dtype=dtype)
    latents[:, [0, -1]] = ends
    masked = context_of(latents, ends_given(num_frames, device).expand(b, -1))
    num_branches = len(told.temporal_BLD) // b
    temporal = torch.cat([told.temporal_BLD, torch.cat([rate_tokens_BLD] * num_branches)], dim=1)
    is_told_noise = video_unet.temporal.noise_embed is not None or video_unet.backbone.class_embedding is not None
    level = torch.zeros(num_branches * b, dtype=torch.int64, device=device) if is_told_noise else None
    masked, reuse, seen = torch.cat([masked] * num_branches), DeepReuse(sampling.deep_every), SeenTokens()

    def network(x: Tensor, step_B: Tensor) -> Tensor:
        return video_unet(
            torch.cat([x, masked], dim=2), step_B, told.spatial_BFLD, temporal_tokens_BLC=temporal,
            noise_level_B=level, deep=reuse.next(), seen=seen,
        )  # type: ignore[no-any-return]  # fmt: skip

    made = sample(
        JointGuidance(network, sampling.guidance), (num_frames, c, h, w), schedule, sampling, generators,
        device=device, dtype=dtype, on_step=on_step,
    )  # fmt: skip
    return torch.cat([ends[:, :1], made[:, 1:-1], ends[:, 1:]], dim=1)
