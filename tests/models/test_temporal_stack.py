"""Temporal layers for the public text-to-image models: how many parameters, counted without memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from drivesim.conditioning.rate_label import RateLabel
from drivesim.families.text_published import STABLE_DIFFUSION_2, X4_UPSCALER
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig

# From the config.json of the public checkpoint; what is left out are the class's own defaults.
STABLE_DIFFUSION_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
INTERPOLATION = STABLE_DIFFUSION_2 | {"in_channels": 9}


@pytest.fixture(autouse=True)
def _on_no_device() -> Iterator[None]:
    with torch.device("meta"):
        yield


def autoencoder(*channels: int) -> AutoencoderKL:
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
    )


def stack_for(unet: UNet2DConditionModel, **more: int | bool) -> TemporalStack:
    return TemporalStack.for_backbone(
        unet, num_frames=8, per_frame_alpha=False, cross_attention_dim=unet.config.cross_attention_dim, **more
    )


def millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("config", "more", "published"),
    [
        (STABLE_DIFFUSION_1, {}, 649),
        (STABLE_DIFFUSION_2, {}, 656),
        (X4_UPSCALER, {"context_in_channels": 3, "context_shortcut": True}, 449),
    ],
    ids=["Stable Diffusion 1", "Stable Diffusion 2", "x4 upscaler"],
)
def test_a_temporal_stack_has_the_published_number_of_parameters(
    config: dict[str, object], more: dict[str, int | bool], published: float
) -> None:
    stack = stack_for(UNet2DConditionModel(**config), **more)
    print(f"\n{millions(stack):.1f} M, published {published} M", end="")
    assert millions(stack) == pytest.approx(published, rel=0.01)
    names = [name for name, _ in stack.named_parameters()]
    assert sum(name.endswith("conv2.weight") for name in names) == 22
    assert {len(p) for name, p in stack.named_parameters() if name.endswith("mix.logit")} == {1}


def test_the_whole_system_has_the_published_number_of_parameters() -> None:
    spatial, interpolation = UNet2DConditionModel(**STABLE_DIFFUSION_2), UNet2DConditionModel(**INTERPOLATION)
    upscaler, image = UNet2DConditionModel(**X4_UPSCALER), autoencoder(128, 256, 512, 512)
    decoder = VideoDecoder.for_autoencoder(image, VideoDecoderConfig())
    on_video = [
        decoder,
        stack_for(spatial),
        interpolation,
        stack_for(interpolation),
        RateLabel(num_rates=2, dim=1024),
        stack_for(upscaler, context_in_channels=3, context_shortcut=True),
    ]
    from_images = [image.encoder, image.quant_conv, spatial, upscaler, autoencoder(128, 256, 512)]
    trained, whole = millions(*on_video), millions(*on_video, *from_images)
    print(f"\n{whole:.0f} M in all, {trained:.0f} M trained on video", end="")
    assert whole == pytest.approx(4100, rel=0.02)
    assert trained == pytest.approx(2700, rel=0.02)
