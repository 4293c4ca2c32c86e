"""Text-to-video key frames: one forward pass of `VideoUNet` beside diffusers' video U-Nets for text, of like size.

8 frames and 77 text tokens, the same channels, depth, heads and shapes, in turn. The goal is 0.75 of the faster peer's
time and half of the thriftier one's memory. Stable Video Diffusion's has our structure, and projects text anew for
each position; AnimateDiff's has no convolutions over time and shows its motion modules no text. On a CPU small
networks in float32, one thread, CPU time, and the memory of all tensors but weights, counted without running; where
there is a CUDA device Stable Diffusion 2's size in bfloat16 as well, seconds between events, and the allocator's peak
above the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import VideoUNet
from tests.benchmarks.measuring import MIB, gflops, in_turn, note, tally_of

OURS = "VideoUNet"
TIME_GOAL, MEMORY_GOAL = 0.75, 0.5
FRAMES, NUM_TOKENS = 8, 77
ADDED_TIME_DIM = 256  # of Stable Video Diffusion's three numbers a clip
ROUNDS, WARM_UPS, GPU_ROUNDS = 3, 3, 10

Run = Callable[[], Tensor]


@dataclass(kw_only=True, slots=True)
class Size:
    """What all networks of a comparison share."""

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    token_dim: int
    latent_hw: tuple[int, int]

    @property
    def shared(self) -> dict[str, Any]:
        return {
            "sample_size": self.latent_hw, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
            "block_out_channels": self.channels, "cross_attention_dim": self.token_dim,
        }  # fmt: skip

    def block_types(self, kind: str) -> dict[str, tuple[str, ...]]:
        """Attention on all levels but the last, as in Stable Diffusion."""
        many = len(self.channels) - 1
        return {
            "down_block_types": (f"CrossAttnDownBlock{kind}",) * many + (f"DownBlock{kind}",),
            "up_block_types": (f"UpBlock{kind}",) + (f"CrossAttnUpBlock{kind}",) * many,
        }


SMALL = Size(channels=(64, 128, 256), heads=(2, 4, 8), token_dim=256, latent_hw=(20, 32))
STABLE_DIFFUSION_2 = Size(channels=(320, 640, 1280, 1280), heads=(5, 10, 20, 20), token_dim=1024, latent_hw=(40, 64))


def ours(size: Size) -> tuple[nn.Module, Run]:
    backbone = UNet2DConditionModel(
        **size.shared, **size.block_types("2D"), attention_head_dim=size.heads, use_linear_projection=True
    )
    stack = TemporalStack.for_backbone(
        backbone, num_frames=FRAMES, per_frame_alpha=False, cross_attention_dim=size.token_dim
    )
    network = VideoUNet(backbone, stack)
    latents, tokens, step = inputs(size)
    return network, lambda: network(latents, step, tokens, temporal_tokens_BLC=tokens)


def stable_video_diffusion(size: Size) -> tuple[nn.Module, Run]:
    network = UNetSpatioTemporalConditionModel(
        **size.shared, **size.block_types("SpatioTemporal"), num_attention_heads=size.heads, num_frames=FRAMES,
        addition_time_embed_dim=ADDED_TIME_DIM, projection_class_embeddings_input_dim=3 * ADDED_TIME_DIM,
    )  # fmt: skip
    latents, tokens, step = inputs(size)
    network.to(latents.device)  # its mixers' alphas are made on the CPU whatever the default device is
    ids = torch.zeros(1, 3)
    return network, lambda: network(latents, step, tokens, added_time_ids=ids).sample


def animate_diff(size: Size) -> tuple[nn.Module, Run]:
    """Its motion modules see no text."""
    network = UNetMotionModel(
        **size.shared, **size.block_types("Motion"), num_attention_heads=size.heads, motion_num_attention_heads=8,
        motion_max_seq_length=32, use_linear_projection=True,
    )  # fmt: skip
    latents, tokens, step = inputs(size)
    video, each = latents.transpose(1, 2).contiguous(), tokens.repeat_interleave(FRAMES, dim=0)  # as its pipeline does
    return network, lambda: network(video, step, each).sample


MAKERS = {OURS: ours, "UNetSpatioTemporalConditionModel": stable_video_diffusion, "UNetMotionModel": animate_diff}


def inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, text tokens and a step."""
    dtype = torch.get_default_dtype()
    latents, tokens = torch.zeros(1, FRAMES, 4, *size.latent_hw), torch.zeros(1, NUM_TOKENS, size.token_dim)
    return latents.to(dtype).normal_(), tokens.to(dtype).normal_(), torch.full((1,), 500)


