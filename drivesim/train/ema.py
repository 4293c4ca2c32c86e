"""An exponential moving average of the trained weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EmaWeights(nn.Module):
    """Averaged copies of the parameters that a module trains; saved and moved with its owner.

    Frozen parameters are not copied: with a frozen image backbone that is most of them. The copies have 32 bits or
    more, whatever the weights have: an average's small steps are lost in the rounding of 16.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.decay = decay
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for name, parameter in self._trained.items():
            self.register_buffer(_buffer(name), parameter.detach().clone().to(_wide(parameter.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the averages."""
        return next((average.dtype for average in self.buffers()), torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EmaWeights:
        """Goes where its owner goes, and becomes what its owner becomes, unless that is too short."""

        def applied(average: Tensor) -> Tensor:
            made = fn(average)
            wide = _wide(made.dtype)
            return made if made.dtype is wide else average.to(made.device, wide)

        return super()._apply(applied, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        averages = [self.get_buffer(_buffer(name)) for name in self._trained]
        return averages, [p.data for p in self._trained.values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the averages; early on they follow faster, so that the first weights are forgotten."""
        averages, weights = self._pairs()
        decay = min(self.decay, (1 + step) / (10 + step))
        if all(weight.dtype == average.dtype for average, weight in zip(averages, weights, strict=True)):
            torch._foreach_lerp_(averages, weights, 1 - decay)
            return
        for average, weight in zip(averages, weights, strict=True):  # one by one: a wide copy of all is as much again
            average.lerp_(weight.to(average.dtype), 1 - decay)

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


def _wide(dtype: torch.dtype) -> torch.dtype:
    """A type of 32 bits, or of more where this one has more."""
    return torch.promote_types(dtype, torch.float32)


def _buffer(name: str) -> str:
    return name.replace(".", "/")
