"""Low-rank changes to layers of a network that stays as it is: W + up @ down (arXiv 2106.09685, §4.1).

A convolution's kernel is one matrix, of output channels by input channels and places (LoCon, arXiv 2309.14859).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class LoraLayers(nn.Module):
    """A pair of matrices for each linear layer and 2-D convolution whose name ends as wanted.

    Fresh ones change nothing.

    Args:
        network: whose layers are changed; it is not kept.
        endings: last parts of layers' names, such as to_q; "" is every layer.
        rank: of every change; alpha equals it, so what is added is exactly up @ down.

    Raises:
        ValueError: a rank that is none, a network without such layers, or a convolution in groups of channels.
    """

    def __init__(self, network: nn.Module, endings: Sequence[str], rank: int):
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank {rank}; it must be 1 or more")
        found = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and any(name.endswith(ending) for ending in endings)
        }
        if not found:
            raise ValueError(f"no layer's name ends in {' or '.join(map(repr, endings))}")
        grouped = [name for name, module in found.items() if isinstance(module, nn.Conv2d) and module.groups > 1]
        if grouped:
            raise ValueError(f"convolutions in groups of channels have no low-rank change here: {', '.join(grouped)}")
        layers = {name: module.weight for name, module in found.items()}
        self.names = list(layers)
        down = [torch.randn(rank, *weight.shape[1:]) / math.sqrt(rank) for weight in layers.values()]
        up = [torch.zeros(len(weight), rank, *(1,) * (weight.ndim - 2)) for weight in layers.values()]
        self.down, self.up = nn.ParameterList(down), nn.ParameterList(up)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The changed weights by parameter name, for `torch.func.functional_call`."""
        changed = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            weight: Any = network.get_submodule(name).weight
            change = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            changed[f"{name}.weight"] = weight + change.to(weight.dtype)
        return changed

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """In diffusers' format: PREFIX.layer.lora_A.weight is down, lora_B up; those of a convolution are kernels."""
        named = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            named[f"{prefix}.{name}.lora_A.weight"] = down.detach().contiguous()
            named[f"{prefix}.{name}.lora_B.weight"] = up.detach().contiguous()
        return named
