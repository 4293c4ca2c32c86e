"""Large pictures are decoded in bands: as by the whole decoder but for what a summary stands in for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

import drivesim
from drivesim.core.camera import Camera
from drivesim.models import autoencoder as coder
from drivesim.models import picture_decoding
from drivesim.models.autoencoder import Autoencoder, decode_pictures
from drivesim.nn import bands
from drivesim.planning.as_on_device import AsOnDevice
from drivesim.planning.tally import Tally
from drivesim.toytown.config import TownConfig
from drivesim.toytown.episode import simulate
from drivesim.toytown.renderer import render

SHIPPED = Path(drivesim.__file__).parent / "families" / "shipped" / "toytown" / "autoencoder"
LEVELS = 3


def make_kl(**changes: object) -> AutoencoderKL:
    torch.manual_seed(0)
    settings = {
        "block_out_channels": (8, 16, 16), "norm_num_groups": 4, "latent_channels": 4, "scaling_factor": 0.7,
        "shift_factor": 0.1, "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
        "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
    }  # fmt: skip
    return AutoencoderKL(**(settings | changes)).eval().requires_grad_(False)


def make_vq(**changes: object) -> VQModel:
    torch.manual_seed(0)
    settings = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 3, "num_vq_embeddings": 64,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    return VQModel(**(settings | changes)).eval().requires_grad_(False)


def small_bands(monkeypatch: pytest.MonkeyPatch, *, numbers: int, summary: int) -> None:
    monkeypatch.setattr(picture_decoding, "_BAND", {"cpu": numbers, "meta": numbers})
    monkeypatch.setattr(picture_decoding, "_PIXELS", 1)
    monkeypatch.setattr(picture_decoding, "SUMMARY", summary)
    monkeypatch.setattr(coder, "WHOLE", 0)


@pytest.mark.parametrize("numbers", [1, 900, 4000, 10**9])
@pytest.mark.parametrize("size_hw", [(20, 12), (9, 17)])
@pytest.mark.parametrize(
    "autoencoder",
    [
        make_kl(),
        make_kl(mid_block_add_attention=False, use_post_quant_conv=False),
        make_kl(layers_per_block=2, act_fn="gelu", block_out_channels=(16, 8, 16)),
        make_vq(),
    ],
    ids=["kl", "no attention", "gelu, wider above", "vq"],
)
def test_with_all_latents_for_a_summary_it_is_the_decoder_itself(
    monkeypatch: pytest.MonkeyPatch, autoencoder: Autoencoder, size_hw: tuple[int, int], numbers: int
) -> None:
    latents = torch.randn(2, autoencoder.config.latent_channels, *size_hw)
    expected = decode_pictures(autoencoder, latents)
    small_bands(monkeypatch, numbers=numbers, summary=10**6)
    torch.testing.assert_close(decode_pictures(autoencoder, latents), expected, rtol=0, atol=2e-5)


def test_a_decoder_whose_norms_see_the_latents_decodes_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = make_vq(norm_type="spatial", block_out_channels=(32, 32), norm_num_groups=32)
    latents = torch.randn(1, 3, 12, 10)
    expected = decode_pictures(autoencoder, latents)
    small_bands(monkeypatch, numbers=100, summary=16)
    assert torch.equal(decode_pictures(autoencoder, latents), expected)


def test_bands_are_nearer_the_whole_decoder_than_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = AutoencoderKL.from_pretrained(SHIPPED).eval().requires_grad_(False)
    frame = render(simulate(TownConfig(duration_s=1.0), 9004), 0, Camera.front((640, 1280)))
    latents = coder.encode(autoencoder, frame[None])
    in_bands = decode_pictures(autoencoder, latents)

    monkeypatch.setattr(coder, "WHOLE", 10**9)
    whole = decode_pictures(autoencoder, latents)
    autoencoder.enable_tiling()
    autoencoder.tile_latent_min_size, autoencoder.tile_sample_min_size = 64, 512
    tiled = decode_pictures(autoencoder, latents)

    def levels_off(frames: Tensor) -> float:
        return float((frames - whole).abs().mean() * 127.5)

    print(f"grey levels off: bands {levels_off(in_bands):.2f}, tiles {levels_off(tiled):.2f}", end=" ")
    assert 0 < levels_off(in_bands) < 0.5 * levels_off(tiled)


def test_a_summary_has_the_latents_mean_and_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_decoding, "SUMMARY", 100)
    latents = torch.randn(2, 4, 40, 30) * 3 + 5
    small = picture_decoding._resized(latents)
    assert small.shape == (2, 4, 11, 8)
    for of in (torch.mean, lambda x, dim: x.var(dim, correction=0)):
        torch.testing.assert_close(of(small, dim=(2, 3)), of(latents, dim=(2, 3)))


def test_flat_latents_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    small_bands(monkeypatch, numbers=2**10, summary=16)
    assert decode_pictures(make_kl(), torch.zeros(1, 4, 16, 16)).isfinite().all()


def test_16_bits_stay_near_32(monkeypatch: pytest.MonkeyPatch) -> None:
    small_bands(monkeypatch, numbers=2**12, summary=10**6)
    latents = torch.randn(1, 4, 16, 24)
    low = decode_pictures(make_kl().to(torch.bfloat16), latents)
    assert low.dtype is torch.bfloat16
    torch.testing.assert_close(low.float(), decode_pictures(make_kl(), latents), rtol=0, atol=0.05)


def tally(autoencoder: Autoencoder, num_frames: int, size_hw: tuple[int, int]) -> Tally:
    latents = torch.zeros(num_frames, 4, *size_hw, device="meta")
    with torch.device("meta"), AsOnDevice(), Tally() as counted:
        decode_pictures(autoencoder, latents)
    return counted


def test_large_pictures_take_less_than_half_of_the_memory_of_tiles() -> None:
    autoencoder = make_kl(block_out_channels=(32, 64, 128), norm_num_groups=32, layers_per_block=2).to("meta")
    ours = tally(autoencoder, 1, (160, 256)).peak_bytes
    autoencoder.enable_tiling()
    autoencoder.tile_latent_min_size, autoencoder.tile_sample_min_size = 64, 256
    with torch.device("meta"), AsOnDevice(), Tally() as tiles:
        autoencoder.decode(torch.zeros(1, 4, 160, 256, device="meta"))
    assert ours < 0.5 * tiles.peak_bytes


def test_a_plan_counts_every_frame() -> None:
    autoencoder = make_kl().to("meta")
    one, five = (tally(autoencoder, n, (16, 16)) for n in (1, 5))
    assert sum(five.kernels.values()) == 5 * sum(one.kernels.values())


def test_a_band_that_stands_for_others_counts_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    small_bands(monkeypatch, numbers=1, summary=64)
    autoencoder = make_kl().to("meta")
    quick = tally(autoencoder, 1, (20, 60))
    monkeypatch.setattr(bands, "_SETTLED", 10**6)
    full = tally(autoencoder, 1, (20, 60))
    assert sum(quick.kernels.values()) == sum(full.kernels.values())
    assert sum(quick.flops_of[kernel] * count for kernel, count in quick.kernels.items()) == sum(
        full.flops_of[kernel] * count for kernel, count in full.kernels.items()
    )
    assert quick.peak_bytes == full.peak_bytes
