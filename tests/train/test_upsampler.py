"""Losses of the upsampler's stages: small pictures, their noise, and what is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from drivesim.core.picture import resize_area
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig
from drivesim.models.autoencoder import decode, encode, to_picture_range
from drivesim.models.build import AutoencoderConfig, make_autoencoder
from drivesim.models.upsampler import UpsamplerConfig, UpsamplerTemporalConfig, make_upsampler, make_upsampler_temporal
from drivesim.train.optim import OptimConfig
from drivesim.train.upsampler import UpsamplerLossConfig, UpsamplerStage, check_crop

CONFIG = UpsamplerConfig(
    scale=4, patch_px=4, detail_gain=6.0, block_out_channels=[16, 16], attention=[False, False], layers_per_block=1,
    num_heads=2, norm_num_groups=4, noise_level=20,
)  # fmt: skip


def stage(*, temporal: bool = False, **loss: Any) -> UpsamplerStage:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "autoencoder": make_autoencoder(
            AutoencoderConfig(block_out_channels=[8, 8, 8, 8], layers_per_block=1, latent_channels=4, norm_num_groups=4)
        ),
        "upsampler": make_upsampler(CONFIG, (8, 16)),
        "upsampler_scheduler": training_schedule(
            ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=2e-2), ends_clean=True
        ),
    }
    if temporal:
        own = UpsamplerTemporalConfig(num_frames=4, overlap=1, context_channels=4, feed_forward_mult=1)
        parts["upsampler_temporal"] = make_upsampler_temporal(own, parts["upsampler"])
    sampling = SamplingConfig(sampler=Sampler.DDIM, steps=1)
    made = UpsamplerStage(
        parts, CONFIG, loss=UpsamplerLossConfig(**loss), sampling=sampling, optim=OptimConfig(), seed=0, fps=30.0
    )
    return made.train()


def frames(num_frames: int = 1, batch: int = 2) -> dict[str, torch.Tensor]:
    """Hard edges at places that differ from picture to picture."""
    rng = np.random.default_rng(0)
    pictures = np.zeros((batch, num_frames, 3, 32, 64), dtype=np.float32) - 0.5
    for item in pictures:
        top, left = rng.integers(2, 20), rng.integers(2, 40)
        for t, frame in enumerate(item):
            frame[:, top:, left + t :] = 0.7
    return {"frames_BTCHW": torch.from_numpy(pictures)}


def seen_by_the_network(training: UpsamplerStage, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen = {}

    def keep(_: object, args: tuple[torch.Tensor, ...]) -> None:
        seen.update(zip(("noisy", "steps", "low", "levels"), args, strict=True))

    handle = training.upsampler.register_forward_pre_hook(keep)
    training.loss(batch, torch.Generator().manual_seed(0))
    handle.remove()
    return seen


def test_small_pictures_are_what_a_real_downscale_makes_or_what_the_autoencoder_makes_of_that() -> None:
    batch = frames()
    small = resize_area(to_picture_range(batch["frames_BTCHW"][:, 0]), (8, 16))
    low = seen_by_the_network(stage(max_noise_level=0), batch)["low"][:, 0]
    assert np.abs(to_picture_range(low / 0.9999**0.5).astype(int) - small).max() <= 6  # step 0 leaves a hundredth
    training = stage(max_noise_level=0, through_autoencoder=True)
    decoded = decode(training.autoencoder, encode(training.autoencoder, small))
    low = seen_by_the_network(training, batch)["low"][:, 0]
    assert np.abs(to_picture_range(low / 0.9999**0.5).astype(int) - decoded).max() <= 6
    assert np.abs(decoded.astype(int) - small).max() > 20  # or the two could not be told apart


def test_small_pictures_have_the_noise_of_the_level_that_is_told() -> None:
    batch = frames(num_frames=4, batch=16)
    seen = seen_by_the_network(stage(max_noise_level=250), batch)
    clean = seen_by_the_network(stage(max_noise_level=0), batch)["low"]
    assert seen["levels"].min() >= 0
    assert 125 < seen["levels"].max() <= 250
    alpha_bar = training_schedule(ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=2e-2)).alphas_cumprod
    for level, low, original in zip(seen["levels"], seen["low"], clean, strict=True):
        a, s = alpha_bar[level].sqrt(), (1 - alpha_bar[level]).sqrt()
        assert (low - a * original).std().item() == pytest.approx(s.item(), rel=0.1, abs=0.015)


def test_clips_train_the_temporal_layers_alone() -> None:
    training = stage(temporal=True)
    training.loss(frames(num_frames=4), torch.Generator().manual_seed(0))["loss"].backward()
    assert list(training.trained) == ["upsampler_temporal"]
    moved = [name for name, p in training.trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert sum("conv2" in name for name in moved) == 2 * 8  # weight and bias of each temporal residual block
    assert all(p.grad is None for p in training.frozen.parameters())


def test_what_it_learns_is_nearer_to_the_picture_than_enlarging_is() -> None:
    training, batch = stage(max_noise_level=0), frames(batch=1)
    optimizer = torch.optim.Adam(training.trained.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        training.loss(batch, generator)["loss"].backward()
        optimizer.step()
    training.ema.update(0)
    for name, weight in training.trained.named_parameters():
        training.ema.get_buffer(name.replace(".", "/")).copy_(weight.data)
    rows = training.sample_pictures(batch).astype(float).reshape(3, 32, 64, 3)
    enlarged, made, real = rows
    assert np.square(made - real).mean() < 0.5 * np.square(enlarged - real).mean()


def test_pieces_that_are_no_whole_number_of_small_pixels_or_latents_are_refused() -> None:
    check_crop([32, 64], CONFIG, [8, 16], 4)
    with pytest.raises(ValueError, match=r"crop.size_hw = \[36, 64\] .*must divide by 8 pixels"):
        check_crop([36, 64], CONFIG, [8, 16], 4)  # 9 small pixels cannot be halved
    with pytest.raises(ValueError, match=r"crop.size_hw = \[32, 48\] .*must divide by 32 pixels"):
        check_crop([32, 48], CONFIG, [8, 16], 32)
    with pytest.raises(ValueError, match=r"size_hw \* upsampler.scale = \[36, 64\] .*must divide by 8"):
        check_crop([], CONFIG, [9, 16], 4)
