"""The paper's driving models at full size on a GPU in bfloat16: frames a second, memory, share of the chip's peak.

Skipped where there is no CUDA device. The share is of the data sheet's dense 16-bit rate, for GPUs that
`planning.hardware.GPUS` lists. FLOPs are counted on the same networks without memory.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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
from drivesim.planning.hardware import GPUS
from tests.benchmarks.measuring import gflops, note, seconds_on_gpu, tally_of

LATENT_HW = (16, 32)  # of 128 x 256 pictures
LARGE_HW, SMALL_HW = (512, 1024), (128, 256)
NUM_TOKENS = 8

Call = Callable[[], Tensor]


def backbone() -> UNet2DConditionModel:
    image = compose("train", ["experiment=driving/image"])
    return make_backbone(image.backbone, 4, LATENT_HW)


def tokens_of(unet: UNet2DConditionModel) -> Tensor:
    return torch.zeros(1, NUM_TOKENS, unet.config.cross_attention_dim)


def prediction() -> tuple[nn.Module, int, tuple[Tensor, ...], dict[str, Tensor]]:
    """A network, the frames of a call, and the call's arguments."""
    settings = compose("train", ["experiment=driving/prediction"]).temporal
    unet = backbone()
    clip = torch.zeros(1, settings.num_frames, 4, *LATENT_HW)
    network = VideoUNet(unet, make_temporal_stack(settings, unet))
    named = {"context_BTCHW": no_context(clip)}
    return network, settings.num_frames, (clip, torch.zeros(1), tokens_of(unet)), named


def interpolation() -> tuple[nn.Module, int, tuple[Tensor, ...], dict[str, Tensor]]:
    settings = compose("train", ["experiment=driving/interpolation"]).interpolation
    unet = backbone()
    clip = torch.zeros(1, settings.num_frames, 4, *LATENT_HW)
    network = VideoUNet(unet, make_interpolation_stack(settings, unet))
    label = RateLabel(num_rates=2, dim=settings.label_dim)(torch.zeros(1, dtype=torch.int64)).detach()
    named = {"context_BTCHW": no_context(clip), "temporal_tokens_BLC": label}
    return network, settings.num_frames, (clip, torch.zeros(1), tokens_of(unet)), named


def upsampler() -> tuple[nn.Module, int, tuple[Tensor, ...], dict[str, Tensor]]:
    settings = compose("train", ["experiment=driving/upsampler"])
    unet = make_upsampler(settings.upsampler, SMALL_HW)
    stack = make_upsampler_temporal(settings.upsampler_temporal, unet)
    network = Upsampler(unet, stack, scale=settings.upsampler.scale, detail_gain=settings.upsampler.detail_gain)
    num_frames = int(stack.config.num_frames)
    large, small = torch.zeros(1, num_frames, 3, *LARGE_HW), torch.zeros(1, num_frames, 3, *SMALL_HW)
    step = torch.zeros(1, dtype=torch.int64)
    return network, num_frames, (large, step, small, step), {}


def video_decoder() -> tuple[nn.Module, int, tuple[Tensor, ...], dict[str, Tensor]]:
    settings = compose("train", ["experiment=driving/video_decoder"])
    image = make_autoencoder(compose("train", ["experiment=driving/autoencoder"]).autoencoder)
    decoder = VideoDecoder.for_autoencoder(image, settings.video_decoder)
    decoder.quantize = None  # a look-up, which has no FLOPs and needs values
    num_frames = settings.video_decoder.num_frames
    return decoder, num_frames, (torch.zeros(1, num_frames, 4, *LATENT_HW),), {}


MAKERS = {f.__name__: f for f in (prediction, interpolation, upsampler, video_decoder)}


def on(device: str, name: str) -> tuple[Call, int]:
    """A forward pass in bfloat16 with its network and arguments on a device, and its number of frames."""
    with torch.device(device):
        network, num_frames, args, named = MAKERS[name]()
    network.to(torch.bfloat16).eval().requires_grad_(False)

    def low(value: Tensor) -> Tensor:
        return value.to(torch.bfloat16) if value.is_floating_point() and value.ndim > 1 else value

    positional, keyword = [low(value) for value in args], {key: low(value) for key, value in named.items()}
    return lambda: network(*positional, **keyword), num_frames


def peak_tflops() -> float | None:
    """The data sheet's; None = a GPU that is not listed."""
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    found = [key for key in GPUS if key in name]
    if "a100" in found and "40gb" in name:
        found.append("a100_40gb")
    return GPUS[max(found, key=len)].tflops_16 if found else None


@pytest.mark.parametrize("name", MAKERS)
def test_full_size_models_run_in_bfloat16_without_memory(name: str) -> None:
    """What is measured below can be called; its FLOPs."""
    call, num_frames = on("meta", name)
    tally = tally_of(torch.no_grad()(call))
    print(f"\n{name}: {gflops(tally) / num_frames:.0f} GFLOP a frame", end="")
    assert gflops(tally) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_frames_a_second(name: str, mode: str) -> None:
    work = gflops(tally_of(torch.no_grad()(on("meta", name)[0])))
    torch.cuda.empty_cache()
    call, num_frames = on("cuda", name)
    seconds = seconds_on_gpu(torch.compile(call) if mode == "compiled" else call)
    rate, memory = num_frames / seconds, torch.cuda.max_memory_allocated() / 2**30
    peak = peak_tflops()
    share = None if peak is None else work / seconds / 1e3 / peak
    shown = "chip not listed" if share is None else f"{share:.1%} of the chip's peak"
    print(f"\n{name}, {mode}, bfloat16: {rate:.1f} frames/s a step, {memory:.2f} GiB, {shown}", end="")
    note(
        f"full size, {name}", device="cuda:0", mode=mode, dtype="bfloat16", frames_a_second=rate, peak_gib=memory,
        tflops=work / seconds / 1e3, share_of_peak=share,
    )  # fmt: skip
