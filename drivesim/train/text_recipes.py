"""What the training stages of the text family begin with, make, and learn from."""

from __future__ import annotations

from typing import Any

from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import as_facts
from drivesim.models.autoencoder import downsampling
from drivesim.models.build import make_backbone
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_build import make_text_encoder, make_tokenizer, without_shift
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.recipe import Recipe
from drivesim.train.stage import Stage
from drivesim.train.text_folders import TextBaseFolders, TextFolders
from drivesim.train.text_ldm import KeyFrameStage, TextImageStage

_CHECKPOINT = ("autoencoder", "backbone", "text_encoder", "tokenizer", "scheduler")


def _make_base(config: TrainConfig, parts: Parts) -> Parts:
    """A fresh text-to-image model in the latents of an autoencoder that Stable Diffusion's pipelines can use."""
    autoencoder = without_shift(parts["autoencoder"])
    f = downsampling(autoencoder)
    latent_hw = (config.size_hw[0] // f, config.size_hw[1] // f)
    tokenizer = make_tokenizer(config.text_encoder)
    return {
        "autoencoder": autoencoder,
        "backbone": make_backbone(config.backbone, autoencoder.config.latent_channels, latent_hw),
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


def _stage(kind: type, *trains: str) -> Any:
    def make(config: TrainConfig, parts: Parts) -> Stage:
        stage: Stage = kind(
            parts,
            trains,
            loss=config.text_loss,
            sampling=config.design_sampling,
            optim=config.optim,
            seed=config.seed,
        )
        return stage

    return make


def _index(config: TrainConfig) -> dict[str, Any]:
    return {
        "fps": config.fps,
        "size_hw": list(config.size_hw),
        "samplings": {"key_frames": as_facts(config.design_sampling)},
    }


TEXT_RECIPES: dict[StageName, Recipe] = {
    StageName.TEXT_BASE: Recipe(
        needs=("autoencoder",),
        trains=("backbone", "text_encoder"),
        make=_make_base,
        stage=_stage(TextImageStage, "backbone", "text_encoder"),
        num_frames=lambda _: 1,
        rates=lambda config: [config.fps],
        index=_index,
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
        index=_index,
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
        index=_index,
        learns_from_captions=True,
        folders=TextFolders(),
    ),
}
