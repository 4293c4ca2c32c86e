"""Every training stage of the text family at tiny size, with a model to begin with that was made, not trained."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from drivesim.data.batches import CropConfig
from drivesim.diffusion.settings import Sampler, SamplingConfig
from drivesim.families.folder import save_parts, write_index
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.initial_parts import initial_parts
from drivesim.train.recipes import RECIPES, made_parts, trained_parts
from drivesim.train.text_config import TextInterpolationConfig
from tests.families.tiny_text import shaken
from tests.models.tiny_stable_diffusion import save_tiny, tiny_vae
from tests.train.test_text_stages import config

STAGES = [stage for stage in StageName if stage.is_text]
SUBJECTS = (StageName.DREAMBOOTH, StageName.DREAMBOOTH_LORA)  # learned from pictures, not from clips
_TEACHERS = {
    StageName.DISTIL_INTERPOLATION: StageName.TEXT_INTERPOLATION,
    StageName.DISTIL_UPSCALER: StageName.TEXT_UPSCALER,
}
KEY_FPS, RATES = 1.0, [2.0, 4.0]


@dataclass(kw_only=True, slots=True, frozen=True)
class Beginnings:
    """Folders that trainings begin with."""

    checkpoint: Path  # a text-to-image checkpoint
    upscaler: Path  # an x4 upscaler's
    half: Path  # a driving model's autoencoder, to half of each side
    quarter: Path  # the same to a quarter
    teachers: Path  # models that students of theirs begin with, by stage

    @classmethod
    def under(cls, root: Path) -> Beginnings:
        """Where `write` puts them."""
        return cls(**{field.name: root / field.name for field in fields(cls)})

    @classmethod
    def write(cls, root: Path) -> Beginnings:
        """Writes all of them."""
        begin = cls.under(root)
        save_tiny(begin.checkpoint, "v2")
        save_tiny(begin.upscaler, "upscaler")
        _write_coder(begin.half, "v2")
        _write_coder(begin.quarter, "upscaler")
        for stage in _TEACHERS.values():
            made = settings(stage, begin, root)
            recipe, parts = RECIPES[stage], initial_parts(made)
            folder = begin.teachers / stage.value
            for name in trained_parts(made):
                shaken(parts[name])  # fresh layers over time would teach nothing
            recipe.folders.export(made, made_parts(made, parts), trained_parts(made), recipe.facts(made, parts), folder)
        return begin

    def of(self, stage: StageName) -> Path:
        """What a stage's training begins with."""
        if stage in _TEACHERS:
            return self.teachers / _TEACHERS[stage].value
        others = {
            StageName.TEXT_BASE: self.half,
            StageName.TEXT_IMAGE_UPSCALER: self.quarter,
            StageName.TEXT_UPSCALER: self.upscaler,
        }
        return others.get(stage, self.checkpoint)


def _write_coder(folder: Path, kind: str) -> None:
    save_parts(folder, {"autoencoder": tiny_vae(kind)})
    write_index(folder, {"name": "tiny"})


def settings(stage: StageName, begin: Beginnings, cache: Path, max_steps: int = 2) -> TrainConfig:
    """A training of that stage."""
    made = config(stage, cache, begin.of(stage), max_steps)
    made.text_interpolation = TextInterpolationConfig(num_frames=3, rates=RATES, feed_forward_mult=1)
    if "interpolation" in stage.value:
        made.fps = KEY_FPS
    if stage in _TEACHERS:
        made.interpolate_sampling = made.upsample_sampling = SamplingConfig(sampler=Sampler.LCM, steps=2)
    if stage is StageName.TEXT_VIDEO_DECODER:
        made.crop = CropConfig()
    if stage in SUBJECTS:
        made.fps = made.cache_fps = 1.0
    return made
