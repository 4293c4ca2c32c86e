"""Counts what code does to tensors of the meta device, which have shapes but no memory: FLOPs, bytes, peak memory.

The code that is counted is the code that runs: losses and sampling loops are called as they are, on networks without
weights. Nothing here knows of any network. What stands for several runs alike (`nn.frame_groups`) counts as so many.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
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
    """

    def __init__(self, operator: Any, args: tuple[Any, ...]):
        leaves, self._tree = tree_flatten(args)
        self.operator = operator
        self._leaves = tuple(_shape_of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self._key = (operator, str(self._leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def arguments(self) -> tuple[Any, ...]:
        """The arguments with `TensorShape` in place of tensors."""
        return tuple(tree_unflatten(list(self._leaves), self._tree))


def _shape_of(tensor: Tensor) -> TensorShape:
    return TensorShape(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


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
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if _is_meta(leaf)]
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if id(storage) not in self._held:
                self._older[id(storage)] = storage
        out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if _is_meta(leaf)]
        made = [self._hold(tensor) for tensor in outputs]
        if inputs or outputs:
            self._count(func, (args, kwargs, out), inputs, outputs, any(made))
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

    def _count(self, func: Any, call: tuple[Any, Any, Any], inputs: Any, outputs: Any, is_new: bool) -> None:
        args, kwargs, out = call
        times = times_counted()
        self.num_calls += times
        packet = func._overloadpacket
        formula = _FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is not None:
            kernel = Kernel(func, args)
            self.kernels[kernel] += times
            if kernel not in self.flops_of:
                self.flops_of[kernel] = formula(*args, **kwargs, out_val=out)
        elif is_new or func._schema.is_mutable:  # anything else is a view
            self.moved_bytes += times * sum(t.numel() * t.element_size() for t in (*inputs, *outputs))


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "meta"


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out.shape, query.shape, key.shape, value.shape))


# torch's counter has no formulas for the CPU's fused attention.
_FORMULAS: dict[Any, Any] = {_FUSED: _attention_flops, _FUSED_BACKWARD: _attention_backward_flops}