def make_runs(size: Size, device: str) -> dict[str, tuple[nn.Module, Run]]:
    with torch.device(device):
        made = {name: make(size) for name, make in MAKERS.items()}
    return {name: (network.eval(), torch.no_grad()(run)) for name, (network, run) in made.items()}


def report(title: str, size: Size, seconds: dict[str, float], mib: dict[str, float], **more: Any) -> None:
    """Prints and notes time, memory, parameters and FLOPs of each, and what ours takes over the best peer's."""
    blank = make_runs(size, "meta")
    print(f"\n{title}, {FRAMES} frames of {size.latent_hw}, {NUM_TOKENS} tokens")
    for name, (network, run) in blank.items():
        millions, work = sum(p.numel() for p in network.parameters()) / 1e6, gflops(tally_of(run))
        print(f"  {name:34} {1e3 * seconds[name]:7.1f} ms  {mib[name]:8.1f} MiB  {work:8.1f} GFLOP  {millions:7.1f} M")
        note(title, network=name, ms=1e3 * seconds[name], peak_mib=mib[name], gflop=work, millions=millions, **more)
    for peer in MAKERS:
        if peer != OURS:
            ratios = {"time": seconds[OURS] / seconds[peer], "memory": mib[OURS] / mib[peer]}
            print(f"  over {peer}'s: time {ratios['time']:.2f} (goal {TIME_GOAL}), memory {ratios['memory']:.2f} "
                  f"(goal {MEMORY_GOAL})")  # fmt: skip
            note(title, peer=peer, **{f"{what}_ratio": ratio for what, ratio in ratios.items()}, **more)


def test_key_frames_on_a_cpu() -> None:
    runs = make_runs(SMALL, "cpu")
    seconds = in_turn({name: run for name, (_, run) in runs.items()}, ROUNDS)
    peaks = {name: tally_of(run).peak_bytes / MIB for name, (_, run) in make_runs(SMALL, "meta").items()}
    report("key frames, forward", SMALL, seconds, peaks)
    assert peaks[OURS] <= MEMORY_GOAL * peaks["UNetSpatioTemporalConditionModel"]


@pytest.mark.parametrize("name", MAKERS)
def test_full_size_networks_run_in_bfloat16_without_memory(name: str) -> None:
    """What is measured below can be called; its FLOPs."""
    _, run = in_bfloat16(name, "meta")
    work = gflops(tally_of(torch.no_grad()(run)))
    print(f"\n{name}: {work / FRAMES:.0f} GFLOP a frame", end="")
    assert work > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_key_frames_at_full_size_on_a_gpu() -> None:
    seconds, peaks = {}, {}
    for name in MAKERS:
        seconds[name], peaks[name] = on_gpu(name)
    report("key frames, forward, full size", STABLE_DIFFUSION_2, seconds, peaks, device="cuda:0", dtype="bfloat16")


def in_bfloat16(name: str, device: str) -> tuple[nn.Module, Run]:
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return MAKERS[name](STABLE_DIFFUSION_2)
    finally:
        torch.set_default_dtype(kept)


def on_gpu(name: str) -> tuple[float, float]:
    """Seconds of a pass, and MiB above what is there before it."""
    network, run = in_bfloat16(name, "cuda")
    network.eval()
    with torch.no_grad():
        for _ in range(WARM_UPS):
            run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(GPU_ROUNDS):
            run()
        ended.record()
        torch.cuda.synchronize()
    mib = (torch.cuda.max_memory_allocated() - before) / MIB
    del network, run
    torch.cuda.empty_cache()
    return float(began.elapsed_time(ended)) / 1e3 / GPU_ROUNDS, mib
