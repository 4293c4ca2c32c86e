"""One forward pass and one training step of `VideoUNet` beside diffusers' video U-Nets of like size.

Same channels, depth, heads, tokens and shapes, float32, one thread, CPU time, in turn. The goal is 0.75 of the faster
peer's time and no more memory. Memory is that of all tensors but weights, counted without
running (`measuring.tally_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import VideoUNet
from tests.benchmarks.measuring import MIB, gflops, in_turn, note, tally_of

OURS = "VideoUNet"
GOAL = 0.75
BATCH, FRAMES, LATENT = 1, 10, (4, 16, 32)
TOKENS = {4: "", 26: ", 26 tokens"}  # of a sample, and how rows are told apart; labels and boxes of a busy frame are 26
TOKEN_DIM = 256
ADDED_TIME_DIM = 256  # of Stable Video Diffusion's three numbers a clip
ROUNDS = 3
SHAPE = {"sample_size": LATENT[1:], "in_channels": LATENT[0], "out_channels": LATENT[0], "layers_per_block": 2,
         "block_out_channels": (64, 128, 256), "cross_attention_dim": TOKEN_DIM}  # fmt: skip
HEADS = (2, 4, 8)


@dataclass(kw_only=True, slots=True)
class Network:
    """A video U-Net and how it is called."""

    module: nn.Module
    run: Callable[[], Tensor]
    temporal: str  # what names of parameters of its temporal layers contain; "" = all


def block_types(kind: str) -> dict[str, tuple[str, ...]]:
    """Attention on the upper two of three levels."""
    return {
        "down_block_types": (f"CrossAttnDownBlock{kind}",) * 2 + (f"DownBlock{kind}",),
        "up_block_types": (f"UpBlock{kind}",) + (f"CrossAttnUpBlock{kind}",) * 2,
    }


def ours(latents: Tensor, tokens: Tensor) -> Network:
    """With cross-attention over time, as Stable Video Diffusion has it."""
    backbone = UNet2DConditionModel(**SHAPE, **block_types("2D"), attention_head_dim=HEADS)
    stack = TemporalStack.for_backbone(backbone, num_frames=FRAMES, cross_attention_dim=TOKEN_DIM)
    network = VideoUNet(backbone, stack)
    step = torch.full((BATCH,), 500)
    return Network(
        module=network, temporal="temporal.", run=lambda: network(latents, step, tokens, temporal_tokens_BLC=tokens)
    )


def stable_video_diffusion(latents: Tensor, tokens: Tensor) -> Network:
    network = UNetSpatioTemporalConditionModel(
        **SHAPE, **block_types("SpatioTemporal"), num_attention_heads=HEADS, num_frames=FRAMES,
        addition_time_embed_dim=ADDED_TIME_DIM, projection_class_embeddings_input_dim=3 * ADDED_TIME_DIM,
    )  # fmt: skip
    network.to(latents.device)  # its mixers' alphas are made on the CPU whatever the default device is
    # `temporal` is in the names of residual and transformer blocks; the mixers and frame positions are called `time_`.
    ids, step = torch.zeros(BATCH, 3), torch.full((1,), 500)
    return Network(
        module=network, temporal="tempor", run=lambda: network(latents, step, tokens, added_time_ids=ids).sample
    )


def unet_3d(latents: Tensor, tokens: Tensor) -> Network:
    width = SHAPE["block_out_channels"][0] // HEADS[0]  # type: ignore[index]
    network = UNet3DConditionModel(**SHAPE, **block_types("3D"), attention_head_dim=width)
    video, step = latents.transpose(1, 2).contiguous(), torch.full((BATCH,), 500)
    return Network(module=network, temporal="temp_", run=lambda: network(video, step, tokens).sample)


MAKERS = {OURS: ours, "UNetSpatioTemporalConditionModel": stable_video_diffusion, "UNet3DConditionModel": unet_3d}


def make_networks(device: str, num_tokens: int) -> dict[str, Network]:
    with torch.device(device):
        torch.manual_seed(0)
        latents, tokens = torch.randn(BATCH, FRAMES, *LATENT), torch.randn(BATCH, num_tokens, TOKEN_DIM)
        return {name: make(latents, tokens) for name, make in MAKERS.items()}


@pytest.fixture(scope="module", params=TOKENS)
def num_tokens(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def networks(num_tokens: int) -> dict[str, Network]:
    return make_networks("cpu", num_tokens)


@pytest.fixture(scope="module")
def blank(num_tokens: int) -> dict[str, Network]:
    """The same without memory."""
    return make_networks("meta", num_tokens)


def train_only(network: Network, part: str) -> None:
    for name, parameter in network.module.named_parameters():
        is_temporal = network.temporal in name or "time_mixer" in name or "time_pos" in name
        parameter.requires_grad_(part == "all" or is_temporal)


def without_gradients(network: Network) -> None:
    with torch.no_grad():
        network.run()


def training_step(network: Network) -> None:
    network.module.zero_grad(set_to_none=True)
    network.run().square().mean().backward()


def compare(
    title: str, work: Callable[[Network], None], networks: dict[str, Network], blank: dict[str, Network]
) -> dict[str, float]:
    """Prints time, FLOPs and memory of each; returns memory in MiB."""
    tallies = {name: tally_of(lambda net=net: work(net)) for name, net in blank.items()}
    for net in blank.values():
        net.module.zero_grad(set_to_none=True)
    seconds = in_turn({name: lambda net=net: work(net) for name, net in networks.items()}, ROUNDS)  # type: ignore[misc]
    ratio = seconds[OURS] / min(s for name, s in seconds.items() if name != OURS)
    memory = {name: tally.peak_bytes / MIB for name, tally in tallies.items()}
    print(f"\n{title}, {BATCH} x {FRAMES} x {LATENT}, float32, one thread")
    for name, net in networks.items():
        millions = sum(p.numel() for p in net.module.parameters()) / 1e6
        work_done = gflops(tallies[name])
        print(
            f"  {name:34} {1e3 * seconds[name]:6.0f} ms CPU  {work_done:6.1f} GFLOP  {work_done / seconds[name]:5.1f} "
            f"GFLOP/s  {memory[name]:7.1f} MiB  {millions:.1f} M parameters"
        )
        note(title, network=name, cpu_ms=1e3 * seconds[name], gflop=work_done, peak_mib=memory[name], millions=millions)
    print(f"  time over the faster peer's: {ratio:.2f} (goal {GOAL})")
    note(title, ratio=ratio, goal=GOAL)
    return memory


def assert_no_more_memory(memory: dict[str, float]) -> None:
    peer = "UNetSpatioTemporalConditionModel"  # the faster one
    assert memory[OURS] <= memory[peer]


def test_a_forward_pass(num_tokens: int, networks: dict[str, Network], blank: dict[str, Network]) -> None:
    title = f"video U-Net, forward{TOKENS[num_tokens]}"
    assert_no_more_memory(compare(title, without_gradients, networks, blank))


@pytest.mark.parametrize("part", ["all", "temporal"])
def test_a_training_step(part: str, num_tokens: int, networks: dict[str, Network], blank: dict[str, Network]) -> None:
    """Of everything, and of the temporal layers alone, the others frozen, as a Video LDM is trained."""
    for network in (*networks.values(), *blank.values()):
        train_only(network, part)
    of = "everything" if part == "all" else "the temporal layers"
    title = f"video U-Net, training step of {of}{TOKENS[num_tokens]}"
    assert_no_more_memory(compare(title, training_step, networks, blank))
