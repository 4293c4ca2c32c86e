"""The Video LDM's network: an unmodified image backbone and a temporal stack, run in one explicit loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivesim.models.seen_tokens import SeenTokens, acting_as, attention_to_tokens, each_frame, shown
from drivesim.models.temporal_stack import TemporalAttentionLayer, TemporalStack
from drivesim.nn.frame_groups import at_once, in_groups, standing_for
from drivesim.nn.temporal import ProjectedTokens

# Frames of a group, where image layers take frames in groups. The result is that of all frames bit for bit, with time
# projections of all of them (`_RowsOf`): oneDNN rounds convolutions of single frames otherwise on some processors, and
# torch takes another kernel for 1 x 1 convolutions of 16 frames and more (on one thread of a CPU).
FEWEST_FRAMES, MANY_FRAMES = 4, 16

# What a temporal stack has of its backbone: key of its config -> what it is.
OF_BACKBONE = {
    "block_out_channels": "channels of the levels",
    "layers_per_block": "layers of the levels",
    "attention_blocks": "levels with attention",
    "transformer_layers": "transformer layers of the levels",
    "time_embed_dim": "width of the time embedding",
}

Step = Callable[..., Tensor]


@dataclass(kw_only=True, slots=True)
class DeepFeatures:
    """What all levels but the top one made of a sample, kept from one diffusion step to the next ones.

    It changes slowly from step to step: a pass that is handed it runs the top level alone (DeepCache, Ma et al. 2023).
    """

    features_NCHW: Tensor | None = None  # None = the next pass is whole, and leaves its own here


class VideoUNet(nn.Module):
    """`backbone` on every frame, `temporal` between its layers. alpha = 1 equals the backbone bit for bit.

    Where no gradients are wanted, large clips are made one after the other, and image layers take their frames in
    groups: memory does not grow with the samples, and the frames of one are what the backbone makes of these alone.

    Args:
        backbone: image LDM's U-Net; its frames go through the batch axis.
        temporal: a stack built by `TemporalStack.for_backbone(backbone)`.
    """

    def __init__(self, backbone: UNet2DConditionModel, temporal: TemporalStack):
        super().__init__()
        with torch.device("meta"):  # of its shape alone: at full size it would be gigabytes
            shape = TemporalStack.for_backbone(backbone).config
        for key in OF_BACKBONE:
            own, wanted = (tuple(v) if isinstance(v, list) else v for v in (temporal.config[key], shape[key]))
            if own != wanted:
                raise ValueError(f"temporal stack does not fit the backbone: {key} is {own}, the backbone has {wanted}")
        if backbone.config.class_embeddings_concat:
            raise ValueError("backbone: class_embeddings_concat; temporal layers need class embeddings that are added")
        self.backbone = backbone
        self.temporal = temporal
        self._is_checkpointed = False

    def enable_gradient_checkpointing(self) -> None:
        """In training, what is inside a layer is made again in the backward pass instead of being kept."""
        self._is_checkpointed = True

    def forward(
        self,
        sample_BTCHW: Tensor,
        timestep_B: Tensor,
        tokens: Tensor,
        *,
        token_mask_BL: Tensor | None = None,
        context_BTCHW: Tensor | None = None,
        temporal_tokens_BLC: Tensor | None = None,
        noise_level_B: Tensor | None = None,
        deep: DeepFeatures | None = None,
        seen: SeenTokens | None = None,
    ) -> Tensor:
        """Denoises clips.

        Args:
            sample_BTCHW: noisy latents.
            timestep_B: diffusion step of each sample.
            tokens: conditioning tokens (B, L, C) of each sample, seen by the spatial layers of all its frames; or of
                each frame (B, T, L, C), with T = 1 as well where all see the same.
            token_mask_BL: True = a token, False = padding; None = all are tokens.
            context_BTCHW: given frames and their mask (`conditioning.given_frames`); None = a stack without context.
            temporal_tokens_BLC: tokens for the temporal layers; None = a stack without cross-attention.
            noise_level_B: diffusion step of the noise in what each sample is conditioned on: told to all layers by a
                backbone with a class embedding (the upsamplers), and to the temporal ones by a stack that was built to
                be told (noisy given frames); None = neither. A class embedding of the kind "projection" takes rows
                (B, D) instead (`stable_video.added_time_waves`).
            deep: what a pass of this sample left, to be used again; None = all levels run.
            seen: keys and values of the same tokens, from an earlier pass of this sample or to be left by this one,
                without gradients; None = tokens are projected.

        Returns:
            The prediction (B, T, C, H, W), of the kind the backbone was trained for.
        """
        b, t = sample_BTCHW.shape[:2]
        if b > 1 and self._is_one_by_one(sample_BTCHW):
            of_each = (timestep_B, tokens, token_mask_BL, context_BTCHW, temporal_tokens_BLC, noise_level_B)
            return self._one_by_one(sample_BTCHW, of_each, deep, seen)
        unet = self.backbone
        run = _Run(
            # Repeated before the embedding: a matrix product of another batch size rounds differently.
            time_embed=self._time_embedding(timestep_B.repeat_interleave(t), _each(noise_level_B, t), sample_BTCHW),
            num_frames=t,
            tokens=tokens if tokens.ndim == 4 else tokens[:, None],
            token_bias=_attention_bias(token_mask_BL, t, sample_BTCHW.dtype),
            context=None if context_BTCHW is None else context_BTCHW.flatten(0, 1),
            temporal_tokens=temporal_tokens_BLC,
            temporal_embed=self._noise_embedding(noise_level_B),
            seen=seen,
            is_checkpointed=self._is_checkpointed and torch.is_grad_enabled(),
        )
        h = unet.conv_in(sample_BTCHW.flatten(0, 1))
        skips = [h]
        down = zip(unet.down_blocks, self.temporal.down_blocks, strict=True)
        run.down(h, *next(down), skips)
        del h  # it is among the skips, and gone with them
        below = self._deep(run, down, skips, deep)
        h = run.up(below, unet.up_blocks[-1], self.temporal.up_blocks[-1], skips)
        h = in_groups(lambda part: unet.conv_out(unet.conv_act(unet.conv_norm_out(part))), h, fewest=run.fewest)
        return h.unflatten(0, (b, t))

    def _deep(self, run: _Run, down: Iterator[Any], skips: list[Tensor], deep: DeepFeatures | None) -> list[Tensor]:
        """The input of the last up block, made or known, in a list that alone holds it where nobody keeps it."""
        if deep is None:
            return [self._below(run, down, skips)]
        if deep.features_NCHW is None:
            deep.features_NCHW = self._below(run, down, skips)
        return [deep.features_NCHW]

    def _is_one_by_one(self, sample_BTCHW: Tensor) -> bool:
        """Whether samples, such as the branches of guidance, are made one after the other.

        So their memory does not add up. Where gradients are wanted it would all the same, clips of few frames would
        not be what the backbone makes of a batch bit for bit, and small ones would leave a GPU idle.
        """
        if torch.is_grad_enabled() or sample_BTCHW.shape[1] < FEWEST_FRAMES:
            return False
        numbers = sample_BTCHW[:, :, 0].numel() * int(self.backbone.conv_in.out_channels)
        return at_once(sample_BTCHW, numbers) < len(sample_BTCHW)

    def _one_by_one(
        self,
        sample_BTCHW: Tensor,
        of_each: tuple[Tensor | None, ...],
        deep: DeepFeatures | None,
        seen: SeenTokens | None,
    ) -> Tensor:
        names = ("token_mask_BL", "context_BTCHW", "temporal_tokens_BLC", "noise_level_B")
        b, t = sample_BTCHW.shape[:2]
        made, below = [], []
        runs = 1 if sample_BTCHW.is_meta else b  # where nothing comes of them, one stands for all
        for index in range(runs):
            one = slice(index, index + 1)
            kept = None
            if deep is not None:
                known = deep.features_NCHW
                kept = DeepFeatures(features_NCHW=None if known is None else known[index * t : (index + 1) * t])
            step, tokens, *more = (None if value is None else value[one] for value in of_each)
            assert step is not None and tokens is not None
            others = dict(zip(names, more, strict=True))
            of_sample = None if seen is None else seen.of_sample(index)
            with standing_for(b // runs):
                made.append(self(sample_BTCHW[one], step, tokens, deep=kept, seen=of_sample, **others))
            if kept is not None:
                below.append(kept.features_NCHW)
        if deep is not None and deep.features_NCHW is None:
            deep.features_NCHW = torch.cat([features for features in below if features is not None] * (b // runs))
        return torch.cat(made * (b // runs))

    def _below(self, run: _Run, down: Iterator[Any], skips: list[Tensor]) -> Tensor:
        """What all levels below the top one add: the input of the last up block."""
        unet = self.backbone
        h = _smaller(skips[-1], unet.down_blocks[0], skips)
        for block, temporal in down:
            h = _smaller(run.down(h, block, temporal, skips), block, skips)
        h = run.mid(h, unet.mid_block, self.temporal.mid_block)
        for block, temporal in zip(unet.up_blocks[:-1], self.temporal.up_blocks[:-1], strict=True):
            held = [h]
            del h
            h = run.up(held, block, temporal, skips)
            for upsampler in block.upsamplers or ():
                h = upsampler(h, skips[-1].shape[2:])
        return h

    def _time_embedding(self, timestep_N: Tensor, noise_level_N: Tensor | None, like: Tensor) -> Tensor:
        """(N, D), with the class embedding added where the backbone has one, as its own forward does."""
        unet = self.backbone
        embedding: Tensor = unet.time_embedding(unet.time_proj(timestep_N).to(like.dtype))
        if noise_level_N is not None and noise_level_N.ndim > 1:  # rows for a projection, as precise as its weights
            noise_level_N = noise_level_N.to(like.dtype)
        of_class: Tensor | None = unet.get_class_embed(sample=like, class_labels=noise_level_N)
        return embedding if of_class is None else embedding + of_class

    def _noise_embedding(self, noise_level_B: Tensor | None) -> Tensor | None:
        embed = self.temporal.noise_embed
        is_told = embed is not None or self.backbone.class_embedding is not None
        assert is_told == (noise_level_B is not None), "the noise level is told to parts that were built to be told"
        return None if embed is None else embed(noise_level_B)


def _smaller(h: Tensor, block: Any, skips: list[Tensor]) -> Tensor:
    for downsampler in block.downsamplers or ():
        h = downsampler(h)
        skips.append(h)
    return h


def _each(values_B: Tensor | None, num_frames: int) -> Tensor | None:
    return None if values_B is None else values_B.repeat_interleave(num_frames, dim=0)


def _attention_bias(mask_BL: Tensor | None, num_frames: int, dtype: torch.dtype) -> Tensor | None:
    """(B T, 1, L): 0 for a token, a large negative number for padding, as diffusers' U-Net makes it."""
    if mask_BL is None:
        return None
    return ((1 - mask_BL.to(dtype)) * -10000.0).repeat_interleave(num_frames, dim=0).unsqueeze(1)


class _Run:
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
            self.time_embed_BTD = self.time_embed_BTD + temporal_embed[:, None]
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
