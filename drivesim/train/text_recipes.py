"""What the training stages of the text family begin with, make, and learn from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivesim.conditioning.rate_label import RateLabel
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import as_facts
from drivesim.models.autoencoder import downsampling
from drivesim.models.build import check_rates, make_backbone, widened_input
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_build import make_text_encoder, make_tokenizer, without_shift
from drivesim.models.upsampler import COLOURS
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.consistency import InterpolationStudent, UpscalerStudent, as_teacher
from drivesim.train.dreambooth import ClassPictures, DreamBoothLoraStage, DreamBoothStage, make_lora
from drivesim.train.folders import Parts
from drivesim.train.recipe import Recipe
from drivesim.train.stage import Stage
from drivesim.train.text_folders import SubjectFolders, TextBaseFolders, TextFolders, TextStudentFolders
from drivesim.train.text_interpolation import TextInterpolationStage
from drivesim.train.text_ldm import KeyFrameStage, TextImageStage, TextStage
from drivesim.train.text_upscaler import TextImageUpscalerStage, TextUpscalerStage

UPSCALE = 4  # pixels of a large frame to one of a small one, a side
_INTERPOLATION = ("interpolation_unet", "interpolation", "rate_label")
_CHECKPOINT = ("autoencoder", "backbone", "text_encoder", "tokenizer", "scheduler")


def _make_base(config: TrainConfig, parts: Parts) -> Parts:
    """A fresh text-to-image model in the latents of an autoencoder that Stable Diffusion's pipelines can use."""
    autoencoder = without_shift(parts["autoencoder"])
    f = downsampling(autoencoder)
    latent_hw = (config.size_hw[0] // f, config.size_hw[1] // f)
    backbone = make_backbone(config.backbone, autoencoder.config.latent_channels, latent_hw)
    return {"autoencoder": autoencoder, "backbone": backbone} | _fresh_text_side(config)


def _make_image_upscaler(config: TrainConfig, parts: Parts) -> Parts:
    """The same as an x4 upscaler: its latents are of large frames, and as many as a small frame has pixels."""
    autoencoder = without_shift(parts["autoencoder"])
    if downsampling(autoencoder) != UPSCALE:
        raise ValueError(
            f"init={config.init}: its autoencoder makes pictures {downsampling(autoencoder)} times smaller; an x4 "
            f"upscaler needs {UPSCALE} times, such as autoencoder.block_out_channels=[16,32,64]"
        )
    (height, width), channels = config.size_hw, autoencoder.config.latent_channels
    levels = config.schedule.num_steps
    backbone = make_backbone(config.backbone, channels, (height, width), COLOURS, num_levels=levels)
    low = {"low_res_scheduler": training_schedule(config.schedule)}
    return {"autoencoder": autoencoder, "backbone": backbone} | _fresh_text_side(config) | low


def _fresh_text_side(config: TrainConfig) -> Parts:
    tokenizer = make_tokenizer(config.text_encoder)
    return {
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(config.text_encoder, tokenizer, config.backbone.token_dim),
        "scheduler": training_schedule(config.schedule),
    }


def _make_key_frames(config: TrainConfig, parts: Parts) -> Parts:
    own = config.text_temporal
    stack = TemporalStack.for_backbone(
        parts["backbone"],
        num_frames=own.num_frames,
        per_frame_alpha=False,
        cross_attention_dim=parts["text_encoder"].config.hidden_size,
        feed_forward_mult=own.feed_forward_mult,
    )
    return {"temporal": stack}


def _make_interpolation(config: TrainConfig, parts: Parts) -> Parts:
    """The image model's U-Net with a wider input, and temporal layers that are told text, rate and noise level."""
    own = config.text_interpolation
    check_rates(own.num_frames, own.rates, config.fps)
    unet, dim = widened_input(parts["backbone"]), parts["text_encoder"].config.hidden_size
    stack = TemporalStack.for_backbone(
        unet,
        num_frames=own.num_frames,
        per_frame_alpha=False,
        cross_attention_dim=dim,
        feed_forward_mult=own.feed_forward_mult,
        context_noise=own.max_noise_level,
    )
    label = RateLabel(num_rates=len(own.rates), dim=dim)
    return {"interpolation_unet": unet, "interpolation": stack, "rate_label": label}


def _make_upscaler(config: TrainConfig, parts: Parts) -> Parts:
    own = config.text_upscaler
    if parts["low_res_scheduler"] is None:
        raise ValueError(f"init={config.init}: no x4 upscaler: it has no low_res_scheduler")
    stack = TemporalStack.for_backbone(
        parts["backbone"],
        num_frames=own.num_frames,
        per_frame_alpha=False,
        context_in_channels=COLOURS,
        context_channels=own.context_channels,
        context_shortcut=True,
        cross_attention_dim=parts["text_encoder"].config.hidden_size,
        feed_forward_mult=own.feed_forward_mult,
    )
    return {"upscaler_temporal": stack}


def _make_dreambooth(config: TrainConfig, parts: Parts) -> Parts:
    """Pictures of the subject's class, which the stage has made by `init` itself, and keeps beside the other caches."""
    own, source, names = config.dreambooth, config.init, ("backbone", "text_encoder", "tokenizer", "scheduler")
    assert source is not None
    facts = [as_facts(config.design_sampling), own.class_prompt, config.seed, list(config.size_hw)]
    facts += [own.more_class_prompts] if own.more_class_prompts else []
    if parts["backbone"].device.type != "meta":
        facts.append(TextFolders().fingerprint(source, names))
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    f, channels = downsampling(parts["autoencoder"]), parts["backbone"].config.out_channels
    pictures = ClassPictures(
        config=own,
        shape=(channels, config.size_hw[0] // f, config.size_hw[1] // f),
        sampling=config.design_sampling,
        seed=config.seed,
        folder=Path(config.cache_dir) / f"class-{key[:16]}",
        load=lambda: TextFolders().load(source, names),
    )
    return {"class_pictures": pictures}


def _stage(kind: type[TextStage], *trains: str, sampling: str = "design_sampling", **more: Any) -> Any:
    """What makes a stage that trains these parts; `more` are functions of the config that give further settings."""

    def make(config: TrainConfig, parts: Parts) -> Stage:
        stage = kind(
            parts,
            trains,
            loss=config.text_loss,
            sampling=getattr(config, sampling),
            optim=config.optim,
            seed=config.seed,
            **{name: setting(config) for name, setting in more.items()},
        )
        if config.trainer.gradient_checkpointing:
            stage.enable_gradient_checkpointing()
        return stage

    return make


def _image_index(config: TrainConfig) -> dict[str, Any]:
    return {"size_hw": list(config.size_hw), "samplings": {"key_frames": as_facts(config.design_sampling)}}


def _upscaler_index(config: TrainConfig) -> dict[str, Any]:
    own = config.text_upscaler
    return {
        "upscaling": {"overlap": own.overlap, "noise_level": own.noise_level},
        "samplings": {"upscale": as_facts(config.upsample_sampling)},
    }


_INTERPOLATION_RECIPE = Recipe(
    needs=_CHECKPOINT,
    trains=_INTERPOLATION,
    make=_make_interpolation,
    stage=_stage(TextInterpolationStage, *_INTERPOLATION, sampling="interpolate_sampling"),
    num_frames=lambda config: config.text_interpolation.num_frames,
    rates=lambda config: config.text_interpolation.rates,
    index=lambda config: {
        "rates": config.text_interpolation.rates,
        "samplings": {"interpolate": as_facts(config.interpolate_sampling)},
    },
    learns_from_captions=True,
    folders=TextFolders(),
)

_UPSCALER_RECIPE = Recipe(
    needs=(*_CHECKPOINT, "low_res_scheduler"),
    trains=("upscaler_temporal",),
    make=_make_upscaler,
    stage=_stage(
        TextUpscalerStage,
        "upscaler_temporal",
        sampling="upsample_sampling",
        max_noise_level=lambda config: config.text_upscaler.max_noise_level,
    ),
    num_frames=lambda config: config.text_upscaler.num_frames,
    rates=lambda config: [config.fps],
    index=_upscaler_index,
    learns_from_pictures=True,
    learns_from_captions=True,
    scale=lambda _: UPSCALE,
    align_px=lambda config, parts: downsampling(parts["autoencoder"]),
    folders=TextFolders("upscaler"),
)

TEXT_RECIPES: dict[StageName, Recipe] = {
    StageName.TEXT_BASE: Recipe(
        needs=("autoencoder",),
        trains=("backbone", "text_encoder"),
        replaces=("autoencoder",),
        make=_make_base,
        stage=_stage(TextImageStage, "backbone", "text_encoder"),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=_image_index,
        learns_from_captions=True,
        folders=TextBaseFolders(),
    ),
    StageName.TEXT_IMAGE: Recipe(
        needs=_CHECKPOINT,
        trains=("backbone",),
        make=lambda *_: {},
        stage=_stage(TextImageStage, "backbone"),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=_image_index,
        learns_from_captions=True,
        folders=TextFolders(),
    ),
    StageName.TEXT_KEY_FRAMES: Recipe(
        needs=_CHECKPOINT,
        trains=("temporal",),
        make=_make_key_frames,
        stage=_stage(KeyFrameStage, "temporal"),
        num_frames=lambda config: config.text_temporal.num_frames,
        rates=lambda config: [config.fps],
        index=lambda config: {"fps": config.fps} | _image_index(config),
        learns_from_captions=True,
        folders=TextFolders(),
    ),
    StageName.TEXT_INTERPOLATION: _INTERPOLATION_RECIPE,
    StageName.TEXT_IMAGE_UPSCALER: replace(
        _UPSCALER_RECIPE,
        needs=("autoencoder",),
        trains=("backbone", "text_encoder"),
        replaces=("autoencoder",),
        make=_make_image_upscaler,
        stage=_stage(
            TextImageUpscalerStage,
            "backbone",
            "text_encoder",
            sampling="upsample_sampling",
            max_noise_level=lambda config: config.text_upscaler.max_noise_level,
        ),
        num_frames=lambda _: 1,
        folders=TextBaseFolders("upscaler"),
    ),
    StageName.TEXT_UPSCALER: _UPSCALER_RECIPE,
    StageName.DREAMBOOTH: Recipe(
        needs=_CHECKPOINT,
        trains=("backbone", "text_encoder"),
        make=_make_dreambooth,
        stage=_stage(DreamBoothStage, "backbone", "text_encoder", config=lambda config: config.dreambooth),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=lambda _: {},
        learns_from_captions=True,
        folders=SubjectFolders(),
    ),
    StageName.DREAMBOOTH_LORA: Recipe(
        needs=_CHECKPOINT,
        trains=("lora",),
        make=lambda config, parts: {
            **_make_dreambooth(config, parts),
            "lora": make_lora(parts, config.dreambooth),
        },
        stage=_stage(DreamBoothLoraStage, "lora", config=lambda config: config.dreambooth),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=lambda _: {},
        learns_from_captions=True,
        folders=SubjectFolders(),
    ),
    StageName.DISTIL_INTERPOLATION: replace(
        _INTERPOLATION_RECIPE,
        needs=(*_CHECKPOINT, *_INTERPOLATION),
        make=lambda _, parts: {"teacher": as_teacher(parts, _INTERPOLATION)},
        stage=_stage(
            InterpolationStudent,
            *_INTERPOLATION,
            sampling="interpolate_sampling",
            config=lambda config: config.consistency,
        ),
        index=lambda config: {"samplings": {"interpolate": as_facts(config.interpolate_sampling)}},
        folders=TextStudentFolders(),
    ),
    StageName.DISTIL_UPSCALER: replace(
        _UPSCALER_RECIPE,
        needs=(*_CHECKPOINT, "low_res_scheduler", "upscaler_temporal"),
        trains=("backbone", "upscaler_temporal"),
        make=lambda _, parts: {"teacher": as_teacher(parts, ("backbone", "upscaler_temporal"))},
        stage=_stage(
            UpscalerStudent,
            "backbone",
            "upscaler_temporal",
            sampling="upsample_sampling",
            config=lambda config: config.consistency,
            max_noise_level=lambda config: config.text_upscaler.max_noise_level,
        ),
    ),
}
