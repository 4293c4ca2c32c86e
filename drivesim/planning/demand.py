"""What a run asks for, whatever the hardware: networks, what stays in memory, and phases of work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from drivesim.planning.speed import Work


@dataclass(kw_only=True, slots=True)
class Part:
    """One network."""

    name: str
    num_parameters: int
    is_trained: bool


@dataclass(kw_only=True, slots=True)
class Phase:
    """Work that is done again and again, and what it holds in memory beside what stays there."""

    name: str
    peak_bytes: int  # most at once
    heap_bytes: int  # most at once of it that comes from a heap, in blocks that are not too large
    work: Work  # of one time
    count: float  # how often


@dataclass(kw_only=True, slots=True)
class Demand:
    """One process of a run."""

    parts: list[Part]
    resident: dict[str, int]  # bytes that stay, by what they are
    phases: list[Phase]
    passing: dict[str, int] = field(default_factory=dict)  # further bytes that are held beside any phase
    passing_heap_bytes: int = 0  # of these, what comes and goes on a heap, in blocks that are not too large

    @property
    def largest(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """Most memory at once, without the process itself."""
        return sum(self.resident.values()) + sum(self.passing.values()) + self.largest.peak_bytes


def part_sizes(parts: Mapping[str, Any], trained: tuple[str, ...] = ()) -> list[Part]:
    """The networks among parts of a model."""
    return [
        Part(name=name, num_parameters=sum(p.numel() for p in part.parameters()), is_trained=name in trained)
        for name, part in parts.items()
        if isinstance(part, nn.Module)
    ]


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, each counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
