"""Noise schedules and samplers, all of them diffusers'."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from diffusers import DDIMScheduler as DDIMScheduler
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler


class Sampler(str, Enum):
    """Samplers by name."""

    DDIM = "ddim"
    UNIPC = "unipc"
    DPM_SOLVER = "dpm_solver"


class Target(str, Enum):
    """What the network predicts."""

    V = "v_prediction"
    EPSILON = "epsilon"


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """The variance-preserving noise schedule (Table 6 for driving)."""

    beta_start: float = 0.0015  # first beta
    beta_end: float = 0.0195  # last beta
    beta_schedule: str = "scaled_linear"  # diffusers' name; LDM's "linear"
    num_steps: int = 1000  # discrete diffusion steps
    target: Target = Target.V  # what the network predicts


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How latents are sampled."""

    sampler: Sampler = Sampler.UNIPC  # which sampler; the paper's is ddim
    steps: int = 25  # network calls of one sample, twice as many with guidance
    eta: float = 0.0  # share of fresh noise a step; ddim alone reads it
    guidance: float = 1.0  # scale of guidance; 1 = none, and half the time

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps: {self.steps}, expected at least 1")
        if self.guidance < 1:
            raise ValueError(f"guidance scale: {self.guidance}, expected at least 1 (1 = none)")
        if self.eta != 0 and self.sampler is not Sampler.DDIM:
            raise ValueError(f"eta={self.eta} needs sampler ddim, not {Sampler(self.sampler).value}")


def training_schedule(config: ScheduleConfig) -> DDIMScheduler:
    """The schedule of a model, in diffusers' form; saved beside the weights."""
    return DDIMScheduler(
        num_train_timesteps=config.num_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=Target(config.target).value,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )


def make_sampler(schedule: DDIMScheduler, config: SamplingConfig) -> Any:
    """A fresh sampler with its steps set; samplers keep state, so each call of a model needs its own."""
    classes = {
        Sampler.DDIM: DDIMScheduler,
        Sampler.UNIPC: UniPCMultistepScheduler,
        Sampler.DPM_SOLVER: DPMSolverMultistepScheduler,
    }
    sampler = classes[Sampler(config.sampler)].from_config(schedule.config)
    sampler.set_timesteps(config.steps)
    return sampler
