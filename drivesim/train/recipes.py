"""What each training stage begins with, makes, and learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from drivesim.conditioning.driving import make_conditioner
from drivesim.conditioning.rate_label import RateLabel
from drivesim.core.run_folder import trained_in
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import as_facts
from drivesim.families.folder import blank_parts
from drivesim.models.autoencoder import downsampling
from drivesim.models.build import (
    SpatialLayers,
    make_autoencoder,
    make_backbone,
    make_interpolation_stack,
    make_temporal_stack,
)
from drivesim.models.upsampler import Upsampler, make_upsampler, make_upsampler_temporal
from drivesim.models.video_decoder import VideoDecoder
from drivesim.train.autoencoder import AutoencoderStage
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.interpolation import InterpolationStage
from drivesim.train.latent_ldm import ImageStage, PredictionStage
from drivesim.train.recipe import Recipe
from drivesim.train.text_folders import TextFolders
from drivesim.train.text_recipes import TEXT_RECIPES
from drivesim.train.upsampler import UpsamplerStage, check_crop
from drivesim.train.video_decoder import VideoDecoderStage


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
    _check_image_layers(config)
    return {
        "interpolation": make_interpolation_stack(settings, parts["backbone"]),
        "rate_label": RateLabel(num_rates=len(settings.rates), dim=settings.label_dim),
    }


def _check_image_layers(config: TrainConfig) -> None:
    """Raises ValueError where a prediction in `init` has changed the image layers."""
    folder = None if config.init is None else trained_in(Path(config.init))
    if folder is None or not (folder / "temporal").is_dir():
        return
    spatial = blank_parts(folder, ["temporal"])["temporal"].config.spatial
    if spatial != SpatialLayers.FROZEN.value:
        raise ValueError(
            f"init={config.init}: its image layers were trained with its prediction (temporal.spatial={spatial}); "
            "an interpolation needs those of an image model"
        )


def _make_image_upsampler(config: TrainConfig, parts: Parts) -> Parts:
    _check_upsampler(config, parts)
    return {
        "upsampler": make_upsampler(config.upsampler, (config.size_hw[0], config.size_hw[1])),
        "upsampler_scheduler": training_schedule(config.schedule, ends_clean=True),
    }


def _make_upsampler(config: TrainConfig, parts: Parts) -> Parts:
    _check_upsampler(config, parts)
    own = config.upsampler
    networks = Upsampler(parts["upsampler"], None, scale=own.scale, detail_gain=own.detail_gain)
    if networks.patch_px != own.patch_px:
        raise ValueError(
            f"upsampler.patch_px={own.patch_px}, but the upsampler of init={config.init} was made for "
            f"{networks.patch_px}"
        )
    return {"upsampler_temporal": make_upsampler_temporal(config.upsampler_temporal, parts["upsampler"])}


def _check_upsampler(config: TrainConfig, parts: Parts) -> None:
    check_crop(config.crop.size_hw, config.upsampler, config.size_hw, _upsampler_grid_px(config, parts))


def _upsampler_grid_px(config: TrainConfig, parts: Parts) -> int:
    """Of small pixels, or of latents where small pictures come from the autoencoder."""
    through = config.upsampler_loss.through_autoencoder
    return config.upsampler.scale * (downsampling(parts["autoencoder"]) if through else 1)


def _upsampler_stage(config: TrainConfig, parts: Parts) -> UpsamplerStage:
    return UpsamplerStage(
        parts,
        config.upsampler,
        loss=config.upsampler_loss,
        sampling=config.upsample_sampling,
        optim=config.optim,
        seed=config.seed,
        fps=config.fps,
    )


def _image_upsampler_index(config: TrainConfig) -> dict[str, Any]:
    own = config.upsampler
    facts = {name: getattr(own, name) for name in ("scale", "patch_px", "detail_gain", "noise_level")}
    return {"upsampler": facts, "upsample_sampling": as_facts(config.upsample_sampling)}


def _upsampler_index(config: TrainConfig) -> dict[str, Any]:
    own = config.upsampler_temporal
    portions = {"portion": own.num_frames, "overlap": own.overlap}
    return _image_upsampler_index(config) | {"upsampler_temporal": portions}


def _prediction_index(config: TrainConfig) -> dict[str, Any]:
    return {
        "fps": config.fps,
        "size_hw": list(config.size_hw),
        "num_given": max(config.prediction_loss.given),
        "design_sampling": as_facts(config.design_sampling),
        "predict_sampling": as_facts(config.predict_sampling),
    }


def _interpolation_index(config: TrainConfig) -> dict[str, Any]:
    return {"rates": config.interpolation.rates, "interpolate_sampling": as_facts(config.interpolate_sampling)}


_IMAGE = ("autoencoder", "backbone", "conditioner", "scheduler")

_VIDEO_DECODER = Recipe(
    needs=("autoencoder",),
    trains=("video_decoder",),
    make=lambda config, parts: {
        "video_decoder": VideoDecoder.for_autoencoder(parts["autoencoder"], config.video_decoder)
    },
    stage=lambda config, parts: VideoDecoderStage(parts, config.video_decoder_loss, config.optim, config.seed),
    num_frames=lambda config: config.video_decoder.num_frames,
    rates=lambda config: [config.video_decoder.fps],
    index=lambda config: {"video_decoder": {"fps": config.video_decoder.fps}},
    learns_from_pictures=True,
)

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
        learns_from_pictures=True,
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
            parts, config.prediction_loss, config.predict_sampling, config.optim, config.seed, config.fps
        ),
        num_frames=lambda config: config.temporal.num_frames,
        rates=lambda config: [config.fps],
        index=_prediction_index,
    ),
    StageName.INTERPOLATION: Recipe(
        needs=_IMAGE,
        trains=("interpolation", "rate_label"),
        make=_make_interpolation,
        stage=lambda config, parts: InterpolationStage(
            parts, config.interpolation_loss, config.interpolate_sampling, config.optim, config.seed
        ),
        num_frames=lambda config: config.interpolation.num_frames,
        rates=lambda config: config.interpolation.rates,
        index=_interpolation_index,
    ),
    StageName.VIDEO_DECODER: _VIDEO_DECODER,
    StageName.IMAGE_UPSAMPLER: Recipe(
        needs=("autoencoder",),
        trains=("upsampler",),
        make=_make_image_upsampler,
        stage=_upsampler_stage,
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=_image_upsampler_index,
        learns_from_pictures=True,
        scale=lambda config: config.upsampler.scale,
        align_px=_upsampler_grid_px,
    ),
    StageName.UPSAMPLER: Recipe(
        needs=("autoencoder", "upsampler", "upsampler_scheduler"),
        trains=("upsampler_temporal",),
        make=_make_upsampler,
        stage=_upsampler_stage,
        num_frames=lambda config: config.upsampler_temporal.num_frames,
        rates=lambda config: [config.fps],
        index=_upsampler_index,
        learns_from_pictures=True,
        scale=lambda config: config.upsampler.scale,
        align_px=_upsampler_grid_px,
    ),
    **TEXT_RECIPES,
    StageName.TEXT_VIDEO_DECODER: replace(_VIDEO_DECODER, folders=TextFolders()),
}


def trained_parts(config: TrainConfig) -> tuple[str, ...]:
    """The parts that a training makes and trains: its stage's, and the image layers where they are not frozen."""
    stage = StageName(config.stage)
    spatial = SpatialLayers(config.temporal.spatial).trained_parts if stage is StageName.PREDICTION else ()
    return RECIPES[stage].trains + spatial


def made_parts(config: TrainConfig, parts: Parts) -> Parts:
    """Of a stage's parts those that its model folder gets from it; the others are kept as they lie in `init`."""
    recipe = RECIPES[StageName(config.stage)]
    kept = set(recipe.needs) - {*trained_parts(config), *recipe.replaces}
    return {name: part for name, part in parts.items() if name not in kept}
