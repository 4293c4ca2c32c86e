"""A tiny text-to-video model with all stages, of the public models' own classes, written as a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from drivesim.conditioning.rate_label import RateLabel
from drivesim.families.folder import save_parts, write_index
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import TextToImage, save_text_to_image
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig
from tests.models.tiny_stable_diffusion import LATENT_CHANNELS, tiny_text_to_image

SIZE_HW = (16, 32)  # before upscaling; 4 times as high and wide after it
KEY_FPS, RATES = 1.0, [2.0, 4.0]
KEY_FRAMES, PORTION = 3, 4
SAMPLING = {"sampler": "dpm_solver", "steps": 2, "eta": 0.0, "guidance": 3.0, "deep_every": 1}


def write_tiny_text(folder: Path, kind: str = "v1", *, stages: bool = True) -> Path:
    """Writes the model: key frames alone, or with interpolation, video decoder and upscaler."""
    image = tiny_text_to_image(kind, seed=1)
    save_text_to_image(image, folder / "image")
    parts: dict[str, object] = {"temporal": shaken(_stack(image.unet, image, num_frames=KEY_FRAMES))}
    index = {
        "family": "text", "name": "tiny", "fps": KEY_FPS, "size_hw": list(SIZE_HW),
        "samplings": dict.fromkeys(("key_frames", "interpolate", "upscale"), SAMPLING),
    }  # fmt: skip
    if stages:
        index["rates"] = RATES
        unet = _interpolation_unet(image)
        width = image.text_encoder.config.hidden_size
        config = VideoDecoderConfig(levels=[True, False, True], num_frames=4, fps=RATES[-1])
        upscaler = tiny_text_to_image("upscaler", seed=2)
        save_text_to_image(upscaler, folder / "upscaler")
        parts |= {
            "interpolation_unet": unet,
            "interpolation": shaken(_stack(unet, image, num_frames=3)),
            "rate_label": shaken(RateLabel(num_rates=2, dim=width)),
            "video_decoder": shaken(VideoDecoder.for_autoencoder(image.vae, config), of="temporal"),
            "upscaler_temporal": shaken(_stack(upscaler.unet, upscaler, num_frames=PORTION, context_in_channels=3)),
        }
    save_parts(folder, parts)
    write_index(folder, index)
    return folder


def _stack(unet: UNet2DConditionModel, image: TextToImage, **more: int) -> TemporalStack:
    return TemporalStack.for_backbone(
        unet, per_frame_alpha=False, cross_attention_dim=image.text_encoder.config.hidden_size,
        context_channels=4, feed_forward_mult=1, **more,
    )  # fmt: skip


def _interpolation_unet(image: TextToImage) -> UNet2DConditionModel:
    config = {key: value for key, value in image.unet.config.items() if not key.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return UNet2DConditionModel(**config | {"in_channels": 2 * LATENT_CHANNELS + 1}).eval()


def shaken(part: torch.nn.Module, of: str = "") -> torch.nn.Module:
    """Random weights in place of fresh ones, which change nothing."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in part.named_parameters():
        if name.startswith(of):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return part.eval()
