"""The paper's driving models at their published sizes, built without memory and run for their shapes."""

from __future__ import annotations

import pytest
import torch

from drivesim.conditioning.driving import DrivingConditions, make_conditioner
from drivesim.conditioning.given_frames import no_context
from drivesim.config import compose
from drivesim.models.build import make_autoencoder, make_backbone, make_temporal_stack
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


def test_the_video_model_denoises_ten_frames() -> None:
    image = compose("train", ["experiment=driving/image"])
    prediction = compose("train", ["experiment=driving/prediction"])
    conditioner = make_conditioner(image.conditioner, image.backbone.token_dim)
    backbone = make_backbone(image.backbone, LATENT[0], LATENT[1:], conditioner.num_channels)
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
