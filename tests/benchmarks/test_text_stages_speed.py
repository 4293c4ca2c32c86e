"""Network calls of text-to-video beside those of diffusers' video and upscaling pipelines, at the same shapes.

Key frames, a batch of interpolation windows and an upscaler's portion, both branches of guidance in each call. The same
channels, depth, heads and shapes, in turn. For a frame made the goal is 0.75 of the time of the fastest peer, with the
steps that their pipelines and ours take by themselves, and half of the peak memory of the thriftiest one: the peak of a
call shared among the frames that it makes. Of a window of 5 frames ours makes 3, of a portion of 8 the first 6, the
peers all, and the x4 upscaler one a call.

Stable Video Diffusion's has our structure, and projects text anew for each position; its own pipeline shows it one
token. AnimateDiff's has no convolutions over time and shows its motion modules no text. The x4 upscaler's has no layers
over time at all. On a CPU small networks in float32, one thread, CPU time, and the memory of all tensors but weights,
counted without running; where there is a CUDA device key frames at Stable Diffusion 2's size in bfloat16 as well,
seconds between events, and the allocator's peak above the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.benchmarks.measuring import MIB, gflops, in_turn, note, seconds_on_gpu, tally_of
from tests.benchmarks.video_unets import (
    OURS,
    PEERS,
    UPSCALER_PEER,
    Run,
    Stage,
    default_steps,
    make_runs,
    our_steps,
    ours,
    peers_of,
    two_of_ours,
)

TIME_GOAL, MEMORY_GOAL = 0.75, 0.5
REUSING = "deep_every=2"
ROUNDS = 3
KEYS, WINDOWS, UPSCALING = our_steps()

SMALL: dict[str, Any] = {"channels": (64, 128, 256), "heads": (2, 4, 8), "token_dim": 256}
KEY_FRAMES = Stage(
    name="key frames", **SMALL, latent_hw=(20, 32), num_frames=8, num_kept=8, num_clips=2, our_steps=KEYS
)
STAGES = [
    KEY_FRAMES,
    replace(
        KEY_FRAMES, name="interpolation, 2 windows", num_frames=5, num_kept=3, num_clips=4, in_channels=9,
        has_rate=True, our_steps=WINDOWS,
    ),
    replace(
        KEY_FRAMES, name="upscaler portion", latent_hw=(32, 48), num_kept=6, in_channels=7, is_upscaler=True,
        our_steps=UPSCALING,
    ),
]  # fmt: skip
STABLE_DIFFUSION_2 = replace(
    KEY_FRAMES, name="key frames, full size", channels=(320, 640, 1280, 1280), heads=(5, 10, 20, 20), token_dim=1024,
    latent_hw=(40, 64),
)  # fmt: skip


Ratios = dict[str, dict[str, float]]


def frames_of_a_call(stage: Stage, peer: str) -> int:
    """Frames, of all clips, that a peer's call makes."""
    return stage.num_clips * (1 if peer == UPSCALER_PEER else stage.num_frames)


def report(stage: Stage, seconds: dict[str, float], mib: dict[str, float], **more: Any) -> Ratios:
    """Prints, notes and gives what a frame takes of each, and what ours takes over each peer's."""
    ratios_of: Ratios = {}
    frames = dict.fromkeys(seconds, stage.num_clips * stage.num_frames)
    made = frames | {OURS: stage.num_clips * stage.num_kept}
    print(f"\n{stage.name}: {stage.num_clips} clips of {stage.num_frames} frames of {stage.latent_hw}")
    for name, (network, run) in make_runs(stage, "meta").items():
        millions, work = sum(p.numel() for p in network.parameters()) / 1e6, gflops(tally_of(run))
        steps = stage.our_steps if name == OURS else default_steps(name)
        ms = 1e3 * seconds[name] / frames[name]
        print(f"  {name:44} {ms:7.1f} ms a frame  {mib[name]:7.1f} MiB  {work / frames[name]:6.2f} GFLOP a frame  "
              f"{millions:6.1f} M  {steps} steps")  # fmt: skip
        note(f"text, {stage.name}", network=name, ms_a_frame=ms, peak_mib=mib[name],
             gflop_a_frame=work / frames[name], millions=millions, steps=steps, **more)  # fmt: skip
    for peer in peers_of(stage):
        call = seconds[OURS] / seconds[peer]
        ratios = {
            "call_time": call,
            "made_time": call * made[peer] / made[OURS],
            "own_steps_time": call * made[peer] / made[OURS] * stage.our_steps / default_steps(peer),
            "memory": mib[OURS] / mib[peer],
            "made_memory": mib[OURS] / mib[peer] * frames_of_a_call(stage, peer) / made[OURS],
        }
        ratios_of[peer] = ratios
        shown = ", ".join(f"{what.replace('_', ' ')} {ratio:.2f}" for what, ratio in ratios.items())
        print(f"  ours over that of {peer}: {shown} (goals {TIME_GOAL}, {MEMORY_GOAL})")
        note(f"text, {stage.name}", peer=peer, **{f"{what}_ratio": ratio for what, ratio in ratios.items()}, **more)
    return ratios_of


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_call_on_a_cpu(stage: Stage) -> None:
    runs = make_runs(stage, "cpu")
    seconds = in_turn({name: run for name, (_, run) in runs.items()} | {REUSING: two_of_ours(stage)}, ROUNDS)
    reused = seconds.pop(REUSING) / 2
    peaks = {name: tally_of(run).peak_bytes / MIB for name, (_, run) in make_runs(stage, "meta").items()}
    for peer, ratios in report(stage, seconds, peaks).items():
        assert ratios["own_steps_time"] <= TIME_GOAL, peer
        assert ratios["made_memory"] <= MEMORY_GOAL, peer
        with_reuse = ratios["made_time"] * reused / seconds[OURS]
        print(f"  over {peer}, step for step with {REUSING}: made time {with_reuse:.2f}")
        note(f"text, {stage.name}", peer=peer, made_time_reusing_ratio=with_reuse)


@pytest.mark.parametrize("name", [OURS, *PEERS])
def test_full_size_networks_run_in_bfloat16_without_memory(name: str) -> None:
    """What is measured below can be called; its FLOPs."""
    _, run = in_bfloat16(name, "meta")
    work = gflops(tally_of(torch.no_grad()(run)))
    print(f"\n{name}: {work / STABLE_DIFFUSION_2.num_frames / STABLE_DIFFUSION_2.num_clips:.0f} GFLOP a frame", end="")
    assert work > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_key_frames_at_full_size_on_a_gpu() -> None:
    seconds, peaks = {}, {}
    for name in (OURS, *PEERS):
        seconds[name], peaks[name] = on_gpu(name)
    report(STABLE_DIFFUSION_2, seconds, peaks, device="cuda:0", dtype="bfloat16")


def in_bfloat16(name: str, device: str) -> tuple[nn.Module, Run]:
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return ({OURS: ours} | PEERS)[name](STABLE_DIFFUSION_2)
    finally:
        torch.set_default_dtype(kept)


def on_gpu(name: str) -> tuple[float, float]:
    """Seconds of a pass, and MiB above what is there before it."""
    network, run = in_bfloat16(name, "cuda")
    network.eval()
    with torch.no_grad():
        before = torch.cuda.memory_allocated()
        seconds = seconds_on_gpu(run)
    mib = (torch.cuda.max_memory_allocated() - before) / MIB
    del network, run
    torch.cuda.empty_cache()
    return seconds, mib
