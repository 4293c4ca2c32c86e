"""What each training stage begins with, makes, and learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivesim.conditioning.driving import make_conditioner
from drivesim.conditioning.rate_label import RateLabel
from drivesim.diffusion.schedule import training_schedule
from drivesim.models.autoencoder import downsampling
from drivesim.models.build import make_autoencoder, make_backbone, make_interpolation_stack, make_temporal_stack
from drivesim.train.autoencoder import AutoencoderStage
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.interpolation import InterpolationStage
from drivesim.train.latent_ldm import ImageStage, PredictionStage
from drivesim.train.stage import Stage

Parts = dict[str, Any]  # of a model folder, by name
Shapes = dict[str, tuple[int, int, int]]  # of what a clip's frames are, by name: channels, height, width
EXAMPLE_BOXES = 24  # of a busy frame


def _pictures(config: TrainConfig, _: Parts, is_training: bool) -> Shapes:
    crop_hw = config.crop.size_hw if is_training else []
    height, width = crop_hw or config.size_hw
    return {"frames": (3, height, width)}


def _latents(config: TrainConfig, parts: Parts, _: bool) -> Shapes:
    f = downsampling(parts["autoencoder"])
    channels = parts["autoencoder"].config.latent_channels
    return {"latents": (channels, config.size_hw[0] // f, config.size_hw[1] // f)}


@dataclass(kw_only=True, slots=True, frozen=True)
class Recipe:
    """One stage."""

    needs: tuple[str, ...]  # parts that come from `init`, as they are
    trains: tuple[str, ...]  # parts that it makes and trains; what `warm_start` may hold
    make: Callable[[TrainConfig, Parts], Parts]  # fresh parts, given those of `init`
    stage: Callable[[TrainConfig, Parts], Stage]
    num_frames: Callable[[TrainConfig], int]  # of a training clip
    rates: Callable[[TrainConfig], list[float]]  # frame rates of training clips
    clip: Callable[[TrainConfig, Parts, bool], Shapes] = _latents  # what it learns from; True = in training

    def example_batch(self, config: TrainConfig, parts: Parts, *, is_training: bool) -> dict[str, Tensor]:
        """A batch of the shapes and types that `data.batches.collate` gives, made on torch's default device.

        Args:
            config: the stage and its settings.
            parts: those of `init` and those that the stage makes.
            is_training: False = a batch of the validation.
        """
        b, t = config.loader.batch_size, self.num_frames(config)
        if not is_training:
            b = min(b, config.loader.num_val_items)
        shapes = self.clip(config, parts, is_training)
        return {
            **{f"{name}_BTCHW": torch.zeros(b, t, *shape) for name, shape in shapes.items()},
            "boxes_BTN4": torch.zeros(b, t, EXAMPLE_BOXES, 4),
            "classes_BTN": torch.zeros(b, t, EXAMPLE_BOXES, dtype=torch.int64),
            "num_cars_BT": torch.zeros(b, t, dtype=torch.int64),
            "is_night_B": torch.zeros(b, dtype=torch.int64),
            "has_boxes_B": torch.ones(b, dtype=torch.bool),
            "rate_B": torch.zeros(b, dtype=torch.int64),
        }


def _make_image(config: TrainConfig, parts: Parts) -> Parts:
    autoencoder = parts["autoencoder"]
    f = downsampling(autoencoder)
    latent_hw = (config.size_hw[0] // f, config.size_hw[1] // f)
    conditioner = make_conditioner(config.conditioner, config.backbone.token_dim)
    channels = autoencoder.config.latent_channels
    return {
        "backbone": make_backbone(config.backbone, channels, latent_hw, conditioner.num_channels),
        "conditioner": conditioner,
        "scheduler": training_schedule(config.schedule),
    }


def _make_interpolation(config: TrainConfig, parts: Parts) -> Parts:
    settings = config.interpolation
    settings.check(config.fps)
    return {
        "interpolation": make_interpolation_stack(settings, parts["backbone"]),
        "rate_label": RateLabel(num_rates=len(settings.rates), dim=settings.label_dim),
    }


_IMAGE = ("autoencoder", "backbone", "conditioner", "scheduler")

RECIPES: dict[StageName, Recipe] = {
    StageName.AUTOENCODER: Recipe(
        needs=(),
        trains=("autoencoder",),
        make=lambda config, _: {"autoencoder": make_autoencoder(config.autoencoder)},
        stage=lambda config, parts: AutoencoderStage(
            parts["autoencoder"], config.autoencoder_loss, config.optim, config.seed
        ),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        clip=_pictures,
    ),
    StageName.IMAGE: Recipe(
        needs=("autoencoder",),
        trains=("backbone", "conditioner"),
        make=_make_image,
        stage=lambda config, parts: ImageStage(
            parts, config.image_loss, config.design_sampling, config.optim, config.seed
        ),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
    ),
    StageName.PREDICTION: Recipe(
        needs=_IMAGE,
        trains=("temporal",),
        make=lambda config, parts: {"temporal": make_temporal_stack(config.temporal, parts["backbone"])},
        stage=lambda config, parts: PredictionStage(
            parts, config.prediction_loss, config.predict_sampling, config.optim, config.seed
        ),
        num_frames=lambda config: config.temporal.num_frames,
        rates=lambda config: [config.fps],
    ),
    StageName.INTERPOLATION: Recipe(
        needs=(*_IMAGE, "temporal"),
        trains=("interpolation", "rate_label"),
        make=_make_interpolation,
        stage=lambda config, parts: InterpolationStage(
            parts, config.interpolation_loss, config.interpolate_sampling, config.optim, config.seed
        ),
        num_frames=lambda config: config.interpolation.num_frames,
        rates=lambda config: config.interpolation.rates,
    ),
}
