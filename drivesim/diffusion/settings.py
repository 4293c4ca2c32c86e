"""Settings of noise schedules and samplers; light to import, unlike the samplers themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, TypeVar

AnySampling = TypeVar("AnySampling", bound="SamplingConfig")


MOST_LCM_STEPS = 50  # of diffusers' LCMScheduler: those that a model was distilled over


class Sampler(str, Enum):
    """Samplers by name."""

    DDIM = "ddim"
    UNIPC = "unipc"
    DPM_SOLVER = "dpm_solver"
    LCM = "lcm"  # of models distilled to few steps, stages distil_*


class Target(str, Enum):
    """What the network predicts."""

    V = "v_prediction"
    EPSILON = "epsilon"
    SAMPLE = "sample"


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
        _check(self.steps, self.guidance)
        if self.eta != 0 and self.sampler is not Sampler.DDIM:
            raise ValueError(
                f"eta={self.eta} needs sampler ddim, and sampler {Sampler(self.sampler).value} has none: leave eta "
                "out, make it null, or choose ddim (preset=paper sets an eta for each stage)"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: a share of fresh noise, from 0 to 1")
        if Sampler(self.sampler) is Sampler.LCM and self.steps > MOST_LCM_STEPS:
            raise ValueError(f"sampling steps: {self.steps}; sampler lcm takes at most {MOST_LCM_STEPS}")


@dataclass(kw_only=True, slots=True)
class PredictionSamplingConfig(SamplingConfig):
    """How given frames are continued."""

    last_guidance: float | None = None  # guidance of a clip's last frame, reached evenly; None = that of the first
    told_guidance: float | None = None  # of clips that are told how the ego car drives; None = as of the others
    context_noise: int = 0  # diffusion step to which given frames are noised; for models trained on such frames

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)  # slots make another class of this one: super() would not find it
        _check(None, self.last_guidance)
        _check(None, self.told_guidance)
        _check_noise(self.context_noise)


@dataclass(kw_only=True, slots=True)
class TextSamplingConfig(SamplingConfig):
    """How a stage of text-to-video is sampled."""

    deep_every: int = 1  # steps from one whole network call to the next; those between reuse its deep levels. 1 = none

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        _check_reuse(self.deep_every)


@dataclass(kw_only=True, slots=True)
class KeyFrameSamplingConfig(TextSamplingConfig):
    """How key frames are sampled."""

    # How strongly a start frame leads the others (weight of reconstruction guidance); 0 = not at all, a third of the
    # time. What weights of 0 to 20 do to the shipped model's first step: evaluation/toytown_text.
    start_weight: float = 10.0

    def __post_init__(self) -> None:
        TextSamplingConfig.__post_init__(self)
        _check_start(self.start_weight)


def as_facts(sampling: SamplingConfig) -> dict[str, Any]:
    """Plain keys and values, as they stand in a model's index."""
    return asdict(sampling) | {"sampler": Sampler(sampling.sampler).value}


@dataclass(kw_only=True, slots=True)
class SamplerOverrides:
    """What to sample otherwise than a model does by itself."""

    sampler: Sampler | None = None  # which sampler; None = the model's own
    steps: int | None = None  # network calls of one sample; None = the model's own
    eta: float | None = None  # share of fresh noise a step; None = the model's own, 0 for samplers that read none
    guidance: float | None = None  # scale of guidance, 1 = none; None = the model's own

    def __post_init__(self) -> None:
        _check(self.steps, self.guidance)

    def over(self, own: AnySampling) -> AnySampling:
        """A model's own sampling with these fields in place of its own.

        Raises:
            ValueError: an eta for a sampler that reads none.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("sampler", own.sampler) is not Sampler.DDIM:
            given.setdefault("eta", 0.0)  # the model's own belongs to its own sampler
        return replace(own, **given)


@dataclass(kw_only=True, slots=True)
class PredictionOverrides(SamplerOverrides):
    """What to predict otherwise than a model does by itself."""

    last_guidance: float | None = None  # guidance of a clip's last frame; None = the model's own
    told_guidance: float | None = None  # of clips that are told how the ego car drives; None = the model's own
    context_noise: int | None = None  # step to which given frames are noised; None = the model's own

    def __post_init__(self) -> None:
        SamplerOverrides.__post_init__(self)
        _check(None, self.last_guidance)
        _check(None, self.told_guidance)
        _check_noise(self.context_noise or 0)


@dataclass(kw_only=True, slots=True)
class TextOverrides(SamplerOverrides):
    """What to sample otherwise than a stage of a text-to-video model does by itself."""

    deep_every: int | None = None  # steps from one whole network call to the next; None = the model's own

    def __post_init__(self) -> None:
        SamplerOverrides.__post_init__(self)
        _check_reuse(1 if self.deep_every is None else self.deep_every)


@dataclass(kw_only=True, slots=True)
class KeyFrameOverrides(TextOverrides):
    """What to sample otherwise than a text-to-video model's key frames by themselves."""

    start_weight: float | None = None  # how strongly a start frame leads, 0 = not at all; None = the model's own

    def __post_init__(self) -> None:
        TextOverrides.__post_init__(self)
        _check_start(self.start_weight or 0.0)


def _check_reuse(deep_every: int) -> None:
    """Raises ValueError for a number of steps that leads nowhere."""
    if deep_every < 1:
        raise ValueError(f"deep_every: {deep_every}, expected at least 1 (1 = every network call is whole)")


def _check_start(weight: float) -> None:
    """Raises ValueError for a weight that leads away from the start frame, or nowhere."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"start_weight: {weight}, expected a number from 0 on (0 = the start frame does not lead)")


def _check_noise(step: int) -> None:
    """Raises ValueError for a step before the first one."""
    if step < 0:
        raise ValueError(f"context_noise: {step}, expected a diffusion step, 0 = clean")


def _check(steps: int | None, guidance: float | None) -> None:
    """Raises ValueError for numbers that sample nothing; None passes."""
    if steps is not None and steps < 1:
        raise ValueError(f"sampling steps: {steps}, expected at least 1")
    if guidance is not None and guidance < 1:
        raise ValueError(f"guidance scale: {guidance}, expected at least 1 (1 = none)")
