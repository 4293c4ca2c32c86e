"""The paper's driving models at their published sizes, built without memory and run for their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from drivesim.conditioning.driving import DrivingConditioner, DrivingConditions, make_conditioner
from drivesim.conditioning.given_frames import no_context
from drivesim.conditioning.rate_label import RateLabel
from drivesim.config import compose
from drivesim.models.build import (
    UNet2DConditionModel,
    make_autoencoder,
    make_backbone,
    make_interpolation_stack,
    make_temporal_stack,
)
from drivesim.models.upsampler import Upsampler, make_upsampler, make_upsampler_temporal
from drivesim.models.video_decoder import VideoDecoder
from drivesim.models.video_unet import VideoUNet

LATENT = (4, 16, 32)  # of 128 x 256 pictures


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.fixture(autouse=True)
def _on_no_device() -> object:
    with torch.device("meta"):
        yield


def test_the_autoencoder_maps_pictures_to_latents_and_back() -> None:
    net = make_autoencoder(compose("train", ["experiment=driving/autoencoder"]).autoencoder)
    print(f"\nautoencoder: {millions(net):.1f} M")
    latents = net.encode(torch.empty(2, 3, 128, 256)).latents
    assert latents.shape == (2, *LATENT)
    assert net.quantize.embedding.weight.shape == (16384, 4)
    # decoding by the codebook looks entries up, which needs values; without it shapes are the same
    assert net.decode(latents, force_not_quantize=True).sample.shape == (2, 3, 128, 256)


def image_model() -> tuple[DrivingConditioner, UNet2DConditionModel]:
    image = compose("train", ["experiment=driving/image"])
    conditioner = make_conditioner(image.conditioner, image.backbone.token_dim)
    return conditioner, make_backbone(image.backbone, LATENT[0], LATENT[1:], conditioner.num_channels)


def test_the_video_model_denoises_ten_frames() -> None:
    prediction = compose("train", ["experiment=driving/prediction"])
    conditioner, backbone = image_model()
    temporal = make_temporal_stack(prediction.temporal, backbone)
    for name, part in (("backbone", backbone), ("conditioner", conditioner), ("temporal stack", temporal)):
        print(f"\n{name}: {millions(part):.1f} M", end="")
    assert temporal.config.context_in_channels == 5
    assert all(len(p) == 10 for name, p in temporal.named_parameters() if name.endswith("mix.logit"))
    tokens, mask = conditioner(DrivingConditions.unknown(2, "meta"))
    assert tokens.shape == (2, 2, 256)
    clips = torch.empty(2, 10, *LATENT)
    made = VideoUNet(backbone, temporal)(
        conditioner.placed(clips), torch.empty(2), tokens, token_mask_BL=mask, context_BTCHW=no_context(clips)
    )
    assert made.shape == clips.shape


def test_the_interpolation_model_denoises_windows_of_five_and_is_told_the_rate() -> None:
    settings = compose("train", ["experiment=driving/interpolation"])
    settings.interpolation.check(settings.fps)
    conditioner, backbone = image_model()
    stack = make_interpolation_stack(settings.interpolation, backbone)
    print(f"\ninterpolation stack: {millions(stack):.1f} M", end="")
    tokens, mask = conditioner(DrivingConditions.unknown(3, "meta"))
    rates = RateLabel(num_rates=2, dim=512)(torch.zeros(3, dtype=torch.int64))
    assert rates.shape == (3, 1, 512)
    clips = torch.empty(3, 5, *LATENT)
    made = VideoUNet(backbone, stack)(
        conditioner.placed(clips),
        torch.empty(3),
        tokens,
        token_mask_BL=mask,
        context_BTCHW=no_context(clips),
        temporal_tokens_BLC=rates,
    )
    assert made.shape == clips.shape


def test_the_video_decoder_makes_frames_of_latents() -> None:
    settings = compose("train", ["experiment=driving/video_decoder"])
    image = make_autoencoder(compose("train", ["experiment=driving/autoencoder"]).autoencoder)
    decoder = VideoDecoder.for_autoencoder(image, settings.video_decoder)
    over_time = millions(decoder.temporal)
    print(f"\nvideo decoder: {millions(decoder):.1f} M, {over_time:.1f} M of them over time, radius {decoder.radius}")
    assert decoder.radius == 14  # one after each residual block: 2 in the middle, 3 in each of 4 levels
    assert settings.video_decoder.num_frames == 6
    with quantised_to_itself(decoder):
        assert decoder(torch.empty(1, 6, *LATENT)).shape == (1, 6, 3, 128, 256)
        assert decoder(torch.empty(1, 6, *LATENT), 2, 1).shape == (1, 3, 3, 128, 256)


@contextmanager
def quantised_to_itself(decoder: VideoDecoder) -> Iterator[None]:
    """Looking entries up in the codebook needs values; without it shapes are the same."""
    codebook, decoder.quantize = decoder.quantize, None
    yield
    decoder.quantize = codebook


def test_the_upsampler_denoises_portions_of_eight_pictures() -> None:
    settings = compose("train", ["experiment=driving/upsampler"])
    assert settings.upsampler == compose("train", ["experiment=driving/image_upsampler"]).upsampler
    unet = make_upsampler(settings.upsampler, (128, 256))
    stack = make_upsampler_temporal(settings.upsampler_temporal, unet)
    for name, part in (("upsampler", unet), ("upsampler's temporal stack", stack)):
        print(f"\n{name}: {millions(part):.1f} M", end="")
    assert (stack.config.context_in_channels, stack.config.context_channels) == (3, 128)
    assert all(len(p) == 8 for name, p in stack.named_parameters() if name.endswith("mix.logit"))
    assert unet.config.block_out_channels == (160, 320, 640, 640)
    large, small = torch.empty(1, 8, 3, 512, 1024), torch.empty(1, 8, 3, 128, 256)
    step, level = torch.empty(1, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
    for temporal in (None, stack):
        networks = Upsampler(unet, temporal, scale=settings.upsampler.scale, detail_gain=settings.upsampler.detail_gain)
        assert networks(large, step, small, level).shape == large.shape
