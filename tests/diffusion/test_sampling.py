"""The sampling loop: what listeners are told of it."""

from __future__ import annotations

import pytest
import torch

from drivesim.diffusion.sampling import sample
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig


@pytest.mark.parametrize("sampler", [Sampler.DDIM, Sampler.UNIPC])
def test_a_listener_is_told_what_each_step_makes_of_the_samples(sampler: Sampler) -> None:
    clean = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    schedule = training_schedule(ScheduleConfig(target="epsilon"), ends_clean=True)

    def denoise(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The noise that leads to the one clean sample there is."""
        share = schedule.alphas_cumprod[step].view(-1, 1, 1, 1)
        return (x - share.sqrt() * clean) / (1 - share).sqrt()

    heard: list[torch.Tensor] = []
    config = SamplingConfig(sampler=sampler, steps=5)  # so that the last one ends at no noise
    generators = [torch.Generator().manual_seed(1)]
    made = sample(
        denoise, (3, 4, 8), schedule, config, generators, on_step=lambda done, steps, x: heard.append(x.clone())
    )
    assert len(heard) == 5
    for told in heard:
        torch.testing.assert_close(told[0], clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(made[0], clean, atol=1e-3, rtol=1e-3)
