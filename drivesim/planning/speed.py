"""How fast hardware runs what a tally has counted: kernels timed here, or a data sheet's numbers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from drivesim.planning.hardware import DataSheet, Hardware
from drivesim.planning.tally import Kernel, Tally, TensorShape

_aten = torch.ops.aten
# Arguments that hold the batch in their first axis: large kernels are timed on a part of it.
_WITH_BATCH: dict[Any, tuple[int, ...]] = {
    _aten.convolution: (0,),
    _aten.convolution_backward: (0, 1),
    _aten.mm: (0,),
    _aten.addmm: (1,),
    _aten.bmm: (0, 1),
    _aten._scaled_dot_product_flash_attention_for_cpu: (0, 1, 2),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (0, 1, 2, 3, 4, 5),
}
_LARGE_FLOPS = 1e9  # a kernel's rate is the same from here on
_LARGE_BYTES = 64 << 20  # of the copy that bandwidth is measured with: larger than a cache
# Shares of a data sheet's numbers that diffusion networks reach on GPUs; an assumption, and printed as one.
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.4, 0.7


@dataclass(kw_only=True, slots=True)
class Work:
    """What a piece of code does, apart from how fast."""

    kernels: dict[Kernel, float] = field(default_factory=dict)  # how often each runs
    flops_of: dict[Kernel, int] = field(default_factory=dict)
    moved_bytes: float = 0.0  # by operators without FLOPs
    num_calls: float = 0.0  # operators

    @classmethod
    def of(cls, tally: Tally) -> Work:
        """What a tally has counted so far."""
        return cls(
            kernels=dict(tally.kernels),
            flops_of=dict(tally.flops_of),
            moved_bytes=tally.moved_bytes,
            num_calls=tally.num_calls,
        )

    @property
    def flops(self) -> float:
        """Floating point operations, a multiplication and an addition counted as two."""
        return sum(self.flops_of[kernel] * count for kernel, count in self.kernels.items())

    def plus(self, other: Work, times: float = 1) -> Work:
        """This work and the other one `times` times; -1 takes it away."""
        kernels = dict(self.kernels)
        for kernel, count in other.kernels.items():
            kernels[kernel] = kernels.get(kernel, 0) + times * count
        return Work(
            kernels=kernels,
            flops_of=self.flops_of | other.flops_of,
            moved_bytes=self.moved_bytes + times * other.moved_bytes,
            num_calls=self.num_calls + times * other.num_calls,
        )


class Speed(Protocol):
    """Tells how long work takes."""

    def seconds(self, work: Work) -> float:
        """Wall time of the work."""


@dataclass(kw_only=True, slots=True)
class SheetSpeed:
    """Every kernel at a share of what the maker promises, bound by arithmetic or by memory."""

    sheet: DataSheet

    def seconds(self, work: Work) -> float:
        """Wall time of the work."""
        bandwidth = SHARE_OF_BANDWIDTH * self.sheet.gb_a_second * 1e9
        total = work.moved_bytes / bandwidth
        for kernel, count in work.kernels.items():
            shapes = [leaf for leaf in tree_leaves(kernel.arguments()) if isinstance(leaf, TensorShape)]
            is_16 = bool(shapes) and shapes[0].dtype.itemsize == 2
            peak = SHARE_OF_PEAK * 1e12 * (self.sheet.tflops_16 if is_16 else self.sheet.tflops_32)
            moved = sum(_num_elements(shape) * shape.dtype.itemsize for shape in shapes)
            total += count * max(work.flops_of[kernel] / peak, moved / bandwidth)
        return total


@dataclass(kw_only=True, slots=True, frozen=True)
class Timed:
    """One run of a kernel."""

    flops: float
    seconds: float


@dataclass(kw_only=True, slots=True)
class MeasuredSpeed:
    """Kernels that were timed; the others are as fast as those of their operator together, or as all."""

    timed: dict[Kernel, Timed]
    bandwidth: float  # bytes a second that simple operators read and write
    call_s: float  # of an operator on next to nothing

    def seconds(self, work: Work) -> float:
        """Wall time of the work."""
        of_operator: dict[Any, list[Timed]] = defaultdict(list)
        for kernel, run in self.timed.items():
            of_operator[kernel.operator].append(run)
        total = work.moved_bytes / self.bandwidth + work.num_calls * self.call_s
        for kernel, count in work.kernels.items():
            alike = [self.timed[kernel]] if kernel in self.timed else of_operator.get(kernel.operator)
            runs = alike or list(self.timed.values())
            rate = sum(run.flops for run in runs) / sum(run.seconds for run in runs)
            total += count * work.flops_of[kernel] / rate
        return total


def choose_speed(hardware: Hardware, works: Sequence[Work], budget_s: float) -> Speed | None:
    """A data sheet's speed, or this machine's, measured for `budget_s` seconds; None = not wanted."""
    if hardware.sheet is not None:
        return SheetSpeed(sheet=hardware.sheet)
    if budget_s == 0 or hardware.device is None:
        return None
    return measure_speed(works, hardware.device, budget_s)


def measure_speed(works: Sequence[Work], device: str, budget_s: float) -> MeasuredSpeed | None:
    """Times the kernels that do most of the work, at their own shapes, largest share first.

    Args:
        works: what is going to run.
        device: torch device.
        budget_s: wall time to spend; what is left out takes the average.

    Returns:
        None where nothing was timed.
    """
    shares: dict[Kernel, float] = defaultdict(float)
    flops_of: dict[Kernel, int] = {}
    for work in works:
        flops_of |= work.flops_of
        for kernel, count in work.kernels.items():
            shares[kernel] += count * work.flops_of[kernel]
    began = time.perf_counter()
    timed: dict[Kernel, Timed] = {}
    for kernel, share in sorted(shares.items(), key=lambda item: -item[1]):
        if time.perf_counter() - began >= budget_s or share == 0:
            break
        if kernel.operator._overloadpacket in _WITH_BATCH:
            timed[kernel] = _timed(kernel, flops_of[kernel], device)
    if not timed:
        return None
    return MeasuredSpeed(timed=timed, bandwidth=_bandwidth(device), call_s=_call_s(device))


def _timed(kernel: Kernel, flops: int, device: str) -> Timed:
    """One kernel, on a part of its batch where it is large."""
    arguments = list(kernel.arguments())
    batched = _WITH_BATCH[kernel.operator._overloadpacket]
    batch = arguments[batched[0]].shape[0]
    kept = max(1, min(batch, round(batch * _LARGE_FLOPS / max(flops, 1))))
    for place in batched:
        whole = arguments[place]
        arguments[place] = TensorShape((kept, *whole.shape[1:]), whole.stride, whole.dtype)
    real = tree_map(lambda leaf: _filled(leaf, device) if isinstance(leaf, TensorShape) else leaf, tuple(arguments))
    return Timed(flops=flops * kept / batch, seconds=_fastest_s(lambda: kernel.operator(*real), device))


def _filled(shape: TensorShape, device: str) -> Tensor:
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape.shape, shape.stride, strict=True))
    return torch.rand(max(1, length), device=device, dtype=shape.dtype).as_strided(shape.shape, shape.stride)


def _num_elements(shape: TensorShape) -> int:
    total = 1
    for size in shape.shape:
        total *= size
    return total


def _bandwidth(device: str) -> float:
    source = torch.zeros(_LARGE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _LARGE_BYTES / _fastest_s(lambda: target.copy_(source), device)


def _call_s(device: str) -> float:
    one = torch.ones((), device=device)

    def many() -> None:
        for _ in range(100):
            one.add(1)

    return _fastest_s(many, device) / 100


def _fastest_s(run: Callable[[], object], device: str) -> float:
    """The fastest of two runs after one that does not count: others may be using the machine."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return max(min(times[1:]), 1e-9)
