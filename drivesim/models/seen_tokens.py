"""Keys and values of tokens, projected once a sample: its diffusion steps all see the same ones.

Axes: B samples, F frames that are told something of their own (1 where all are told the same), T frames, N = B * T,
L tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.nn.temporal import ProjectedTokens, TemporalTransformerBlock

KeysValues = tuple[Tensor, Tensor]


@dataclass(slots=True)
class SeenTokens:
    """What attention layers made of a sample's tokens at its first pass, kept for the later ones.

    It holds for the same networks and the same tokens, without gradients for either.
    """

    _of_layer: dict[nn.Module, Any] = field(default_factory=dict)
    _of_parts: dict[int, SeenTokens] = field(default_factory=dict)

    def of_part(self, first: int) -> SeenTokens:
        """What is kept of the samples of a batch from number `first` on, where parts are made one after the other."""
        return self._of_parts.setdefault(first, SeenTokens())

    @torch.no_grad()
    def over_time(self, block: TemporalTransformerBlock, tokens_BLC: Tensor | None) -> ProjectedTokens | None:
        """What a block of temporal attention sees."""
        if block not in self._of_layer:
            self._of_layer[block] = block.projected(tokens_BLC)
        kept: ProjectedTokens | None = self._of_layer[block]
        return kept

    @torch.no_grad()
    def of_frames(self, layer: Any, tokens_BFLC: Tensor, num_frames: int) -> KeysValues:
        """Keys and values (N, L, C) that an image model's attention layer sees, equal frames as views of one.

        All frames are projected for it, as the image model does: some processors round fewer rows otherwise.
        """
        if layer not in self._of_layer:
            own = tokens_BFLC.shape[1]
            tokens_NLC = each_frame(tokens_BFLC, num_frames)
            made = (to(tokens_NLC).unflatten(0, (-1, num_frames))[:, :own] for to in (layer.to_k, layer.to_v))
            self._of_layer[layer] = tuple(x.clone() if own < num_frames else x for x in made)
        keys, values = (each_frame(x, num_frames) for x in self._of_layer[layer])
        return keys, values


def each_frame(tokens_BFLC: Tensor, num_frames: int) -> Tensor:
    """(N, L, C): the tokens of every frame; of one clip as a view."""
    b, own, *rest = tokens_BFLC.shape
    assert own in (1, num_frames), f"tokens of {own} frames for clips of {num_frames}; expected 1 or all"
    return tokens_BFLC.expand(b, num_frames, *rest).flatten(0, 1)


def attention_to_tokens(block: Any) -> list[Any]:
    """The attention layers of an image model's transformer block that see tokens; in some models both do."""
    layers = (block.attn1, block.attn2)
    return [layer for layer in layers if layer is not None and layer.is_cross_attention]


@contextmanager
def shown(layers: list[Any], kept: list[Tensor]) -> Iterator[None]:
    """Attention layers that see these keys and values, two tensors a layer, whatever tokens they are handed."""
    projections = [to for layer in layers for to in (layer.to_k, layer.to_v)]
    with ExitStack() as stack:
        for projection, rows in zip(projections, kept, strict=True):
            stack.enter_context(acting_as(projection, lambda _, rows=rows: rows))
        yield


@contextmanager
def acting_as(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """A module whose `forward` is another for a while."""
    own, is_own = module.forward, "forward" in vars(module)
    module.forward = forward
    try:
        yield
    finally:
        module.forward = own
        if not is_own and not torch.compiler.is_compiling():  # a bound method left here goes round in a circle with it
            del module.forward
