"""The consistency function and the teacher's step are those of diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from drivesim.diffusion.consistency import clean_and_noise, consistent, ddim_step, lcm_steps
from drivesim.diffusion.objective import add_noise
from drivesim.diffusion.sampling import sample
from drivesim.diffusion.schedule import make_sampler, training_schedule
from drivesim.diffusion.settings import MOST_LCM_STEPS, Sampler, SamplingConfig, ScheduleConfig, Target

TARGETS = pytest.mark.parametrize("target", list(Target), ids=lambda target: target.value)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@TARGETS
def test_the_true_prediction_gives_back_clean_samples_and_noise(target: Target) -> None:
    schedule = training_schedule(ScheduleConfig(target=target))
    x, noise, steps = drawn(3, 4, 5), drawn(3, 4, 5, seed=1), torch.tensor([19, 400, 999])
    noisy, prediction = add_noise(x, noise, steps, schedule)
    clean, found = clean_and_noise(noisy, prediction, steps, schedule)
    torch.testing.assert_close(clean, x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, noise, rtol=1e-3, atol=1e-3)


@TARGETS
def test_the_consistency_function_is_what_lcm_samples_by(target: Target) -> None:
    schedule = training_schedule(ScheduleConfig(target=target))
    scheduler = LCMScheduler.from_config(schedule.config)
    scheduler.set_timesteps(4)
    noisy, prediction = drawn(1, 4, 5), drawn(1, 4, 5, seed=1)
    for step in scheduler.timesteps[:2]:
        wanted = scheduler.step(prediction, step, noisy, generator=torch.Generator()).denoised
        torch.testing.assert_close(consistent(noisy, prediction, step[None], schedule), wanted, rtol=1e-4, atol=1e-4)


@TARGETS
def test_the_teachers_step_is_ddims(target: Target) -> None:
    schedule = training_schedule(ScheduleConfig(target=target), ends_clean=True)
    scheduler = DDIMScheduler.from_config(schedule.config)
    scheduler.set_timesteps(50)
    noisy, prediction = drawn(2, 4, 5), drawn(2, 4, 5, seed=1)
    for step, earlier in ((999, 979), (19, -1)):
        wanted = scheduler.step(prediction, step, noisy).prev_sample
        steps = (torch.full((2,), step), torch.full((2,), earlier))
        torch.testing.assert_close(ddim_step(noisy, prediction, *steps, schedule), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8, 50])
def test_a_student_is_sampled_at_steps_that_it_learned_alone(num_steps: int) -> None:
    schedule = training_schedule(ScheduleConfig())
    sampler = make_sampler(schedule, SamplingConfig(sampler=Sampler.LCM, steps=num_steps))
    learned = lcm_steps(torch.arange(1, MOST_LCM_STEPS + 1), schedule).tolist()
    assert set(sampler.timesteps.tolist()) <= set(learned)
    assert num_steps < MOST_LCM_STEPS or sorted(sampler.timesteps.tolist()) == learned


def test_an_unknown_target_is_refused() -> None:
    schedule = training_schedule(ScheduleConfig())
    schedule.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="prediction type 'flow'; valid: epsilon, v_prediction, sample"):
        clean_and_noise(drawn(1, 2), drawn(1, 2), torch.tensor([5]), schedule)


def test_clean_samples_are_left_as_they_are() -> None:
    schedule = training_schedule(ScheduleConfig())
    x = drawn(2, 4)
    assert torch.equal(consistent(x, drawn(2, 4, seed=1), torch.tensor([-1, -1]), schedule), x)


def test_a_perfect_student_is_sampled_in_few_steps_to_the_same_samples_as_alone() -> None:
    schedule, wanted = training_schedule(ScheduleConfig(target=Target.SAMPLE)), drawn(2, 3, 4)
    config = SamplingConfig(sampler=Sampler.LCM, steps=2)

    def made(rows: slice) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)][rows]
        return sample(lambda x, _: wanted[rows], (3, 4), schedule, config, generators)

    torch.testing.assert_close(made(slice(0, 2)), wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(made(slice(1, 2)), made(slice(0, 2))[1:])


def test_more_steps_than_a_student_was_distilled_over_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling steps: 51; sampler lcm takes at most 50"):
        SamplingConfig(sampler=Sampler.LCM, steps=51)
