"""What the text family's stages show their networks: captions left out, noise on given frames, the subject's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivesim.conditioning.given_frames import noised
from drivesim.config import compose
from drivesim.data.captions import collate_texts, text_bytes
from drivesim.train.config import StageName
from drivesim.train.dreambooth import DreamBoothConfig
from drivesim.train.initial_parts import initial_parts
from drivesim.train.recipes import RECIPES
from drivesim.train.text_config import TextInterpolationConfig, TextLossConfig
from drivesim.train.text_ldm import TextStage
from tests.models.tiny_stable_diffusion import save_tiny
from tests.train.test_text_stages import config

CAPTIONS = ["a car at night", "two cars by day"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: save_tiny(root / kind, kind) for kind in ("v2", "upscaler")}


def as_batch(texts: Sequence[str]) -> Tensor:
    return collate_texts([text_bytes(text) for text in texts])


def begun(name: StageName, checkpoints: dict[str, Path], **more: object) -> tuple[TextStage, dict[str, Tensor]]:
    """A stage before its first step, and a batch of random latents or pictures for it."""
    init = checkpoints["upscaler" if name is StageName.TEXT_UPSCALER else "v2"]
    if name is StageName.TEXT_INTERPOLATION:
        more["fps"] = 2.0
    settings = config(name, init.parent / "cache", init, **more)
    parts = initial_parts(settings)
    batch = RECIPES[name].example_batch(settings, parts, is_training=True)
    noise = torch.Generator().manual_seed(1)
    for field in ("latents_BTCHW", "frames_BTCHW"):
        if field in batch:
            batch[field] = torch.rand(batch[field].shape, generator=noise)
    return RECIPES[name].stage(settings, parts).eval(), batch | {"caption_BL": as_batch(CAPTIONS)}


def loss_of(stage: TextStage, batch: dict[str, Tensor], *captions: str) -> float:
    told = batch | {"caption_BL": as_batch(captions or CAPTIONS)}
    with torch.no_grad():
        return float(stage.loss(told, torch.Generator().manual_seed(2))["loss"])


@pytest.mark.parametrize(
    "name",
    [
        StageName.TEXT_IMAGE,
        StageName.TEXT_KEY_FRAMES,
        StageName.TEXT_INTERPOLATION,
        StageName.TEXT_UPSCALER,
    ],
)
def test_captions_left_out_are_the_empty_prompt_to_the_network(name: StageName, checkpoints: dict[str, Path]) -> None:
    """The branch without text that guidance needs."""
    stage, batch = begun(name, checkpoints)
    stage.text_loss = TextLossConfig(drop_text=0.0)
    kept, empty = loss_of(stage, batch), loss_of(stage, batch, "", "")
    assert kept != empty
    stage.text_loss = TextLossConfig(drop_text=1.0)
    assert loss_of(stage, batch) == empty


def test_as_many_captions_are_left_out_as_said(checkpoints: dict[str, Path]) -> None:
    stage, _ = begun(StageName.TEXT_IMAGE, checkpoints)
    stage.text_loss = TextLossConfig(drop_text=0.1)
    told = stage.captions({"caption_BL": as_batch(["a car"] * 4000)}, torch.Generator().manual_seed(0))
    assert set(told) == {"a car", ""}
    assert told.count("") / 4000 == pytest.approx(0.1, abs=0.02)


def test_given_frames_of_the_interpolation_are_noised_to_the_level_that_is_told(checkpoints: dict[str, Path]) -> None:
    most = 400
    own = TextInterpolationConfig(num_frames=3, rates=[4.0], feed_forward_mult=1, max_noise_level=most)
    stage, batch = begun(StageName.TEXT_INTERPOLATION, checkpoints, text_interpolation=own)
    seen: list[tuple[Tensor, Tensor]] = []
    predict = stage.predict

    def noted(noisy: Tensor, steps: Tensor, tokens: Tensor, shown: Tensor, rate: Tensor, level: Tensor) -> Tensor:
        seen.append((shown, level))
        return predict(noisy, steps, tokens, shown, rate, level)

    stage.predict = noted
    with torch.no_grad():
        for seed in range(6):
            stage.loss(batch, torch.Generator().manual_seed(seed))
    x = batch["latents_BTCHW"]
    levels = torch.cat([level for _, level in seen])
    assert 0 <= levels.min() < most / 2 < levels.max() <= most
    for shown, level in seen:
        clean = noised(x, level, torch.zeros_like(x), stage.schedule)
        for error, step in zip((shown - clean).square().mean((1, 2, 3, 4)), level.tolist(), strict=True):
            expected = 1 - stage.schedule.alphas_cumprod[step] if step else 0.0
            assert error == pytest.approx(float(expected), rel=0.5, abs=1e-9)


def test_pictures_of_the_class_are_told_by_the_prompt_that_they_were_made_from(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    own = DreamBoothConfig(class_prompt="a car", more_class_prompts=["night", "a car at night"], num_class_pictures=7)
    assert own.class_prompts([0, 1, 2, 3, 7]) == ["a car", "night", "a car at night", "a car", "night"]
    stage, batch = begun(StageName.DREAMBOOTH, checkpoints, dreambooth=own, cache_dir=str(tmp_path))
    made, seen = stage.class_pictures.latents("cpu"), []
    alone = replace(stage.class_pictures, config=DreamBoothConfig(class_prompt="night"), folder=tmp_path / "alone")
    torch.testing.assert_close(made[1], alone.made(alone.load(), range(1, 2))[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made[2], alone.made(alone.load(), range(2, 3))[0], rtol=1e-4, atol=1e-4)
    stage.class_latents = made
    predict = stage.predict

    def noted(noisy: Tensor, steps: Tensor, texts: list[str]) -> Tensor:
        seen.extend(texts[len(CAPTIONS) :])
        return predict(noisy, steps, texts)

    stage.predict = noted
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(4):
            stage.loss(batch, generator)
    chosen = torch.Generator().manual_seed(0)
    assert seen[: len(CAPTIONS)] == own.class_prompts(torch.randint(0, 7, (len(CAPTIONS),), generator=chosen).tolist())
    assert len(set(seen)) > 1
    plain, named = (
        begun(StageName.DREAMBOOTH, checkpoints, cache_dir=str(tmp_path), dreambooth=DreamBoothConfig(**more))[0]
        for more in ({}, {"more_class_prompts": ["night"]})
    )
    assert plain.class_pictures.folder != named.class_pictures.folder


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_dreambooth_weighs_the_error_of_its_class_beside_the_subjects(
    weight: float, checkpoints: dict[str, Path]
) -> None:
    """Prior preservation (Ruiz et al. 2022)."""
    stage, batch = begun(StageName.DREAMBOOTH, checkpoints)
    stage.config.prior_weight = weight
    stage.class_latents = torch.randn(3, *batch["latents_BTCHW"].shape[2:], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        made = stage.loss(batch, torch.Generator().manual_seed(2))
        stage.class_latents = 10 * stage.class_latents
        other = stage.loss(batch, torch.Generator().manual_seed(2))
    assert made["loss"] == pytest.approx(float(made["subject"] + weight * made["prior"]))
    assert other["prior"] != made["prior"]
    assert other["subject"] == pytest.approx(float(made["subject"]), rel=1e-5)


def test_the_full_size_upscaler_learns_from_pieces_of_80_x_80_latents() -> None:
    settings = compose("train", ["experiment=text/upscaler"])
    assert [side // 4 for side in settings.crop.size_hw] == [80, 80]  # its autoencoder makes a quarter of each side
