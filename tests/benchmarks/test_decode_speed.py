"""Decoding a video: our video decoder in chunks beside Stable Video Diffusion's decoder of the same spatial layers.

Both have two residual blocks a level and one more going up, as published (with one, the peer runs no attention), and a
layer over time after each of them: ours of one (3, 3, 3) convolution, theirs of two (3, 1, 1) ones. Float32, one
thread, CPU time, in turn. Goals: the same time or less, and memory that does not grow with the video, where theirs,
which decodes a video at once, does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig
from drivesim.models.video_decoding import decode_chunks
from tests.benchmarks.measuring import MIB, gflops, in_turn, note, tally_of

OURS, PEER = "VideoDecoder", "AutoencoderKLTemporalDecoder"
LATENT = (4, 16, 32)
SHAPE = {"block_out_channels": (32, 64, 128), "layers_per_block": 2, "latent_channels": LATENT[0]}
FRAMES_AT_ONCE = 16  # of a rollout
ROUNDS = {8: 2, 32: 2, 128: 1}  # of each number of frames

Decode = Callable[[torch.Tensor], None]


def make_decoders(device: str) -> dict[str, Decode]:
    with torch.device(device):
        torch.manual_seed(0)
        image = AutoencoderKL(
            **SHAPE, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3
        )
        decoder = VideoDecoder.for_autoencoder(image, VideoDecoderConfig()).eval()
        peer = AutoencoderKLTemporalDecoder(**SHAPE, down_block_types=("DownEncoderBlock2D",) * 3).eval()
    peer.to(device)  # its mixers' alphas are made on the CPU whatever the default device is
    for name, module in ((OURS, decoder), (PEER, peer.decoder)):
        print(f"\n{name}: {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters", end="")

    def ours(latents_TCHW: torch.Tensor) -> None:
        for _ in decode_chunks(decoder, latents_TCHW, 0, len(latents_TCHW), frames_at_once=FRAMES_AT_ONCE):
            pass  # where a rollout hands them on

    @torch.no_grad()
    def theirs(latents_TCHW: torch.Tensor) -> None:
        peer.decode(latents_TCHW, num_frames=len(latents_TCHW))

    return {OURS: ours, PEER: theirs}


def test_memory_is_flat_where_the_peers_grows() -> None:
    decoders = make_decoders("meta")
    peaks: dict[str, list[float]] = {OURS: [], PEER: []}
    for num_frames in (8, 32, 64, 128):
        latents = torch.empty(num_frames, *LATENT, device="meta")
        for name, decode in decoders.items():
            tally = tally_of(lambda decode=decode, latents=latents: decode(latents))
            peaks[name].append(tally.peak_bytes / MIB)
            print(
                f"\n{name}, {num_frames} frames: {tally.peak_bytes / MIB:.1f} MiB, "
                f"{gflops(tally) / num_frames:.2f} GFLOP a frame", end="",
            )  # fmt: skip
            note("video decode, memory", network=name, frames=num_frames, peak_mib=tally.peak_bytes / MIB)
    assert peaks[OURS][3] == pytest.approx(peaks[OURS][2], rel=0.01)  # both have chunks with context on both sides
    assert peaks[PEER][3] == pytest.approx(2 * peaks[PEER][2], rel=0.01)


@pytest.mark.parametrize("num_frames", ROUNDS)
def test_time_a_frame(num_frames: int) -> None:
    decoders = make_decoders("cpu")
    latents = torch.randn(num_frames, *LATENT)
    works = {name: lambda decode=decode: decode(latents) for name, decode in decoders.items()}
    seconds = in_turn(works, ROUNDS[num_frames])  # type: ignore[arg-type]
    for name, value in seconds.items():
        print(f"\n{name}, {num_frames} frames: {1e3 * value / num_frames:.1f} ms CPU a frame", end="")
        note("video decode, time", network=name, frames=num_frames, cpu_ms_a_frame=1e3 * value / num_frames)
    print(f"\ntime over the peer's: {seconds[OURS] / seconds[PEER]:.2f} (goal 1.0)")
