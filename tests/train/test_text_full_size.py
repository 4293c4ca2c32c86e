"""The paper's text-to-video trainings at published size: every stage built without memory, and what it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from drivesim.config import compose
from drivesim.data.captions import texts_of
from drivesim.diffusion.settings import as_facts
from drivesim.families.text_parts import SAMPLINGS
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.recipes import RECIPES, trained_parts
from tests.models.test_temporal_stack import STABLE_DIFFUSION_1, STABLE_DIFFUSION_2, X4_UPSCALER
from tests.models.tiny_stable_diffusion import tiny_scheduler, tiny_tokenizer

# Millions of parameters that each stage trains: App. H.2.1, Table 8. The video decoder is ours to count: 49 M of Stable
# Diffusion's decoder and the layers over time. None = few.
TRAINED = {
    "image": 865, "key_frames": 656, "interpolation": 1521, "video_decoder": 113, "upscaler": 449,
    "distil_interpolation": 1521, "distil_upscaler": 473 + 449, "dreambooth": 860 + 123, "dreambooth_lora": None,
}  # fmt: skip
# Batch a GPU, GPUs, steps (Table 8, App. H).
LENGTHS = {
    "key_frames": (3, 256, 402_000),
    "interpolation": (8, 128, 95_000),
    "video_decoder": (1, 40, 35_000),
    "upscaler": (8, 32, 10_000),
    "dreambooth": (1, 1, 800),
}


@pytest.fixture(autouse=True)
def _on_no_device() -> Iterator[None]:
    with torch.device("meta"):
        yield


def checkpoint(stage: StageName, init: str) -> Parts:
    """The public checkpoint's parts by our names."""
    if stage in (StageName.TEXT_UPSCALER, StageName.DISTIL_UPSCALER):
        net, channels, width, layers = X4_UPSCALER, (128, 256, 512), 1024, 23
    elif "v1" in init:
        net, channels, width, layers = STABLE_DIFFUSION_1, (128, 256, 512, 512), 768, 12
    else:
        net, channels, width, layers = STABLE_DIFFUSION_2, (128, 256, 512, 512), 1024, 23
    autoencoder = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
    )
    text = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        vocab_size=49408,
    )  # fmt: skip
    return {
        "autoencoder": autoencoder,
        "backbone": UNet2DConditionModel(**net),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tiny_tokenizer(),
        "scheduler": tiny_scheduler("v2"),
        "low_res_scheduler": tiny_scheduler("upscaler"),
    }


def parts_of(config: TrainConfig) -> Parts:
    """What a stage begins with, and what it makes."""
    recipe = RECIPES[config.stage]
    parts = checkpoint(config.stage, config.init)
    if config.stage is StageName.DISTIL_INTERPOLATION:
        parts |= RECIPES[StageName.TEXT_INTERPOLATION].make(config, parts)
    if config.stage is StageName.DISTIL_UPSCALER:
        parts |= RECIPES[StageName.TEXT_UPSCALER].make(config, parts)
    parts = {name: part for name, part in parts.items() if name in recipe.needs}
    return parts | recipe.make(config, parts)


@pytest.mark.parametrize("name", TRAINED)
def test_every_full_size_training_is_built_and_trains_what_the_paper_says(name: str) -> None:
    config = compose("train", [f"experiment=text/{name}"])
    parts = parts_of(config)
    stage = RECIPES[config.stage].stage(config, parts)
    assert all(p.is_meta for p in stage.parameters())
    modules = [parts[part] for part in trained_parts(config)]
    trained = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad) / 1e6
    print(f"\n{name}: {trained:.1f} M trained, {TRAINED[name]} M published", end="")
    if TRAINED[name] is not None:
        assert trained == pytest.approx(TRAINED[name], rel=0.02)
    else:
        assert trained < 10
    batch = RECIPES[config.stage].example_batch(config, parts, is_training=True)
    if RECIPES[config.stage].learns_from_captions:
        assert len(texts_of(batch["caption_BL"])) == config.loader.batch_size


@pytest.mark.parametrize(("name", "length"), LENGTHS.items(), ids=str)
def test_full_size_trainings_are_as_long_and_wide_as_the_papers(name: str, length: tuple[int, int, int]) -> None:
    config = compose("train", [f"experiment=text/{name}"])
    assert (config.loader.batch_size, config.trainer.devices, config.trainer.max_steps) == length
    assert config.trainer.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("name", "stage"), [("key_frames", "key_frames"), ("interpolation", "interpolate"), ("upscaler", "upscale")]
)
def test_models_of_full_size_trainings_are_sampled_as_preset_fast(name: str, stage: str) -> None:
    config = compose("train", [f"experiment=text/{name}"])
    (facts,) = RECIPES[config.stage].index(config)["samplings"].values()
    assert facts.items() <= as_facts(SAMPLINGS[stage]).items()


def test_every_full_size_recipe_has_a_tiny_twin(repo_root: Path) -> None:
    full, tiny = (
        {p.stem for p in (repo_root / "conf" / "experiment" / f).glob("*.yaml")} for f in ("text", "toytown_text")
    )
    assert set(TRAINED) == full
    assert full - tiny == set()
