"""The numbers of the full-size recipes are those of the paper's Tables 6 and 8 (arXiv 2304.08818)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from drivesim.config import compose
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig, Target


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model was trained."""

    steps: int
    batch: int  # of one device
    devices: int
    rate: float


TRAININGS = {
    "driving/image": Training(steps=73_000, batch=40, devices=16, rate=1e-4),
    "driving/prediction": Training(steps=146_000, batch=9, devices=40, rate=1e-4),
    "driving/interpolation": Training(steps=42_000, batch=16, devices=24, rate=1e-4),
    "driving/video_decoder": Training(steps=41_000, batch=4, devices=8, rate=4e-5),
    "driving/image_upsampler": Training(steps=84_000, batch=4, devices=8, rate=1e-5),
    "driving/upsampler": Training(steps=84_000, batch=2, devices=8, rate=1e-4),
    "text/key_frames": Training(steps=402_000, batch=3, devices=256, rate=1e-4),
    "text/interpolation": Training(steps=95_000, batch=8, devices=128, rate=1e-4),
    "text/video_decoder": Training(steps=35_000, batch=1, devices=40, rate=4e-5),
    "text/upscaler": Training(steps=10_000, batch=8, devices=32, rate=1e-4),
    "text/dreambooth": Training(steps=800, batch=1, devices=1, rate=1e-6),
}

# Keys of a recipe -> what the paper has there. The key frames' "2" a second are 1.875, whose fourfolds are 7.5 and 30.
SETTINGS: dict[str, dict[str, object]] = {
    "driving/autoencoder": {
        "autoencoder.codebook_size": 16384,
        "autoencoder.block_out_channels": [128 * times for times in (1, 2, 2, 4)],
        "autoencoder.layers_per_block": 2,
        "autoencoder.latent_channels": 4,
        "autoencoder.attention_at_last_level": True,
    },
    "driving/image": {
        "backbone.block_out_channels": [224 * times for times in (1, 2, 2, 3, 4)],
        "backbone.attention": [False, True, True, True, False],
        "backbone.layers_per_block": 4,
        "backbone.channels_per_head": 32,
        "backbone.token_dim": 256,
        "image_loss.drop_labels": 0.1,
    },
    "driving/prediction": {
        "fps": 1.875,
        "temporal.num_frames": 10,
        "temporal.per_frame_alpha": True,
        "temporal.context_channels": 128,
        "prediction_loss.given": [0, 1, 2],
    },
    "driving/interpolation": {
        "fps": 1.875,
        "interpolation.num_frames": 5,
        "interpolation.rates": [7.5, 30.0],
        "interpolation.label_dim": 512,
        "interpolation.context_channels": 128,
    },
    "driving/video_decoder": {"video_decoder.num_frames": 6, "video_decoder.fps": 30.0},
    "driving/image_upsampler": {
        "upsampler.scale": 4,
        "upsampler.block_out_channels": [160 * times for times in (1, 2, 4, 4)],
        "upsampler.attention": [False, False, False, True],
        "upsampler.layers_per_block": 2,
        "upsampler.num_heads": 4,
        "upsampler.noise_level": 150,
        "upsampler_loss.max_noise_level": 250,
    },
    "driving/upsampler": {
        "fps": 4.0,
        "upsampler.noise_level": 150,
        "upsampler_temporal.num_frames": 8,
        "upsampler_temporal.context_channels": 128,
    },
    "text/key_frames": {"fps": 1.875, "text_temporal.num_frames": 8},
    "text/interpolation": {
        "fps": 1.875,
        "text_interpolation.num_frames": 5,
        "text_interpolation.rates": [7.5, 30.0],
        "text_interpolation.max_noise_level": 250,
    },
    "text/video_decoder": {"video_decoder.num_frames": 6, "video_decoder.fps": 30.0},
    "text/upscaler": {
        "crop.size_hw": [4 * 80, 4 * 80],
        "text_upscaler.num_frames": 8,
        "text_upscaler.context_channels": 128,
        "text_upscaler.max_noise_level": 250,
        "text_upscaler.noise_level": 30,
    },
    "text/dreambooth": {"dreambooth.num_class_pictures": 256},
}

IN_LATENTS = ScheduleConfig(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", target=Target.V)
IN_PIXELS = ScheduleConfig(beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", target=Target.V)
SCHEDULES = {  # text models have their checkpoint's
    "driving/image": IN_LATENTS,
    "driving/prediction": IN_LATENTS,
    "driving/interpolation": IN_LATENTS,
    "driving/image_upsampler": IN_PIXELS,
    "driving/upsampler": IN_PIXELS,
}

DRIVING_SAMPLING = {  # recipe and key -> steps, eta, guidance (None = the upsampler has none)
    ("driving/prediction", "predict_sampling"): (200, 1.0, 2.0),
    ("driving/interpolation", "interpolate_sampling"): (50, 0.0, 2.0),
    ("driving/upsampler", "upsample_sampling"): (50, 1.0, 1.0),
}
TEXT_SAMPLING = {
    "sampler": (250, 1.0, 8.0),
    "interpolate_sampler": (100, 1.0, 13.0),
    "upsample_sampler": (250, 1.0, 2.0),
}
PICTURE_HW = {"driving": [128, 256], "text": [320, 512], "text/dreambooth": [512, 512]}


def recipe(name: str) -> Any:
    return compose("train", [f"experiment={name}"])


def found(settings: object, key: str) -> object:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize("name", TRAININGS)
def test_steps_batch_devices_and_rate(name: str) -> None:
    settings = recipe(name)
    assert Training(
        steps=settings.trainer.max_steps,
        batch=settings.loader.batch_size * settings.trainer.accumulate,
        devices=settings.trainer.devices,
        rate=settings.optim.learning_rate,
    ) == TRAININGS[name]  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_sizes_rates_and_noise(name: str) -> None:
    settings = recipe(name)
    assert {key: found(settings, key) for key in SETTINGS[name]} == SETTINGS[name]
    assert settings.size_hw == PICTURE_HW.get(name, PICTURE_HW[name.split("/")[0]])


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_schedules(name: str) -> None:
    settings = recipe(name)
    assert settings.schedule == SCHEDULES[name]
    assert settings.schedule.num_steps == 1000


@pytest.mark.parametrize(("name", "key"), DRIVING_SAMPLING)
def test_sampling_of_driving_models(name: str, key: str) -> None:
    sampling: SamplingConfig = getattr(recipe(name), key)
    assert sampling.sampler == Sampler.DDIM
    assert (sampling.steps, sampling.eta, sampling.guidance) == DRIVING_SAMPLING[name, key]


def test_sampling_of_text_models() -> None:
    """Recipes sample in fewer steps; `preset=paper` of a rollout is the published sampling, with the same guidance."""
    settings: Any = compose("rollout", ["family=text", "preset=paper", "prompt=a street"])
    stages = {"sampler": settings.sampler, **{key: getattr(settings.stages, key) for key in list(TEXT_SAMPLING)[1:]}}
    for key, sampling in stages.items():
        assert sampling.sampler == Sampler.DDIM
        assert (sampling.steps, sampling.eta, sampling.guidance) == TEXT_SAMPLING[key]
    own = {
        "sampler": recipe("text/key_frames").design_sampling,
        "interpolate_sampler": recipe("text/interpolation").interpolate_sampling,
        "upsample_sampler": recipe("text/upscaler").upsample_sampling,
    }
    assert {key: sampling.guidance for key, sampling in own.items()} == {
        key: guidance for key, (_, _, guidance) in TEXT_SAMPLING.items()
    }
