"""Noise schedules and samplers, all of them diffusers'."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import DDIMScheduler as DDIMScheduler
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, UniPCMultistepScheduler

from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig, Target

# By schedule and class. A schedule's config is never changed.
_CONVERTED: WeakKeyDictionary[DDIMScheduler, dict[type[Any], Any]] = WeakKeyDictionary()


def training_schedule(config: ScheduleConfig, *, ends_clean: bool = False) -> DDIMScheduler:
    """The schedule of a model, in diffusers' form; saved beside the weights.

    Args:
        config: its betas and target.
        ends_clean: DDIM's last step leaves no noise, instead of that of step 0. In latents that hundredth does not
            show; in pixels it is more than a grey level.
    """
    with torch.device("cpu"):  # it is no weight, also where weights are made on the meta device
        return DDIMScheduler(
            num_train_timesteps=config.num_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule=config.beta_schedule,
            prediction_type=Target(config.target).value,
            clip_sample=False,
            set_alpha_to_one=ends_clean,
            timestep_spacing="trailing",
        )


def make_sampler(schedule: DDIMScheduler, config: SamplingConfig) -> Any:
    """A fresh sampler with its steps set; samplers keep state, so each call of a model needs its own.

    Raises:
        ValueError: more steps than the schedule has.
    """
    classes = {
        Sampler.DDIM: DDIMScheduler,
        Sampler.UNIPC: UniPCMultistepScheduler,
        Sampler.DPM_SOLVER: DPMSolverMultistepScheduler,
        Sampler.LCM: LCMScheduler,
    }
    most = int(schedule.config.num_train_timesteps)
    if config.steps > most:
        raise ValueError(f"sampling steps: {config.steps}; the model knows {most} steps of noise, so many at most")
    wanted = classes[Sampler(config.sampler)]
    # Making one of a config takes longer. Of a DDIM scheduler nothing but its steps ever changes.
    own = schedule if wanted is type(schedule) else _converted(schedule, wanted)
    sampler = copy(own) if wanted is DDIMScheduler else deepcopy(own)
    sampler.set_timesteps(config.steps)
    return sampler


def _converted(schedule: DDIMScheduler, wanted: type[Any]) -> Any:
    """A sampler of another class than the schedule's, made once; not to be used itself, as samplers keep state."""
    made = _CONVERTED.setdefault(schedule, {})
    if wanted not in made:
        made[wanted] = wanted.from_config(schedule.config)
    return made[wanted]
