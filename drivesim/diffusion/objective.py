"""The training objective of variance-preserving diffusion (§1: x_t = a_t x + s_t e)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor


def add_noise(x: Tensor, noise: Tensor, timestep_B: Tensor, schedule: DDIMScheduler) -> tuple[Tensor, Tensor]:
    """Noisy samples and what the network has to predict.

    Args:
        x: clean samples (B, ...).
        noise: standard normal noise like `x`.
        timestep_B: int64 diffusion step of each sample.
        schedule: its alphas and its prediction type are read.

    Returns:
        x_t = a x + s e, and the target: e, or v = a e - s x (Salimans & Ho 2022), or x itself: what a network can
        predict that is too narrow to hand all the noise of its input through to its output. Both of the type of `x`.
    """
    alpha_bar = schedule.alphas_cumprod.to(x.device)[timestep_B].view(-1, *([1] * (x.ndim - 1)))
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    noisy = (a * x + s * noise).to(x.dtype)
    if schedule.config.prediction_type == "epsilon":
        return noisy, noise
    if schedule.config.prediction_type == "v_prediction":
        return noisy, (a * noise - s * x).to(x.dtype)
    if schedule.config.prediction_type == "sample":
        return noisy, x
    raise ValueError(f"prediction type {schedule.config.prediction_type!r}; valid: epsilon, v_prediction, sample")


def diffusion_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error over everything; weights broadcast against it, None = all count the same."""
    if weights is None:
        return F.mse_loss(prediction.float(), target.float())
    return (weights * (prediction.float() - target.float()).square()).mean()


def draw_timesteps(batch: int, schedule: DDIMScheduler, generator: torch.Generator) -> Tensor:
    """Steps (B,) int64, one in each of B equal parts of the schedule: uniform, with less variance a batch."""
    shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    shares = shares[torch.randperm(batch, generator=generator)]
    last = schedule.config.num_train_timesteps - 1
    # float32 rounds the largest shares up to 1
    return (shares * schedule.config.num_train_timesteps).long().clamp(max=last)
