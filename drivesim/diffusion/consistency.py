"""Consistency models: one call leads from any noise level to clean samples (Song et al. 2023, Luo et al. 2023).

What is written here is what diffusers' LCMScheduler samples by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drivesim.diffusion.settings import MOST_LCM_STEPS

SIGMA_DATA = 0.5  # of diffusers' LCMScheduler, with the factor on steps below
STEP_SCALE = 10.0


def clean_and_noise(noisy: Tensor, prediction: Tensor, steps_B: Tensor, schedule: Any) -> tuple[Tensor, Tensor]:
    """The clean samples and the noise that a prediction stands for; the inverse of `add_noise`.

    Raises:
        ValueError: a schedule whose target is neither the noise, v, nor the sample.
    """
    a, s = levels(steps_B, schedule, noisy)
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return (noisy - s * prediction) / a, prediction
    if kind == "v_prediction":
        return a * noisy - s * prediction, a * prediction + s * noisy
    if kind == "sample":
        return prediction, (noisy - a * prediction) / s
    raise ValueError(f"prediction type {kind!r}; valid: epsilon, v_prediction, sample")


def lcm_steps(number_B: Tensor, schedule: Any) -> Tensor:
    """int64 (B,): the diffusion steps that sampler lcm chooses from, by number 1..MOST_LCM_STEPS; 0 gives -1, clean."""
    return number_B * (schedule.config.num_train_timesteps // MOST_LCM_STEPS) - 1


def levels(steps_B: Tensor, schedule: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """a and s of x_t = a x + s e, shaped to multiply `like` (B, ...); step -1 is clean."""
    alpha_bar = schedule.alphas_cumprod.to(like.device)[steps_B.clamp(min=0)]
    alpha_bar = torch.where(steps_B < 0, torch.ones_like(alpha_bar), alpha_bar)
    alpha_bar = alpha_bar.view(-1, *([1] * (like.ndim - 1)))
    return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


def consistent(noisy: Tensor, prediction: Tensor, steps_B: Tensor, schedule: Any) -> Tensor:
    """f(x_t, t): clean samples, and exactly x where there is no noise (eq. 5 of Song et al.)."""
    clean, _ = clean_and_noise(noisy, prediction, steps_B.clamp(min=0), schedule)
    scaled = (steps_B.clamp(min=0) * STEP_SCALE).to(noisy.dtype).view(-1, *([1] * (noisy.ndim - 1)))
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    made = skip * noisy + out * clean
    is_clean = (steps_B < 0).view(-1, *([1] * (noisy.ndim - 1)))
    return torch.where(is_clean, noisy, made)


def ddim_step(noisy: Tensor, prediction: Tensor, steps_B: Tensor, earlier_B: Tensor, schedule: Any) -> Tensor:
    """The teacher's step from `steps_B` to `earlier_B`, without fresh noise; -1 = clean."""
    clean, noise = clean_and_noise(noisy, prediction, steps_B, schedule)
    a, s = levels(earlier_B, schedule, noisy)
    return a * clean + s * noise
