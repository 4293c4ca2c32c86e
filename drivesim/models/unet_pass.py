"""One forward pass of the video network: its layers, with what stays the same through all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivesim.models.seen_tokens import SeenTokens, acting_as, attention_to_tokens, each_frame, shown
from drivesim.models.temporal_stack import TemporalAttentionLayer
from drivesim.nn.frame_groups import in_groups
from drivesim.nn.temporal import ProjectedTokens

# Frames of a group, where image layers take frames in groups. The result is that of all frames bit for bit, with time
# projections of all of them (`_RowsOf`): oneDNN rounds convolutions of single frames otherwise on some processors, and
# torch takes another kernel for 1 x 1 convolutions of 16 frames and more (on one thread of a CPU).
FEWEST_FRAMES, MANY_FRAMES = 4, 16

Step = Callable[..., Tensor]


class UNetPass:
    """What stays the same through all layers of one forward pass."""

    def __init__(
        self,
        *,
        time_embed: Tensor,
        num_frames: int,
        tokens: Tensor,
        token_bias: Tensor | None,
        context: Tensor | None,
        temporal_tokens: Tensor | None,
        temporal_embed: Tensor | None,
        seen: SeenTokens | None,
        is_checkpointed: bool,
    ):
        self.time_embed_ND = time_embed
        self.time_embed_BTD = time_embed.unflatten(0, (-1, num_frames))
        if temporal_embed is not None:
            self.time_embed_BTD = self.time_embed_BTD + temporal_embed
        self.num_frames = num_frames
        self.fewest = MANY_FRAMES if len(time_embed) >= MANY_FRAMES else FEWEST_FRAMES
        self.tokens_BFLC, self.tokens_NLC = tokens, each_frame(tokens, num_frames).contiguous()
        self.seen = seen
        self.token_bias = token_bias
        self.context = context
        self.temporal_tokens = temporal_tokens
        self.is_checkpointed = is_checkpointed

    def down(self, h: Tensor, block: Any, temporal: Any, skips: list[Tensor]) -> Tensor:
        """A down block but for its downsampler; what its layers make is kept for the up block of that level."""
        for steps in self._layers(block, temporal):
            h = self._run(steps, [h])
            skips.append(h)
        return h

    def up(self, below: list[Tensor], block: Any, temporal: Any, skips: list[Tensor]) -> Tensor:
        """An up block but for its upsampler; takes what came up out of `below`, to be its only holder."""
        for steps in self._layers(block, temporal):
            below.append(self._run(steps, [below.pop(), skips.pop()]))
        return below.pop()

    def mid(self, h: Tensor, block: Any, temporal: Any) -> Tensor:
        """Residual block, transformer, residual block."""
        for steps in self._layers(block, temporal):
            h = self._run(steps, [h])
        return h

    def _layers(self, block: Any, temporal: Any) -> Iterator[Sequence[Step]]:
        """One spatial residual block and transformer at a time, each followed by its temporal layer."""
        attentions = getattr(block, "attentions", ())
        for index, resnet in enumerate(block.resnets):
            over_time = temporal.resnets[index]
            steps = [partial(self.resnet, resnet), partial(self.over_time, over_time)]
            if index < len(attentions):
                steps.append(partial(self.transformer, attentions[index], temporal.attentions[index]))
            yield steps

    def _run(self, steps: Sequence[Step], inputs: list[Tensor]) -> Tensor:
        """`steps` one after the other; the inputs are let go after the first."""
        if self.is_checkpointed:
            made: Tensor = checkpoint(lambda *h: _one_after_the_other(steps, list(h)), *inputs, use_reentrant=False)
            return made
        return _one_after_the_other(steps, inputs)

    def resnet(self, resnet: nn.Module, *h_NCHW: Tensor) -> Tensor:
        """A spatial residual block, in an up block of what came up and what was kept side by side."""

        def of_group(time_embed: Tensor, h: Tensor, *skip: Tensor) -> Tensor:
            return resnet(torch.cat([h, *skip], dim=1) if skip else h, time_embed)  # type: ignore[no-any-return]

        return in_groups(_RowsOf(resnet, of_group, self.time_embed_ND), self.time_embed_ND, *h_NCHW, fewest=self.fewest)

    def over_time(self, layer: nn.Module, h_NCHW: Tensor) -> Tensor:
        """The temporal residual block that follows."""
        return layer(h_NCHW, self.time_embed_BTD, self.context)  # type: ignore[no-any-return]

    def transformer(self, spatial: Transformer2DModel, temporal: TemporalAttentionLayer, h_NCHW: Tensor) -> Tensor:
        """A spatial transformer whose every block is followed by attention over time."""
        x = in_groups(partial(_into, spatial), h_NCHW, fewest=self.fewest)
        positions = temporal.positions(self.num_frames, x)
        for index, block in enumerate(spatial.transformer_blocks):
            x = self._transformer_block(block, x)
            x = temporal(index, x.unflatten(0, (-1, self.num_frames)), positions, self._over_time(temporal, index))
            x = x.flatten(0, 1)
        return in_groups(partial(_out_of, spatial), h_NCHW, x, fewest=self.fewest)

    def _over_time(self, layer: TemporalAttentionLayer, index: int) -> ProjectedTokens | None:
        """What a block of temporal attention sees of tokens."""
        block: Any = layer.blocks[index]
        if self.seen is None:
            return block.projected(self.temporal_tokens)  # type: ignore[no-any-return]
        return self.seen.over_time(block, self.temporal_tokens)

    def _transformer_block(self, block: nn.Module, x_NPC: Tensor) -> Tensor:
        layers, kept = [], []
        if self.seen is not None:
            layers = attention_to_tokens(block)
            kept = [x for layer in layers for x in self.seen.of_frames(layer, self.tokens_BFLC, self.num_frames)]

        def of_group(x: Tensor, tokens: Tensor, *more: Tensor) -> Tensor:
            known, bias = list(more[: len(kept)]), more[len(kept) :]
            with shown(layers, known):
                return block(x, encoder_hidden_states=tokens, encoder_attention_mask=bias[0] if bias else None)  # type: ignore[no-any-return]

        bias = () if self.token_bias is None else (self.token_bias,)
        return in_groups(of_group, x_NPC, self.tokens_NLC, *kept, *bias)


class _RowsOf:
    """A residual block on one group of frames after the other, with the time projections of all frames.

    Some processors round a projection of fewer rows otherwise: all rows are projected, and the group's are taken.
    """

    def __init__(self, resnet: Any, of_group: Step, time_embed_ND: Tensor):
        self._projection: nn.Module = resnet.time_emb_proj
        self._of_group, self._time_embed_ND, self._num_done = of_group, time_embed_ND, 0

    def __call__(self, time_embed: Tensor, *h_NCHW: Tensor) -> Tensor:
        first, number = self._num_done, len(time_embed)
        self._num_done += number
        if number == len(self._time_embed_ND):
            return self._of_group(time_embed, *h_NCHW)  # type: ignore[no-any-return]
        whole = self._projection.forward
        with acting_as(self._projection, lambda time_embed: whole(time_embed).narrow(0, first, number)):
            return self._of_group(self._time_embed_ND, *h_NCHW)  # type: ignore[no-any-return]


def _one_after_the_other(steps: Sequence[Step], inputs: list[Tensor]) -> Tensor:
    first, *others = steps
    made = first(*inputs)
    inputs.clear()
    for step in others:
        made = step(made)
    return made


def _into(spatial: Transformer2DModel, h_NCHW: Tensor) -> Tensor:
    """What the blocks of a spatial transformer take, (N, P, C)."""
    n, _, height, width = h_NCHW.shape
    x = spatial.norm(h_NCHW)
    if not spatial.use_linear_projection:
        x = spatial.proj_in(x)
    x = x.permute(0, 2, 3, 1).reshape(n, height * width, -1)
    return spatial.proj_in(x) if spatial.use_linear_projection else x


def _out_of(spatial: Transformer2DModel, h_NCHW: Tensor, x_NPC: Tensor) -> Tensor:
    """What a spatial transformer gives, from its input and what its blocks made of it."""
    n, _, height, width = h_NCHW.shape
    x = spatial.proj_out(x_NPC) if spatial.use_linear_projection else x_NPC
    x = x.reshape(n, height, width, -1).permute(0, 3, 1, 2).contiguous()
    return (x if spatial.use_linear_projection else spatial.proj_out(x)) + h_NCHW
