"""Counts what code does to tensors of the meta device, which have shapes but no memory: FLOPs, bytes, peak memory.

The code that is counted is the code that runs: losses and sampling loops are called as they are, on networks without
weights. Nothing here knows of any network. What stands for several runs alike (`nn.frame_groups`) counts as so many.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from drivesim.nn.frame_groups import times_counted

# glibc takes larger blocks from the system one by one and gives them back at once (M_MMAP_THRESHOLD, mallopt(3)).
LARGEST_HEAP_BLOCK = 32 << 20
_ATEN = torch.ops.aten
_FUSED = _ATEN._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class TensorShape:
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Kernel:
    """One operator with the shapes of its tensors; equal ones take the same time.

    Args:
        operator: of aten.
        args: its arguments; tensors become their shapes.
        key: what makes it equal to others.
    """

    def __init__(self, operator: Any, args: tuple[Any, ...], key: Hashable):
        self.operator = operator
        self._arguments = _with_shapes(args)
        self._key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def arguments(self) -> tuple[Any, ...]:
        """The arguments with `TensorShape` in place of tensors."""
        return tuple(self._arguments)


@dataclass(kw_only=True, slots=True)
class _Seen:
    """An operator that ran on arguments of some shapes."""

    kernel: Kernel | None  # None = it has no number of FLOPs
    flops: int
    made: Any  # a `TensorShape`, or several, for new tensors; None = it writes, or makes views, and is to be run


# What the meta device made of arguments of the same shapes, which takes it a millisecond to find out for norms.
_SEEN: dict[Hashable, _Seen] = {}


def _shape_of(tensor: Tensor) -> TensorShape:
    return TensorShape(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _with_shapes(values: Any) -> Any:
    """Nested values with shapes in place of tensors."""
    return tree_map(lambda leaf: _shape_of(leaf) if isinstance(leaf, Tensor) else leaf, values)


def _key_of(value: Any) -> Hashable:
    """Arguments, as far as a result on the meta device depends on them; 1, 1.0 and True are three."""
    if isinstance(value, Tensor):
        return _shape_of(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_key_of, value))
    if isinstance(value, dict):
        return tuple((name, _key_of(of_name)) for name, of_name in value.items())
    return (type(value), value)


def _made_again(shapes: Any) -> Any:
    if isinstance(shapes, TensorShape):
        return torch.empty_strided(shapes.shape, shapes.stride, dtype=shapes.dtype, device="meta")
    return type(shapes)(map(_made_again, shapes)) if isinstance(shapes, (tuple, list)) else shapes


class Tally(TorchDispatchMode):
    """While it is entered, counts everything that runs on the meta device.

    Memory is that of tensors made inside; weights that were there before are not in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0  # of tensors that were made inside and are still held
        self.peak_bytes = 0  # most of them at once
        self.peak_heap_bytes = 0  # most at once of those that come from a heap, rather than from the system
        self.num_calls = 0  # operators run, views included
        self.kernels: Counter[Kernel] = Counter()  # operators that have a number of FLOPs, by how often they ran
        self.flops_of: dict[Kernel, int] = {}  # of one run
        self.moved_bytes = 0  # read and written by the other operators, views left out
        self._live_heap_bytes = 0
        self._held: dict[int, int] = {}  # storages that were made inside -> bytes
        self._older: dict[int, torch.UntypedStorage] = {}  # storages from before; held, or their ids would come again

    def begin(self) -> None:
        """Counts anew from here; what is held stays held."""
        self.peak_bytes, self.peak_heap_bytes = self.live_bytes, self._live_heap_bytes
        self.num_calls, self.moved_bytes = 0, 0
        self.kernels.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [tensor for tensor in tensors_in((args, kwargs)) if tensor.is_meta]
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if id(storage) not in self._held:
                self._older[id(storage)] = storage
        key = (func, _key_of(args), _key_of(kwargs))
        seen = _SEEN.get(key) if inputs else None
        out = func(*args, **kwargs) if seen is None or seen.made is None else _made_again(seen.made)
        outputs = [tensor for tensor in tensors_in((out,)) if tensor.is_meta]
        made = [self._hold(tensor) for tensor in outputs]
        if inputs or outputs:
            if seen is None:
                seen = _SEEN[key] = _seen(func, (args, kwargs, out), key, is_new=bool(made) and all(made))
            self._count(func, seen, inputs, outputs, any(made))
        return out

    def _hold(self, tensor: Tensor) -> bool:
        """Notes a result's memory until it is freed; whether it is new."""
        storage = tensor.untyped_storage()
        number = id(storage)
        if number in self._held or number in self._older:
            return False
        self._add(storage.nbytes())
        self._held[number] = storage.nbytes()
        weakref.finalize(storage, self._free, number)
        return True

    def _free(self, number: int) -> None:
        self._add(-self._held.pop(number))

    def _add(self, num_bytes: int) -> None:
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if abs(num_bytes) <= LARGEST_HEAP_BLOCK:
            self._live_heap_bytes += num_bytes
            self.peak_heap_bytes = max(self.peak_heap_bytes, self._live_heap_bytes)

    def _count(self, func: Any, seen: _Seen, inputs: list[Tensor], outputs: list[Tensor], is_new: bool) -> None:
        times = times_counted()
        self.num_calls += times
        if seen.kernel is not None:
            self.kernels[seen.kernel] += times
            self.flops_of[seen.kernel] = seen.flops
        elif is_new or func._schema.is_mutable:  # anything else is a view
            self.moved_bytes += times * sum(t.numel() * t.element_size() for t in (*inputs, *outputs))


def _seen(func: Any, call: tuple[Any, Any, Any], key: Hashable, *, is_new: bool) -> _Seen:
    """What is to be known of an operator that ran: arguments, those with names, result."""
    args, kwargs, out = call
    packet = func._overloadpacket
    formula = _FORMULAS.get(packet) or flop_registry.get(packet)
    kernel = None if formula is None else Kernel(func, args, key)
    flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
    can_make = is_new and not func._schema.is_mutable
    return _Seen(kernel=kernel, flops=flops, made=_with_shapes(out) if can_make else None)


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors of nested arguments; torch's own way through them takes three times as long."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out.shape, query.shape, key.shape, value.shape))


# torch's counter has no formulas for the CPU's fused attention.
_FORMULAS: dict[Any, Any] = {_FUSED: _attention_flops, _FUSED_BACKWARD: _attention_backward_flops}
