"""Losses of the video decoder's stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drivesim.models.autoencoder import encode, to_picture_range
from drivesim.models.build import AutoencoderConfig, AutoencoderKind, make_autoencoder
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig
from drivesim.train.optim import OptimConfig
from drivesim.train.video_decoder import VideoDecoderLossConfig, VideoDecoderStage


def stage(kind: AutoencoderKind = AutoencoderKind.KL, **loss: Any) -> VideoDecoderStage:
    torch.manual_seed(0)
    image = make_autoencoder(
        AutoencoderConfig(
            kind=kind, codebook_size=16, block_out_channels=[8, 8], layers_per_block=1, latent_channels=4,
            norm_num_groups=4,
        )
    ).eval()  # fmt: skip
    image.register_to_config(scaling_factor=2.0)
    parts = {"autoencoder": image, "video_decoder": VideoDecoder.for_autoencoder(image, VideoDecoderConfig())}
    settings = VideoDecoderLossConfig(discriminator_channels=8, **loss)
    return VideoDecoderStage(parts, settings, OptimConfig(), seed=0)


def batch() -> dict[str, torch.Tensor]:
    levels = torch.randint(0, 256, (2, 3, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    return {"frames_BTCHW": levels.float() / 127.5 - 1}


def gradients(training: VideoDecoderStage) -> dict[str, float]:
    """The largest gradient of each part of the decoder, 0 = none."""
    terms = training.loss(batch(), torch.Generator())
    terms["loss"].backward()
    found: dict[str, float] = {}
    for name, parameter in training.decoder.named_parameters():
        largest = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        part = name.partition(".")[0]
        found[part] = max(found.get(part, 0.0), largest)
    return found


@pytest.mark.parametrize("kind", list(AutoencoderKind))
def test_the_decoders_copy_and_its_layers_over_time_learn_and_the_codebook_stays(kind: AutoencoderKind) -> None:
    training = stage(kind, adversarial_weight=0.5)
    found = gradients(training)
    assert found.pop("quantize", 0.0) == 0.0
    moved = [name for name, parameter in training.decoder.named_parameters() if parameter.requires_grad]
    assert not any(name.startswith("quantize") for name in moved)  # nor averaged, nor decayed
    assert set(found) == {"decoder", "post_quant_conv", "temporal"}
    assert all(largest > 0 for largest in found.values())
    assert all(p.grad is None for p in training.autoencoder.parameters())
    assert all(p.grad is not None for p in training.trained["discriminator"].parameters())


@pytest.mark.parametrize("adversarial_weight", [0.0, 0.5])
def test_the_layers_over_time_can_learn_alone(adversarial_weight: float) -> None:
    training = stage(temporal_alone=True, adversarial_weight=adversarial_weight)
    found = gradients(training)
    assert found["temporal"] > 0
    assert found["decoder"] == found["post_quant_conv"] == 0.0
    averaged = [name for name, _ in training.ema.named_buffers() if "video_decoder" in name]
    assert averaged
    assert all("temporal" in name for name in averaged)


def test_the_pull_of_the_discriminator_is_as_long_as_asked_for_at_the_last_trained_layer() -> None:
    for settings, place in (({}, "decoder.conv_out.weight"), ({"temporal_alone": True}, "temporal.2.1.convs.0.weight")):
        pulled, plain = (stage(**settings, adversarial_weight=weight) for weight in (0.5, 0.0))
        for training in (pulled, plain):
            training.loss(batch(), torch.Generator())["loss"].backward()
        both, errors = (dict(training.decoder.named_parameters())[place].grad for training in (pulled, plain))
        torch.testing.assert_close((both - errors).norm() / errors.norm(), torch.tensor(0.5), rtol=1e-3, atol=0)


def test_clips_are_encoded_as_everywhere_else_and_compared_frame_by_frame() -> None:
    training = stage(mse_weight=3.0).eval()
    clips = batch()["frames_BTCHW"]
    latents = encode(training.autoencoder, to_picture_range(clips.flatten(0, 1))).unflatten(0, (2, 3))
    with torch.no_grad():
        decoded = training.decoder(latents)
        terms = training.loss(batch(), torch.Generator())
    torch.testing.assert_close(terms["l1"], (decoded - clips).abs().mean())
    wrong_changes = (decoded[:, 1:] - decoded[:, :-1]) - (clips[:, 1:] - clips[:, :-1])
    torch.testing.assert_close(terms["difference"], wrong_changes.abs().mean())
    weights = training.weights
    total = terms["l1"] + 3.0 * terms["mse"] + weights.perceptual.weight * terms["perceptual"]
    torch.testing.assert_close(terms["loss"], total)
    assert set(terms) == {"loss", "l1", "mse", "perceptual", "difference"}


def test_the_picture_shows_a_clip_and_both_decoders() -> None:
    assert stage().sample_pictures(batch()).shape == (3 * 16, 3 * 16, 3)
