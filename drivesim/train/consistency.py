"""Few-step students of the interpolation and the upscaler: consistency distillation of what they sample in many steps.

The student, asked at a step, has to say what its own average says at the teacher's next step (Luo et al. 2023, alg. 1).
Axes: B samples.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.conditioning.given_frames import noised
from drivesim.diffusion.consistency import consistent, ddim_step, lcm_steps
from drivesim.diffusion.objective import add_noise, diffusion_loss
from drivesim.diffusion.sampling import Denoiser, Guidance
from drivesim.diffusion.settings import MOST_LCM_STEPS
from drivesim.models.autoencoder import encode_pictures
from drivesim.models.video_unet import VideoUNet
from drivesim.train.stage import Batch
from drivesim.train.text_interpolation import TextInterpolationStage
from drivesim.train.text_ldm import TextStage
from drivesim.train.text_upscaler import TextUpscalerStage


@dataclass(kw_only=True, slots=True)
class ConsistencyConfig:
    """What the teacher does."""

    guidance: float = 1.0  # of the teacher; the student then needs none

    def __post_init__(self) -> None:
        """Refuses numbers that teach nothing."""
        if self.guidance < 1:
            raise ValueError(f"consistency.guidance is {self.guidance}; it must be 1 (none) or more")


@dataclass(kw_only=True, slots=True)
class Lesson:
    """Student and teacher, both told the same conditions."""

    student: Denoiser
    teacher: Denoiser


def distillation_loss(stage: TextStage, lesson: Lesson, x: Tensor, generator: torch.Generator) -> Tensor:
    """How far the student is from its own average one step of the teacher further on.

    The teacher takes the steps that sampler lcm chooses from, so the student learns those it is sampled at, no others.

    Args:
        stage: its schedule and averaged weights are used.
        lesson: both networks.
        x: clean samples (B, ...).
        generator: of steps and noise.
    """
    schedule = stage.schedule
    number = torch.randint(1, MOST_LCM_STEPS + 1, (len(x),), generator=generator).to(x.device)
    steps, earlier = lcm_steps(number, schedule), lcm_steps(number - 1, schedule)
    noise = torch.randn(x.shape, generator=generator).to(x)
    noisy, _ = add_noise(x, noise, steps, schedule)
    with torch.no_grad():
        nearer = ddim_step(noisy, lesson.teacher(noisy, steps), steps, earlier, schedule)
        # Before the student's pass: its weights must not change between that and its gradients.
        with stage.ema.swapped_in():
            said = lesson.student(nearer, earlier.clamp(min=0))
        target = consistent(nearer, said, earlier, schedule)
    return diffusion_loss(consistent(noisy, lesson.student(noisy, steps), steps, schedule), target)


def as_teacher(parts: dict[str, Any], names: tuple[str, ...]) -> nn.ModuleDict:
    """Copies of the parts that a student begins as."""
    return nn.ModuleDict({name: copy.deepcopy(parts[name]) for name in names})


class InterpolationStudent(TextInterpolationStage):
    """Trains an interpolation to need few steps; parts: those of `TextInterpolationStage`, and their teacher."""

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], *, config: ConsistencyConfig, **settings: Any):
        super().__init__(parts, trains, **settings)
        self.config = config
        teacher = parts["teacher"]
        self.teacher = VideoUNet(teacher["interpolation_unet"], teacher["interpolation"])
        self.teacher_label = teacher["rate_label"]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The distillation's error for clips latents_BTCHW whose first and last frame are given."""
        x, rate = batch["latents_BTCHW"], batch["rate_B"]
        tokens, none = self.tokens(self.captions(batch, generator)), self.tokens([""] * len(x))
        most = self.video_unet.temporal.config.context_noise
        level = torch.randint(0, most + 1, (len(x),), generator=generator).to(x.device)
        shown = noised(x, level, torch.randn(x.shape, generator=generator).to(x), self.schedule)

        def denoiser(network: VideoUNet, label: nn.Module, told: Tensor) -> Denoiser:
            return lambda z, step: self.predict(z, step, told, shown, rate, level, network=network, label=label)

        teacher = Guidance(
            denoiser(self.teacher, self.teacher_label, tokens),
            denoiser(self.teacher, self.teacher_label, none),
            self.config.guidance,
        )
        lesson = Lesson(student=denoiser(self.video_unet, self.rate_label, tokens), teacher=teacher)
        return {"loss": distillation_loss(self, lesson, x, generator)}


class UpscalerStudent(TextUpscalerStage):
    """Trains an upscaler to need few steps; parts: those of `TextUpscalerStage`, and their teacher."""

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], *, config: ConsistencyConfig, **settings: Any):
        super().__init__(parts, trains, **settings)
        self.config = config
        self.teacher = VideoUNet(parts["teacher"]["backbone"], parts["teacher"]["upscaler_temporal"])

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The distillation's error for frames_BTCHW in [-1, 1]."""
        frames = batch["frames_BTCHW"]
        b, t = frames.shape[:2]
        x = encode_pictures(self.autoencoder, frames.flatten(0, 1)).unflatten(0, (b, t))
        noised_low, level = self.noised_small(frames, generator)
        tokens, none = self.tokens(self.captions(batch, generator)), self.tokens([""] * b)

        def denoiser(network: VideoUNet, told: Tensor) -> Denoiser:
            return lambda z, step: self.predict(z, step, told, noised_low, level, network=network)

        teacher = Guidance(denoiser(self.teacher, tokens), denoiser(self.teacher, none), self.config.guidance)
        lesson = Lesson(student=denoiser(self.video_unet, tokens), teacher=teacher)
        return {"loss": distillation_loss(self, lesson, x, generator)}
