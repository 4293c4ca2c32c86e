"""Samplers: numbers that sample nothing are refused."""

from __future__ import annotations

import pytest

from drivesim.diffusion.schedule import make_sampler, training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig


@pytest.mark.parametrize("sampler", [Sampler.DDIM, Sampler.UNIPC, Sampler.DPM_SOLVER])
def test_more_steps_than_the_schedule_has_are_refused(sampler: Sampler) -> None:
    schedule = training_schedule(ScheduleConfig(num_steps=100))
    assert len(make_sampler(schedule, SamplingConfig(sampler=sampler, steps=100)).timesteps) == 100
    with pytest.raises(ValueError, match="sampling steps: 101; the model knows 100 steps of noise"):
        make_sampler(schedule, SamplingConfig(sampler=sampler, steps=101))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_a_share_of_noise_that_is_none_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="a share of fresh noise, from 0 to 1"):
        SamplingConfig(sampler=Sampler.DDIM, eta=eta)
