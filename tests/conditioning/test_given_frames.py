"""Given frames that are noised, and the level that the network is told."""

import pytest
import torch

from drivesim.conditioning.given_frames import noised
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import PredictionOverrides, PredictionSamplingConfig, ScheduleConfig

SCHEDULE = training_schedule(ScheduleConfig())


def test_noise_has_the_schedules_strength_and_step_0_is_clean() -> None:
    x, noise = torch.ones(3, 2, 4, 4, 8), torch.full((3, 2, 4, 4, 8), 2.0)
    level = torch.tensor([0, 20, 500])
    made = noised(x, level, noise, SCHEDULE)
    assert torch.equal(made[0], x[0])
    for clip in (1, 2):
        alpha_bar = SCHEDULE.alphas_cumprod[level[clip]]
        wanted = alpha_bar.sqrt() + 2 * (1 - alpha_bar).sqrt()
        torch.testing.assert_close(made[clip], torch.full_like(made[clip], wanted.item()))


def test_overrides_of_prediction_keep_what_is_not_given() -> None:
    own = PredictionSamplingConfig(steps=7, guidance=1.5, last_guidance=3.0, context_noise=40)
    assert PredictionOverrides(context_noise=0).over(own) == PredictionSamplingConfig(
        steps=7, guidance=1.5, last_guidance=3.0, context_noise=0
    )
    with pytest.raises(ValueError, match="context_noise: -1"):
        PredictionOverrides(context_noise=-1)
    with pytest.raises(ValueError, match=r"guidance scale: 0\.5"):
        PredictionSamplingConfig(last_guidance=0.5)
