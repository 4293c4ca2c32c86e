"""Makes code run on the meta device as on a real one: fused attention, mixed precision, and results that leave it.

The meta device has none of these: attention falls back to a matrix of all scores, autocast knows no such device, and
tensors without values cannot be copied to the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from drivesim.planning.tally import tensors_in

# Of autocast's lists for CUDA those that our networks and losses call.
_IN_16_BIT = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, Tensor.matmul, Tensor.__matmul__,
}  # fmt: skip
_IN_32_BIT = {
    F.group_norm, F.layer_norm, F.softmax, F.mse_loss, F.l1_loss, F.cosine_similarity, torch.cdist,
    torch.exp, torch.log, torch.pow, torch.softmax, torch.sum, torch.norm, Tensor.exp, Tensor.log, Tensor.pow,
    Tensor.softmax, Tensor.sum, Tensor.norm,
}  # fmt: skip


class AsOnDevice(TorchFunctionMode):
    """While it is entered, meta tensors behave as those of a real device; what is read of their values is zero or true.

    Args:
        low: 16-bit type of mixed precision; None = everything as it comes.
    """

    def __init__(self, low: torch.dtype | None = None):
        super().__init__()
        self.low = low
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # trained weights -> their 16-bit copies, as autocast's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if any(tensor.is_meta for tensor in tensors) and any(_is_elsewhere(tensor) for tensor in tensors):
            args, kwargs = tree_map(_joined, (args, kwargs))
        if self.low is not None and func in _IN_16_BIT:
            args, kwargs = tree_map(self._to_low, (args, kwargs))
        elif self.low is not None and func in _IN_32_BIT:
            args, kwargs = tree_map(_to_float, (args, kwargs))
        if func is Tensor.backward and args[0].is_meta:
            self._backward(args[0])
            return None
        if func is torch.autograd.grad and args[0][0].is_meta:  # of one loss
            return self._backward(args[0][0], args[1], keep_graph=bool(kwargs.get("retain_graph")))
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _fused_attention(*args, **kwargs)
        if func in _LEAVING and args[0].is_meta:
            return _LEAVING[func](args[0])
        if func is Tensor.to and args[0].is_meta:
            args, kwargs = tree_map(_stay, (args, kwargs))
        return func(*args, **kwargs)

    def _backward(self, loss: Tensor, inputs: tuple[Tensor, ...] = (), *, keep_graph: bool = False) -> Any:
        """Gradients of the inputs; without inputs none, and those of all weights are kept there.

        The mode is left while a function of torch's runs; layers that a backward pass runs again are to see it.

        Both of torch's own functions for it would come here again, hence its engine.
        """
        with torch.no_grad():
            ones = torch.ones_like(loss)
        engine: Any = torch.autograd.Variable._execution_engine
        with self:
            return engine.run_backward(
                (loss,), (ones,), keep_graph, False, inputs, allow_unreachable=True, accumulate_grad=not inputs
            )

    def _to_low(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype is not torch.float32 or not value.is_meta:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.low)
        if id(value) not in self._copies:
            self._copies[id(value)] = (value, value.to(self.low))
        return self._copies[id(value)][1]


def _is_elsewhere(tensor: Tensor) -> bool:
    return not tensor.is_meta and tensor.ndim > 0


def _joined(value: Any) -> Any:
    """What lies on the CPU joins the meta device, which stands for it as well."""
    return value.to("meta") if isinstance(value, Tensor) and _is_elsewhere(value) else value


def _stay(value: Any) -> Any:
    is_device = isinstance(value, (torch.device, str))
    return torch.device("meta") if is_device else value


def _array(tensor: Tensor) -> Any:
    kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    return np.broadcast_to(np.zeros((), dtype=kind), tuple(tensor.shape))  # one number, whatever the shape


# What takes values off the device.
_LEAVING: dict[Any, Any] = {
    Tensor.cpu: lambda tensor: tensor,
    Tensor.numpy: _array,
    Tensor.__bool__: lambda tensor: True,
    Tensor.item: lambda tensor: 0,
}


def _to_float(value: Any) -> Any:
    is_low = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_low else value


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """As the fused kernels of every device: memory grows with the length, not with its square."""
    if attn_mask is not None and attn_mask.dtype is not torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out
