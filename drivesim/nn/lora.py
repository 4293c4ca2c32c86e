"""Low-rank changes to linear layers of a network that stays as it is: W + up @ down (arXiv 2106.09685, §4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class LoraLayers(nn.Module):
    """A pair of matrices for each linear layer whose name ends as wanted; at first they change nothing.

    Args:
        network: whose layers are changed; it is not kept.
        endings: last parts of layers' names, such as to_q.
        rank: of every change; alpha equals it, so what is added is exactly up @ down.

    Raises:
        ValueError: a rank that is none, or a network without such layers.
    """

    def __init__(self, network: nn.Module, endings: Sequence[str], rank: int):
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank {rank}; it must be 1 or more")
        layers = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and any(name.endswith(ending) for ending in endings)
        }
        if not layers:
            raise ValueError(f"no linear layer's name ends in {', '.join(endings)}")
        self.names = list(layers)
        down = [torch.randn(rank, layer.in_features) / math.sqrt(rank) for layer in layers.values()]
        self.down = nn.ParameterList(down)
        self.up = nn.ParameterList([torch.zeros(layer.out_features, rank) for layer in layers.values()])

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The changed weights by parameter name, for `torch.func.functional_call`."""
        changed = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            weight: Any = network.get_submodule(name).weight
            changed[f"{name}.weight"] = weight + (up @ down).to(weight.dtype)
        return changed

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """In diffusers' format: PREFIX.layer.lora_A.weight is down, lora_B up."""
        named = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            named[f"{prefix}.{name}.lora_A.weight"] = down.detach().contiguous()
            named[f"{prefix}.{name}.lora_B.weight"] = up.detach().contiguous()
        return named
