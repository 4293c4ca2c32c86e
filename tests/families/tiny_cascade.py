"""A tiny model folder with all five stages: the real classes, small, untrained, no weight zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from drivesim.conditioning.rate_label import RateLabel
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import ScheduleConfig
from drivesim.families.folder import load_parts, save_parts
from drivesim.models.build import InterpolationConfig, make_interpolation_stack
from drivesim.models.upsampler import (
    UpsamplerConfig,
    UpsamplerTemporalConfig,
    make_upsampler,
    make_upsampler_temporal,
)
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig
from tests.families.tiny_family import write_tiny_family

SAMPLING = {"sampler": "unipc", "steps": 1, "eta": 0.0, "guidance": 1.0}


def write_tiny_cascade(folder: Path, size_hw: tuple[int, int] = (32, 64)) -> Path:
    """Writes key frames at 1 fps, one pass to 2 fps, a video decoder and a 2x upsampler."""
    write_tiny_family(folder, size_hw=size_hw)
    old = load_parts(folder)
    small = UpsamplerConfig(
        scale=2, patch_px=2, block_out_channels=[8, 8], attention=[False, True], layers_per_block=1, num_heads=2,
        norm_num_groups=4, noise_level=20,
    )  # fmt: skip
    upsampler = make_upsampler(small, size_hw)
    parts: dict[str, Any] = {
        "interpolation": make_interpolation_stack(
            InterpolationConfig(num_frames=3, rates=[2.0], label_dim=8, context_channels=8, feed_forward_mult=1),
            old["backbone"],
        ),
        "rate_label": RateLabel(num_rates=1, dim=8),
        "video_decoder": VideoDecoder.for_autoencoder(
            old["autoencoder"], VideoDecoderConfig(levels=[True, False, False, False, True])
        ),
        "upsampler": upsampler,
        "upsampler_temporal": make_upsampler_temporal(
            UpsamplerTemporalConfig(num_frames=4, overlap=1, context_channels=4, feed_forward_mult=1), upsampler
        ),
    }
    generator = torch.Generator().manual_seed(5)
    for part in parts.values():
        for parameter in part.parameters():
            parameter.data = parameter.data + 0.02 * torch.randn(parameter.shape, generator=generator)
    linear = ScheduleConfig(beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")
    save_parts(folder, parts | {"upsampler_scheduler": training_schedule(linear)})
    path = folder / "model_index.json"
    added = {
        "fps": 1.0,
        "rates": [2.0],
        "interpolate_sampling": SAMPLING,
        "predict_sampling": SAMPLING,
        "design_sampling": SAMPLING,
        "video_decoder": {"fps": 2.0},
        "upsampler": {"scale": 2, "patch_px": 2, "detail_gain": None, "noise_level": 20},
        "upsampler_temporal": {"portion": 4, "overlap": 1},
        "upsample_sampling": SAMPLING,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | added))
    return folder
