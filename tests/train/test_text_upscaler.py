"""An x4 upscaler of the text family from nothing, layers over time in it, and the whole model that comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.data.source import ClipSource
from drivesim.diffusion.settings import SamplingConfig
from drivesim.families.text import TextModel
from drivesim.models.build import AutoencoderConfig
from drivesim.models.text_to_image import load_text_to_image
from drivesim.simulator import Simulator
from drivesim.train.config import StageName
from drivesim.train.fit import fit
from drivesim.train.recipes import RECIPES
from tests.models.tiny_stable_diffusion import tiny_vae
from tests.train.test_fit import config as driving_config
from tests.train.test_fit import weights
from tests.train.test_text_stages import SIZE_HW, config
from tests.train.test_text_stages import source as source

CHEAP = SamplingConfig(steps=2)


def coder_of(levels: int, cache: Path, source: ClipSource, out: Path) -> Path:
    settings = driving_config(StageName.AUTOENCODER, cache, max_steps=1)
    channels = [8, 8, 16, 16][:levels]
    settings.autoencoder = AutoencoderConfig(
        block_out_channels=channels, layers_per_block=1, latent_channels=4, norm_num_groups=4
    )
    return fit(settings, source, out)


@pytest.fixture(scope="module")
def upscaler(source: ClipSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small upscaler of single frames."""
    root = tmp_path_factory.mktemp("runs")
    init = coder_of(3, root / "cache", source, root / "autoencoder")
    settings = config(StageName.TEXT_IMAGE_UPSCALER, root / "cache", init, upsample_sampling=CHEAP)
    return fit(settings, source, root / "image_upscaler")


def test_it_has_the_architecture_of_the_public_one(upscaler: Path) -> None:
    made = load_text_to_image(upscaler / "upscaler")
    made.check("made here")
    assert made.is_upscaler
    assert (made.unet.config.in_channels, made.unet.config.num_class_embeds) == (7, 1000)
    assert not made.vae.config.shift_factor
    index = json.loads((upscaler / "model_index.json").read_text())
    assert (index["family"], index["upscaling"]["noise_level"]) == ("text", 30)


def test_with_key_frames_joined_it_is_a_model_with_all_stages_that_rolls_out(
    upscaler: Path, source: ClipSource, tmp_path: Path
) -> None:
    driving = coder_of(2, tmp_path / "cache", source, tmp_path / "autoencoder")
    cache, more = tmp_path / "cache", {"design_sampling": CHEAP, "interpolate_sampling": CHEAP}
    base = fit(config(StageName.TEXT_BASE, cache, driving, 1, fps=2.0, **more), source, tmp_path / "base")
    stages = (StageName.TEXT_KEY_FRAMES, StageName.TEXT_INTERPOLATION)
    joins = [str(fit(config(name, cache, base, 1, fps=2.0, **more), source, tmp_path / name.value)) for name in stages]
    settings = config(StageName.TEXT_UPSCALER, cache, upscaler, joins=joins, upsample_sampling=CHEAP)
    model = fit(settings, source, tmp_path / "upscaler")

    assert weights(model / "upscaler") == weights(upscaler / "upscaler"), "the image upscaler is frozen"
    frames = np.concatenate(list(Simulator.from_pretrained(model).rollout(prompt="a car at night", seed=1)))
    keys = TextModel.from_pretrained(model).num_frames
    assert frames.shape == (2 * (keys - 1) + 1, 4 * SIZE_HW[0], 4 * SIZE_HW[1], 3)


def test_an_autoencoder_of_another_factor_is_refused(source: ClipSource, tmp_path: Path) -> None:
    eight = coder_of(4, tmp_path / "cache", source, tmp_path / "autoencoder")
    settings = config(StageName.TEXT_IMAGE_UPSCALER, tmp_path / "cache", eight)
    with pytest.raises(ValueError, match=r"autoencoder makes pictures 8 times smaller; an x4 upscaler needs 4 times"):
        fit(settings, source, tmp_path / "upscaler")


def test_its_prediction_depends_on_the_small_frame_its_noise_and_the_caption(tmp_path: Path) -> None:
    settings = config(StageName.TEXT_IMAGE_UPSCALER, tmp_path, Path("nowhere"))
    recipe = RECIPES[StageName.TEXT_IMAGE_UPSCALER]
    torch.manual_seed(0)
    parts = {"autoencoder": tiny_vae("upscaler")}
    parts |= recipe.make(settings, parts)
    stage = recipe.stage(settings, parts)
    drawn = torch.Generator().manual_seed(0)
    noisy, low = (torch.randn(1, 1, channels, 8, 8, generator=drawn) for channels in (4, 3))
    given = {"low": low, "level": torch.tensor([0]), "text": "a car"}

    def predicted(**changed: object) -> torch.Tensor:
        told = given | changed
        tokens = stage.tokens([told["text"]])
        return stage.predict(noisy, torch.tensor([500]), tokens, told["low"], told["level"])

    own = predicted()
    assert own.shape == noisy.shape
    for name, other in {"low": -low, "level": torch.tensor([200]), "text": "night"}.items():
        assert not torch.equal(predicted(**{name: other}), own), name
    own.square().mean().backward()
    untouched = [name for name, weight in stage.trained.named_parameters() if weight.grad is None]
    assert untouched == []
