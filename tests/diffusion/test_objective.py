"""The diffusion objective and the sampling loop against closed forms."""

import pytest
import torch

from drivesim.diffusion.objective import add_noise, draw_timesteps
from drivesim.diffusion.sampling import Guidance, sample
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig, Target


@pytest.mark.parametrize("target", list(Target))
def test_clean_samples_follow_from_noisy_samples_and_target(target: Target) -> None:
    schedule = training_schedule(ScheduleConfig(target=target))
    x, noise, step = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    noisy, wanted = add_noise(x, noise, step, schedule)
    a = schedule.alphas_cumprod[step].sqrt().view(-1, 1, 1, 1)
    s = (1 - schedule.alphas_cumprod[step]).sqrt().view(-1, 1, 1, 1)
    recovered = a * noisy - s * wanted if target is Target.V else (noisy - s * wanted) / a
    assert torch.allclose(recovered, x, atol=2e-4)


def test_betas_are_the_papers() -> None:
    betas = training_schedule(ScheduleConfig()).betas
    assert betas[0].item() == pytest.approx(0.0015)
    assert betas[-1].item() == pytest.approx(0.0195)
    assert betas[500].item() == pytest.approx((0.0015**0.5 + 500 / 999 * (0.0195**0.5 - 0.0015**0.5)) ** 2, rel=1e-5)


@pytest.mark.parametrize("sampler", list(Sampler))
def test_every_sampler_finds_a_gaussian_whose_denoiser_is_known(sampler: Sampler) -> None:
    """For x ~ N(m, d^2) the best v is known, so samples must have that mean and deviation."""
    schedule = training_schedule(ScheduleConfig())
    mean, deviation = 1.5, 0.8

    def best_v(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        alpha_bar = schedule.alphas_cumprod[step.long()].view(-1, 1)
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        variance = a**2 * deviation**2 + s**2
        clean = mean + a * deviation**2 / variance * (x - a * mean)
        noise = (x - a * clean) / s
        return a * noise - s * clean

    generators = [torch.Generator().manual_seed(i) for i in range(512)]
    made = sample(best_v, (1,), schedule, SamplingConfig(sampler=sampler, steps=250), generators)
    assert made.mean().item() == pytest.approx(mean, abs=0.06)
    assert made.std().item() == pytest.approx(deviation, abs=0.04)


@pytest.mark.parametrize(("sampler", "eta"), [(Sampler.UNIPC, 0.0), (Sampler.DDIM, 1.0)])
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler, eta: float) -> None:
    schedule = training_schedule(ScheduleConfig())
    config = SamplingConfig(sampler=sampler, steps=5, eta=eta)

    def denoise(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return x.tanh()

    together = sample(denoise, (4,), schedule, config, [torch.Generator().manual_seed(i) for i in range(3)])
    alone = sample(denoise, (4,), schedule, config, [torch.Generator().manual_seed(1)])
    assert torch.equal(together[1:2], alone)


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
