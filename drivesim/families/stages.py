"""Which stages of a model's cascade run, and how; light to import, unlike the stages themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from drivesim.diffusion.settings import SamplerOverrides, TextOverrides


class Upsampling(str, Enum):
    """How frames are made larger."""

    VIDEO = "video"  # portions of frames, with layers over time where the model has them
    IMAGE = "image"  # every frame by itself, as in the paper's comparison
    NONE = "none"  # frames stay as they are decoded


@dataclass(kw_only=True, slots=True)
class StagesConfig:
    """Stages behind the prediction. A model without one of them does without it."""

    interpolate: bool = True  # False = key frames are the video; the video decoder, made for its rate, is left out too
    video_decoder: bool = True  # False = the image decoder, frame by frame
    upsampling: Upsampling = Upsampling.VIDEO  # how frames are made larger
    interpolate_sampler: SamplerOverrides = field(default_factory=SamplerOverrides)  # of interpolation
    upsample_sampler: SamplerOverrides = field(default_factory=SamplerOverrides)  # of upsampling

    def kept(self, index: dict[str, Any]) -> dict[str, Any]:
        """The facts of a model, what `families.folder.read_index` gives, without those of stages that are left out."""
        left_out = {
            "rates": not self.interpolate,
            "interpolate_sampling": not self.interpolate,
            "video_decoder": not (self.video_decoder and (self.interpolate or "rates" not in index)),
            "upsampler": self.upsampling is Upsampling.NONE,
            "upsample_sampling": self.upsampling is Upsampling.NONE,
            "upsampler_temporal": self.upsampling is not Upsampling.VIDEO,
        }
        return {key: fact for key, fact in index.items() if not left_out.get(key, False)}

    def samplers(self) -> dict[str, SamplerOverrides]:
        """What to sample otherwise than the model, by key of its index."""
        return {"interpolate_sampling": self.interpolate_sampler, "upsample_sampling": self.upsample_sampler}


@dataclass(kw_only=True, slots=True)
class TextStagesConfig:
    """Stages behind the key frames of a text-to-video model. A model without one of them does without it."""

    interpolate: bool = True  # False = key frames are the video; the video decoder, made for its rate, is left out too
    video_decoder: bool = True  # False = the image decoder, frame by frame
    upsampling: Upsampling = Upsampling.VIDEO  # how frames are made larger
    interpolate_sampler: TextOverrides = field(default_factory=TextOverrides)  # of interpolation
    upsample_sampler: TextOverrides = field(default_factory=TextOverrides)  # of the upscaler

    def kept(self, index: dict[str, Any]) -> dict[str, Any]:
        """The facts of a model, with None in place of those of stages that are left out."""
        left_out = {
            "rates": not self.interpolate,
            "video_decoder": not (self.video_decoder and (self.interpolate or not index.get("rates"))),
            "upscaler": self.upsampling is Upsampling.NONE,
            "upscaler_temporal": self.upsampling is not Upsampling.VIDEO,
        }
        return index | {key: None for key, is_out in left_out.items() if is_out}
