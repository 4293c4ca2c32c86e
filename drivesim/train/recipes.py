"""What each training stage begins with, makes, and learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from drivesim.conditioning.driving import make_conditioner
from drivesim.conditioning.rate_label import RateLabel
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig
from drivesim.models.autoencoder import downsampling
from drivesim.models.build import (
    SpatialLayers,
    make_autoencoder,
    make_backbone,
    make_interpolation_stack,
    make_temporal_stack,
)
from drivesim.train.autoencoder import AutoencoderStage
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.interpolation import InterpolationStage
from drivesim.train.latent_ldm import ImageStage, PredictionStage
from drivesim.train.stage import Stage

Parts = dict[str, Any]  # of a model folder, by name


@dataclass(kw_only=True, slots=True, frozen=True)
class Recipe:
    """One stage."""

    needs: tuple[str, ...]  # parts that come from `init`, as they are
    trains: tuple[str, ...]  # parts that it makes and trains; what `warm_start` may hold
    make: Callable[[TrainConfig, Parts], Parts]  # fresh parts, given those of `init`
    stage: Callable[[TrainConfig, Parts], Stage]
    num_frames: Callable[[TrainConfig], int]  # of a training clip
    rates: Callable[[TrainConfig], list[float]]  # frame rates of training clips
    index: Callable[[TrainConfig], dict[str, Any]]  # facts that the exported model's index gets


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


def _make_prediction(config: TrainConfig, parts: Parts) -> Parts:
    made = {"temporal": make_temporal_stack(config.temporal, parts["backbone"])}
    if SpatialLayers(config.temporal.spatial) is SpatialLayers.SCRATCH:
        made |= {name: type(parts[name]).from_config(parts[name].config) for name in ("backbone", "conditioner")}
    return made


def _make_interpolation(config: TrainConfig, parts: Parts) -> Parts:
    settings = config.interpolation
    settings.check(config.fps)
    spatial = parts["temporal"].config.spatial
    if spatial != SpatialLayers.FROZEN.value:
        raise ValueError(
            f"init={config.init}: its image layers were trained with its prediction (temporal.spatial={spatial}); "
            "an interpolation needs those of an image model"
        )
    return {
        "interpolation": make_interpolation_stack(settings, parts["backbone"]),
        "rate_label": RateLabel(num_rates=len(settings.rates), dim=settings.label_dim),
    }


def _prediction_index(config: TrainConfig) -> dict[str, Any]:
    return {
        "fps": config.fps,
        "size_hw": list(config.size_hw),
        "num_given": max(config.prediction_loss.given),
        "design_sampling": _plain(config.design_sampling),
        "predict_sampling": _plain(config.predict_sampling),
    }


def _interpolation_index(config: TrainConfig) -> dict[str, Any]:
    return {"rates": config.interpolation.rates, "interpolate_sampling": _plain(config.interpolate_sampling)}


def _plain(sampling: SamplingConfig) -> dict[str, Any]:
    return asdict(sampling) | {"sampler": Sampler(sampling.sampler).value}


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
        index=lambda _: {},
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
        index=lambda _: {},
    ),
    StageName.PREDICTION: Recipe(
        needs=_IMAGE,
        trains=("temporal",),
        make=_make_prediction,
        stage=lambda config, parts: PredictionStage(
            parts, config.prediction_loss, config.predict_sampling, config.optim, config.seed
        ),
        num_frames=lambda config: config.temporal.num_frames,
        rates=lambda config: [config.fps],
        index=_prediction_index,
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
        index=_interpolation_index,
    ),
}


def trained_parts(config: TrainConfig) -> tuple[str, ...]:
    """The parts that a training makes and trains: its stage's, and the image layers where they are not frozen."""
    stage = StageName(config.stage)
    spatial = SpatialLayers(config.temporal.spatial).trained_parts if stage is StageName.PREDICTION else ()
    return RECIPES[stage].trains + spatial
