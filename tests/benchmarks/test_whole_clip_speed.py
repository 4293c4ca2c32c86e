"""A whole clip of text-to-video, from noise to its last large frame: seconds by stage, with random weights.

On a GPU the paper's model, 113 frames of 1280 x 2048 in bfloat16 by the default preset, and the allocator's peak; it
takes as long with random weights as with trained ones. Elsewhere a tiny model of the same classes, whose stages are all
called and timed by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from drivesim import Simulator
from drivesim.families.finishing import Finishing
from drivesim.families.text import TextModel
from drivesim.families.text_parts import TextParts, read_text_index
from drivesim.families.text_published import INDEX, published_parts
from drivesim.families.text_upscale import LatentUpscaling
from drivesim.models.stored_weights import set_weight_type
from tests.benchmarks.measuring import note
from tests.families.tiny_text import write_tiny_text

WEIGHT_STD = 0.02
PROMPT = "a car on a road at night"
# What is timed -> the stage's name. Finishing calls the two of the upscaler, which are taken from its time.
STAGES = {
    (TextModel, "predict"): "key frames",
    (TextModel, "interpolate"): "frames between them",
    (Finishing, "push"): "decoding",
    (LatentUpscaling, "make"): "upscaling",
    (LatentUpscaling, "pictures"): "decoding of large frames",
}


@contextmanager
def timed_stages(settle: Callable[[], None]) -> Iterator[dict[str, float]]:
    """Seconds of each stage of what runs inside; `settle` waits for a device."""
    seconds = dict.fromkeys(STAGES.values(), 0.0)

    def timed(method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            settle()
            began = time.perf_counter()
            made = method(*args, **named)
            settle()
            seconds[stage] += time.perf_counter() - began
            return made

        return call

    with ExitStack() as stack:
        for (owner, name), stage in STAGES.items():
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), stage)))
        yield seconds
    seconds["decoding"] -= seconds["upscaling"] + seconds["decoding of large frames"]


def clip_of(model: TextModel, settle: Callable[[], None]) -> tuple[dict[str, float], list[tuple[int, ...]]]:
    """Seconds by stage, those outside all of them included, and the shapes of the chunks of frames."""
    began = time.perf_counter()
    with timed_stages(settle) as seconds:
        shapes = [frames.shape for frames in Simulator(model).rollout(prompt=PROMPT, seed=0)]
    whole = time.perf_counter() - began
    return seconds | {"outside the networks": whole - sum(seconds.values()), "the whole clip": whole}, shapes


def report(seconds: dict[str, float], num_frames: int, **more: Any) -> None:
    for stage, took in seconds.items():
        print(f"\n  {stage:26} {took:8.1f} s", end="")
    note("text, whole clip", frames=num_frames, **{f"{stage} s": took for stage, took in seconds.items()}, **more)


def with_random_weights(parts: TextParts, device: str, dtype: torch.dtype) -> TextParts:
    """Parts that were built without memory, in the memory of a device."""
    torch.manual_seed(0)
    for network in parts.networks().values():
        set_weight_type(network, dtype)
        network.to_empty(device=device)
        for tensor in [*network.parameters(), *network.buffers()]:
            fill(tensor)
    parts.keep_from_overflow()
    return parts


def fill(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        nn.init.normal_(tensor, std=WEIGHT_STD)
    else:  # positions of a text encoder's tokens
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))


def test_all_stages_of_a_tiny_clip_are_timed(tmp_path: Path) -> None:
    folder = write_tiny_text(tmp_path / "tiny")
    parts = with_random_weights(TextModel.from_pretrained(folder).parts, "cpu", torch.float32)
    seconds, shapes = clip_of(TextModel(parts, read_text_index(folder), "random"), lambda: None)
    report(seconds, sum(shape[0] for shape in shapes))
    assert {shape[1:] for shape in shapes} == {(64, 128, 3)} and sum(shape[0] for shape in shapes) == 9
    assert all(took > 0 for took in seconds.values())
    assert seconds["outside the networks"] < 0.2 * seconds["the whole clip"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_papers_clip_on_a_gpu() -> None:
    parts = with_random_weights(published_parts(), "cuda", torch.bfloat16)
    model = TextModel(parts, INDEX, "random")
    torch.cuda.reset_peak_memory_stats()
    seconds, shapes = clip_of(model, torch.cuda.synchronize)
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    report(seconds, sum(shape[0] for shape in shapes), device="cuda:0", dtype="bfloat16", peak_gib=peak_gib)
    print(f"\n  peak {peak_gib:.1f} GiB", end="")
    assert {shape[1:] for shape in shapes} == {(1280, 2048, 3)} and sum(shape[0] for shape in shapes) == 113
