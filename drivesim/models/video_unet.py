"""The Video LDM's network: an unmodified image backbone and a temporal stack, run in one explicit loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivesim.models.temporal_stack import TemporalAttentionLayer, TemporalStack


@dataclass(kw_only=True, slots=True)
class DeepFeatures:
    """What all levels but the top one made of a sample, kept from one diffusion step to the next ones.

    It changes slowly from step to step: a pass that is handed it runs the top level alone (DeepCache, Ma et al. 2023).
    """

    features_NCHW: Tensor | None = None  # None = the next pass is whole, and leaves its own here


class VideoUNet(nn.Module):
    """`backbone` on every frame, `temporal` between its layers. alpha = 1 equals the backbone bit for bit.

    Args:
        backbone: image LDM's U-Net; its frames go through the batch axis.
        temporal: a stack built by `TemporalStack.for_backbone(backbone)`.
    """

    def __init__(self, backbone: UNet2DConditionModel, temporal: TemporalStack):
        super().__init__()
        with torch.device("meta"):  # of its shape alone: at full size it would be gigabytes
            shape = TemporalStack.for_backbone(backbone).config
        for key in ("block_out_channels", "layers_per_block", "attention_blocks", "transformer_layers"):
            if tuple(shape[key]) != tuple(temporal.config[key]):
                raise ValueError(
                    f"temporal stack does not fit the backbone: {key} is {tuple(temporal.config[key])}, "
                    f"the backbone has {tuple(shape[key])}"
                )
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
    ) -> Tensor:
        """Denoises clips.

        Args:
            sample_BTCHW: noisy latents.
            timestep_B: diffusion step of each sample.
            tokens: conditioning tokens (B, L, C) of each sample, seen by the spatial layers of all its frames; or of
                each frame (B, T, L, C).
            token_mask_BL: True = a token, False = padding; None = all are tokens.
            context_BTCHW: given frames and their mask (`conditioning.given_frames`); None = a stack without context.
            temporal_tokens_BLC: tokens for the temporal layers; None = a stack without cross-attention.
            noise_level_B: diffusion step of the noise in what each sample is conditioned on: told to all layers by a
                backbone with a class embedding (the upsamplers), and to the temporal ones by a stack that was built to
                be told (noisy given frames); None = neither. A class embedding of the kind "projection" takes rows
                (B, D) instead (`stable_video.added_time_waves`).

        Returns:
            The prediction (B, T, C, H, W), of the kind the backbone was trained for.
        """
        b, t = sample_BTCHW.shape[:2]
        unet = self.backbone
        run = _Run(
            # Repeated before the embedding: a matrix product of another batch size rounds differently.
            time_embed=self._time_embedding(timestep_B.repeat_interleave(t), _each(noise_level_B, t), sample_BTCHW),
            num_frames=t,
            tokens=tokens.flatten(0, 1) if tokens.ndim == 4 else tokens.repeat_interleave(t, dim=0),
            token_bias=_attention_bias(token_mask_BL, t, sample_BTCHW.dtype),
            context=None if context_BTCHW is None else context_BTCHW.flatten(0, 1),
            temporal_tokens=temporal_tokens_BLC,
            temporal_embed=self._noise_embedding(noise_level_B),
            is_checkpointed=self._is_checkpointed and torch.is_grad_enabled(),
        )
        h = unet.conv_in(sample_BTCHW.flatten(0, 1))
        skips = [h]
        down = zip(unet.down_blocks, self.temporal.down_blocks, strict=True)
        h = run.down(h, *next(down), skips)
        if deep is None or deep.features_NCHW is None:
            below = self._below(run, h, down, skips)
            if deep is not None:
                deep.features_NCHW = below
        else:
            below = deep.features_NCHW
        h = run.up(below, unet.up_blocks[-1], self.temporal.up_blocks[-1], skips)
        h = unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
        return h.unflatten(0, (b, t))

    def _below(self, run: _Run, h: Tensor, down: Iterator[Any], skips: list[Tensor]) -> Tensor:
        """What all levels below the top one add: the input of the last up block."""
        unet = self.backbone
        h = _smaller(h, unet.down_blocks[0], skips)
        for block, temporal in down:
            h = _smaller(run.down(h, block, temporal, skips), block, skips)
        h = run.mid(h, unet.mid_block, self.temporal.mid_block)
        for block, temporal in zip(unet.up_blocks[:-1], self.temporal.up_blocks[:-1], strict=True):
            h = run.up(h, block, temporal, skips)
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


def _at(block: nn.Module, name: str, index: int) -> Transformer2DModel | None:
    modules = getattr(block, name, None)
    return modules[index] if modules is not None else None


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
        is_checkpointed: bool,
    ):
        self.time_embed_ND = time_embed
        self.time_embed_BTD = time_embed.unflatten(0, (-1, num_frames))
        if temporal_embed is not None:
            self.time_embed_BTD = self.time_embed_BTD + temporal_embed[:, None]
        self.num_frames = num_frames
        self.tokens = tokens
        self.token_bias = token_bias
        self.context = context
        self.temporal_tokens = temporal_tokens
        self.is_checkpointed = is_checkpointed

    def layer(
        self, h: Tensor, resnet: nn.Module, attention: Transformer2DModel | None, temporal: Any, index: int
    ) -> Tensor:
        """One spatial residual block and transformer, each followed by its temporal layer."""
        if self.is_checkpointed:
            made: Tensor = checkpoint(self._layer, h, resnet, attention, temporal, index, use_reentrant=False)
            return made
        return self._layer(h, resnet, attention, temporal, index)

    def _layer(
        self, h: Tensor, resnet: nn.Module, attention: Transformer2DModel | None, temporal: Any, index: int
    ) -> Tensor:
        h = temporal.resnets[index](resnet(h, self.time_embed_ND), self.time_embed_BTD, self.context)
        if attention is None:
            return h
        return self.transformer(h, attention, temporal.attentions[index])

    def down(self, h: Tensor, block: Any, temporal: Any, skips: list[Tensor]) -> Tensor:
        """A down block but for its downsampler; what its layers make is kept for the up block of that level."""
        for index, resnet in enumerate(block.resnets):
            h = self.layer(h, resnet, _at(block, "attentions", index), temporal, index)
            skips.append(h)
        return h

    def up(self, h: Tensor, block: Any, temporal: Any, skips: list[Tensor]) -> Tensor:
        """An up block but for its upsampler."""
        for index, resnet in enumerate(block.resnets):
            h = torch.cat([h, skips.pop()], dim=1)
            h = self.layer(h, resnet, _at(block, "attentions", index), temporal, index)
        return h

    def mid(self, h: Tensor, block: Any, temporal: Any) -> Tensor:
        """Residual block, transformer, residual block."""
        h = self.layer(h, block.resnets[0], block.attentions[0], temporal, 0)
        return self.layer(h, block.resnets[1], None, temporal, 1)

    def transformer(self, h_NCHW: Tensor, spatial: Transformer2DModel, temporal: TemporalAttentionLayer) -> Tensor:
        """A spatial transformer whose every block is followed by attention over time."""
        n, _, height, width = h_NCHW.shape
        linear = spatial.use_linear_projection
        x = spatial.norm(h_NCHW)
        if not linear:
            x = spatial.proj_in(x)
        x = x.permute(0, 2, 3, 1).reshape(n, height * width, -1)
        if linear:
            x = spatial.proj_in(x)
        positions = temporal.positions(self.num_frames, x)
        for index, block in enumerate(spatial.transformer_blocks):
            x = block(x, encoder_hidden_states=self.tokens, encoder_attention_mask=self.token_bias)
            video_BTPC = x.unflatten(0, (-1, self.num_frames))
            x = temporal(index, video_BTPC, positions, self.temporal_tokens).flatten(0, 1)
        if linear:
            x = spatial.proj_out(x)
        x = x.reshape(n, height, width, -1).permute(0, 3, 1, 2).contiguous()
        if not linear:
            x = spatial.proj_out(x)
        return x + h_NCHW
