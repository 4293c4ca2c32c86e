"""Image layers on some frames, and networks on some samples at a time, where nothing is kept for a backward pass.

The results are the same but for rounding, in less memory.

Axes: N frames, C channels, P positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

# Numbers of an activation that an image layer takes at once; what it makes of them may be 16 times as many on the way.
# On a CPU a forward pass of 8 frames takes 3 % less time so than at once, and as much with twice as many (64, 128 and
# 256 channels, 20 x 32). A GPU is kept busy by as many as stand for it here; smaller activations are not split there.
_AT_ONCE = {"cpu": 2**16, "meta": 2**16}  # what is counted is a CPU's
_AT_ONCE_ON_GPU = 2**24
# Of whole samples, such as windows of interpolation: eight of 4 frames of 8 x 16 take four fifths of the time of eight
# by themselves (64 and 128 channels), where each operator's own cost is much of it.
_SAMPLES_AT_ONCE = {"cpu": 2**18, "meta": 2**18}
_TIMES: ContextVar[int] = ContextVar("times", default=1)


@contextmanager
def standing_for(times: int) -> Iterator[None]:
    """What runs inside stands for so many runs alike, which the meta device need not make: nothing comes of them."""
    if times == 1:  # always so on other devices; torch.compile cannot follow a context variable
        yield
        return
    token = _TIMES.set(_TIMES.get() * times)
    try:
        yield
    finally:
        _TIMES.reset(token)


def times_counted() -> int:
    """How many runs an operator that runs now stands for."""
    return _TIMES.get()


def at_once(frames: Tensor, numbers: int) -> int:
    """How many of (N, ...) an image layer takes at once when its largest activation of all has so many numbers."""
    return _fitting(frames, numbers, _AT_ONCE)


def samples_at_once(samples: Tensor, numbers: int) -> int:
    """How many of (B, ...) a network takes at once when its largest activation of all has so many numbers."""
    return _fitting(samples, numbers, _SAMPLES_AT_ONCE)


def _fitting(batch: Tensor, numbers: int, most: dict[str, int]) -> int:
    return max(1, most.get(batch.device.type, _AT_ONCE_ON_GPU) * len(batch) // numbers)


def in_groups(layer: Callable[..., Tensor], *frames: Tensor, fewest: int = 1) -> Tensor:
    """`layer(*frames)`, of all frames at once where gradients are wanted.

    Args:
        layer: makes of each frame something by itself.
        frames: (N, ...) each.
        fewest: frames of a group. Kernels for so few rows that they choose another order of sums round differently.
    """
    first = frames[0]
    if torch.is_grad_enabled():
        return layer(*frames)
    size = max(fewest, at_once(first, max(x.numel() for x in frames)))
    if size + fewest > len(first):  # a rest that is too small would be left
        return layer(*frames)
    made: Tensor | None = None
    ends = [*range(size, len(first) - fewest + 1, size), len(first)]
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        if first.is_meta and 0 < begin < ends[-2]:
            continue  # the first group, of the same size, stands for it
        with standing_for(len(ends) - 1 if first.is_meta and begin == 0 else 1):
            group = layer(*(x[begin:end] for x in frames))
            if made is None:
                made = _like(group, len(first))
            made[begin:end] = group
    assert made is not None
    return made


def _like(group: Tensor, num_frames: int) -> Tensor:
    """Room for what is made of so many frames, in the memory layout of a group's."""
    layout = torch.channels_last if group.ndim == 4 and not group.is_contiguous() else torch.contiguous_format
    return torch.empty((num_frames, *group.shape[1:]), dtype=group.dtype, device=group.device, memory_format=layout)
