"""The sampling loop, and guidance as objects that turn one denoiser into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from drivesim.diffusion.consistency import clean_and_noise
from drivesim.diffusion.schedule import make_sampler
from drivesim.diffusion.settings import Sampler, SamplingConfig

# (noisy samples (B, ...), timestep (B,)) -> prediction (B, ...)
Denoiser = Callable[[Tensor, Tensor], Tensor]
# (steps done, steps in all, what the clean samples (B, ...) will be, as far as can be told)
OnStep = Callable[[int, int, Tensor], None]


class Guidance:
    """f' = f(without) + scale * (f(with) - f(without)).

    Classifier-free guidance leaves out labels, boxes or text; context guidance leaves out the given
    frames (§3.2). Both are this formula; what is left out is the caller's. The scale is one number, or a tensor that
    broadcasts against the samples, such as one number a frame.
    """

    def __init__(self, with_condition: Denoiser, without_condition: Denoiser, scale: float | Tensor):
        self.with_condition = with_condition
        self.without_condition = without_condition
        self.scale = scale

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The guided prediction; one network call instead of two when the scale is 1."""
        conditional = self.with_condition(sample, timestep)
        if not isinstance(self.scale, Tensor) and self.scale == 1.0:
            return conditional
        unconditional = self.without_condition(sample, timestep)
        return unconditional + self.scale * (conditional - unconditional)


class JointGuidance:
    """As `Guidance`, of a network that makes both branches in one batch, [without, with], as diffusers does."""

    def __init__(self, both: Denoiser, scale: float):
        self.both = both
        self.scale = scale

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The guided prediction; where the scale is 1 the network is shown the branch with the condition alone."""
        if self.scale == 1.0:
            return self.both(sample, timestep)
        unconditional, conditional = self.both(torch.cat([sample] * 2), torch.cat([timestep] * 2)).chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


def noise_of(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Noise (B, *shape), each sample's from its own generator.

    They are of the CPU, and so is the noise: the same key gives the same noise on every device.
    """
    noise = torch.empty(len(generators), *shape)
    for of_sample, generator in zip(noise, generators, strict=True):
        torch.randn(tuple(shape), generator=generator, out=of_sample)
    return noise


@torch.no_grad()
def sample(
    denoise: Denoiser,
    shape: tuple[int, ...],
    schedule: DDIMScheduler,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """Samples from noise.

    Args:
        denoise: the (guided) network. What it is shown may be written over afterwards.
        shape: of one sample.
        schedule: the model's noise schedule.
        config: sampler, steps, eta.
        generators: one for each sample, so that a sample does not depend on its batch.
        device: where the network is.
        dtype: of the samples.
        on_step: called for each step, with what it predicts; None = nobody listens.

    Returns:
        Clean samples (B, *shape).
    """
    x = noise_of(generators, shape).to(device, dtype)
    sampler = make_sampler(schedule, config)
    extra: dict[str, Any] = {"eta": config.eta} if config.eta else {}
    if config.eta or config.sampler is Sampler.LCM:  # those that add fresh noise
        extra["generator"] = list(generators)
    linear = not extra and _is_linear(sampler)
    if sampler.init_noise_sigma != 1:
        x *= sampler.init_noise_sigma
    for done, timestep in enumerate(sampler.timesteps, start=1):
        model_input = sampler.scale_model_input(x, timestep)
        timesteps_B = timestep.to(device).expand(len(x))
        prediction = denoise(model_input, timesteps_B)
        if on_step is not None:
            clean, _ = clean_and_noise(model_input, prediction, timesteps_B, schedule)
            on_step(done, len(sampler.timesteps), clean)
        if linear:
            of_sample, of_prediction = _step_weights(sampler, timestep)
            x = x.mul_(of_sample).add_(prediction, alpha=of_prediction)
        else:
            x = sampler.step(prediction, timestep, x, **extra).prev_sample
    return x


def _is_linear(sampler: Any) -> bool:
    """Whether a step is linear in sample and prediction, and depends on nothing before."""
    return isinstance(sampler, DDIMScheduler) and not (sampler.config.clip_sample or sampler.config.thresholding)


def _step_weights(sampler: Any, timestep: Tensor) -> tuple[float, float]:
    """What a linear step takes of the sample and of the prediction: two passes over pictures in place of up to nine."""
    none, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    of_sample = sampler.step(none, timestep, one).prev_sample
    of_prediction = sampler.step(one, timestep, none).prev_sample
    return float(of_sample), float(of_prediction)
