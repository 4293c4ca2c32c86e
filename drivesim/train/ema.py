"""An exponential moving average of the trained weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EmaWeights(nn.Module):
    """Averaged copies of the parameters that a module trains; saved and moved with its owner.

    Frozen parameters are not copied: with a frozen image backbone that is most of them.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.decay = decay
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for name, parameter in self._trained.items():
            self.register_buffer(_buffer(name), parameter.detach().clone())

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        averages = [self.get_buffer(_buffer(name)) for name in self._trained]
        return averages, [p.data for p in self._trained.values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the averages; early on they follow faster, so that the first weights are forgotten."""
        averages, weights = self._pairs()
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The averages in place of the trained weights, for sampling, validation, teaching and export."""
        averages, weights = self._pairs()
        kept = [w.clone() for w in weights]
        torch._foreach_copy_(weights, averages)
        torch.clear_autocast_cache()  # autocast would go on with its casts of the weights that were there before
        try:
            yield
        finally:
            torch._foreach_copy_(self._pairs()[1], kept)  # asked again: a cast inside replaces the tensors
            torch.clear_autocast_cache()


def _buffer(name: str) -> str:
    return name.replace(".", "/")
