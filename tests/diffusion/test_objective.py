"""The diffusion objective and the sampling loop against closed forms."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from drivesim.diffusion.objective import add_noise, draw_timesteps
from drivesim.diffusion.sampling import Guidance, sample
from drivesim.diffusion.schedule import make_sampler, training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig, Target


@pytest.mark.parametrize("target", list(Target))
def test_clean_samples_follow_from_noisy_samples_and_target(target: Target) -> None:
    schedule = training_schedule(ScheduleConfig(target=target))
    x, noise, step = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    noisy, wanted = add_noise(x, noise, step, schedule)
    a = schedule.alphas_cumprod[step].sqrt().view(-1, 1, 1, 1)
    s = (1 - schedule.alphas_cumprod[step]).sqrt().view(-1, 1, 1, 1)
    recovered = {
        Target.V: lambda: a * noisy - s * wanted,
        Target.EPSILON: lambda: (noisy - s * wanted) / a,
        Target.SAMPLE: lambda: wanted,
    }[target]()
    assert torch.allclose(recovered, x, atol=2e-4)
    assert torch.equal(noisy, a * x + s * noise)


def test_betas_are_the_papers() -> None:
    betas = training_schedule(ScheduleConfig()).betas
    assert betas[0].item() == pytest.approx(0.0015)
    assert betas[-1].item() == pytest.approx(0.0195)
    assert betas[500].item() == pytest.approx((0.0015**0.5 + 500 / 999 * (0.0195**0.5 - 0.0015**0.5)) ** 2, rel=1e-5)


@pytest.mark.parametrize("target", [Target.V, Target.SAMPLE])
# LCM is for consistency models and no solver: tests of `diffusion.consistency`.
@pytest.mark.parametrize("sampler", [sampler for sampler in Sampler if sampler is not Sampler.LCM])
def test_every_sampler_finds_a_gaussian_whose_denoiser_is_known(sampler: Sampler, target: Target) -> None:
    """For x ~ N(m, d^2) the best prediction is known, so samples must have that mean and deviation."""
    schedule = training_schedule(ScheduleConfig(target=target))
    mean, deviation = 1.5, 0.8

    def best(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        alpha_bar = schedule.alphas_cumprod[step.long()].view(-1, 1)
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        variance = a**2 * deviation**2 + s**2
        clean = mean + a * deviation**2 / variance * (x - a * mean)
        noise = (x - a * clean) / s
        return clean if target is Target.SAMPLE else a * noise - s * clean

    generators = [torch.Generator().manual_seed(i) for i in range(512)]
    made = sample(best, (1,), schedule, SamplingConfig(sampler=sampler, steps=250), generators)
    assert made.mean().item() == pytest.approx(mean, abs=0.06)
    assert made.std().item() == pytest.approx(deviation, abs=0.04)


@pytest.mark.parametrize(
    "change",
    [
        {}, {"clip_sample": True}, {"thresholding": True}, {"prediction_type": "epsilon"},
        {"prediction_type": "sample", "set_alpha_to_one": True},
    ],
)  # fmt: skip
def test_ddim_takes_the_steps_of_diffusers_own(change: dict[str, Any]) -> None:
    schedule = DDIMScheduler.from_config(training_schedule(ScheduleConfig(target=Target.V)).config, **change)
    prediction = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(9))

    def denoise(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return 0.3 * x + prediction + step.view(-1, 1, 1, 1) / 1000

    config = SamplingConfig(sampler=Sampler.DDIM, steps=4)
    made = sample(denoise, (3, 4, 4), schedule, config, [torch.Generator().manual_seed(i) for i in range(2)])
    sampler = make_sampler(schedule, config)
    x = torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    for timestep in sampler.timesteps:
        x = sampler.step(denoise(x, timestep.expand(2)), timestep, x).prev_sample
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sampler", "eta"), [(Sampler.UNIPC, 0.0), (Sampler.DDIM, 1.0)])
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler, eta: float) -> None:
    schedule = training_schedule(ScheduleConfig())
    config = SamplingConfig(sampler=sampler, steps=5, eta=eta)

    def denoise(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return x.tanh()

    together = sample(denoise, (4,), schedule, config, [torch.Generator().manual_seed(i) for i in range(3)])
    alone = sample(denoise, (4,), schedule, config, [torch.Generator().manual_seed(1)])
    assert torch.equal(together[1:2], alone)


def test_a_schedule_that_ends_clean_leaves_none_of_step_zeros_noise() -> None:
    made = {}
    for ends_clean in (False, True):
        config = ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=2e-2, target=Target.SAMPLE)
        schedule = training_schedule(config, ends_clean=ends_clean)
        generators = [torch.Generator().manual_seed(0)]
        settings = SamplingConfig(sampler=Sampler.DDIM, steps=2)
        made[ends_clean] = sample(lambda x, _: torch.full_like(x, 0.5), (4096,), schedule, settings, generators)
    assert torch.allclose(made[True], torch.full((1, 4096), 0.5), atol=1e-6)
    assert (made[False] - 0.5).std().item() == pytest.approx(0.01, rel=0.05)  # square root of the first beta


def test_guidance_extrapolates_from_the_prediction_without_the_condition() -> None:
    guided = Guidance(lambda x, t: x + 1, lambda x, t: x - 1, 3.0)
    assert torch.equal(guided(torch.zeros(2), torch.zeros(2)), torch.full((2,), 5.0))


def test_guidance_of_one_never_calls_the_network_without_the_condition() -> None:
    def refuse(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called")

    assert torch.equal(Guidance(lambda x, t: x + 1, refuse, 1.0)(torch.zeros(2), torch.zeros(2)), torch.ones(2))


def test_timesteps_cover_the_schedule_evenly() -> None:
    schedule = training_schedule(ScheduleConfig())
    steps = draw_timesteps(10, schedule, torch.Generator().manual_seed(0))
    assert sorted((steps // 100).tolist()) == list(range(10))


def test_sampling_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="eta=0.5 needs sampler ddim"):
        SamplingConfig(sampler=Sampler.UNIPC, eta=0.5)
    with pytest.raises(ValueError, match="at least 1"):
        SamplingConfig(steps=0)
    with pytest.raises(ValueError, match="guidance scale"):
        SamplingConfig(guidance=0.5)
