"""The Video LDM's network: an unmodified image backbone and a temporal stack, run in one explicit loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from drivesim.models.seen_tokens import SeenTokens
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.unet_pass import FEWEST_FRAMES, UNetPass
from drivesim.nn.frame_groups import in_groups, samples_at_once, standing_for

# What a temporal stack has of its backbone: key of its config -> what it is.
OF_BACKBONE = {
    "block_out_channels": "channels of the levels",
    "layers_per_block": "layers of the levels",
    "attention_blocks": "levels with attention",
    "transformer_layers": "transformer layers of the levels",
    "time_embed_dim": "width of the time embedding",
}


@dataclass(kw_only=True, slots=True)
class DeepFeatures:
    """What all levels but the top one made of a sample, kept from one diffusion step to the next ones.

    It changes slowly from step to step: a pass that is handed it runs the top level alone (DeepCache, Ma et al. 2023).
    """

    features_NCHW: Tensor | None = None  # None = the next pass is whole, and leaves its own here


class VideoUNet(nn.Module):
    """`backbone` on every frame, `temporal` between its layers. alpha = 1 equals the backbone bit for bit.

    Where no gradients are wanted, large clips are made one after the other, small ones some at a time, and image layers
    take their frames in groups: memory does not grow with the samples, and the frames of a large clip are what the
    backbone makes of these alone.

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
        motion_BT2: Tensor | None = None,
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
            motion_BT2: how the ego car drives (`core.motion`), NaN = unknown; None = all unknown, and for a stack that
                was not built to be told.
            deep: what a pass of this sample left, to be used again; None = all levels run.
            seen: keys and values of the same tokens, from an earlier pass of this sample or to be left by this one,
                without gradients; None = tokens are projected.

        Returns:
            The prediction (B, T, C, H, W), of the kind the backbone was trained for.
        """
        b, t = sample_BTCHW.shape[:2]
        size = self._samples_at_once(sample_BTCHW)
        if size < b:
            told = (context_BTCHW, temporal_tokens_BLC, noise_level_B, motion_BT2)
            of_each = (timestep_B, tokens, token_mask_BL, *told)
            return self._in_parts(size, sample_BTCHW, of_each, deep, seen)
        run = UNetPass(
            # Repeated before the embedding: a matrix product of another batch size rounds differently.
            time_embed=self._time_embedding(timestep_B.repeat_interleave(t), _each(noise_level_B, t), sample_BTCHW),
            num_frames=t,
            tokens=tokens if tokens.ndim == 4 else tokens[:, None],
            token_bias=_attention_bias(token_mask_BL, t, sample_BTCHW.dtype),
            context=None if context_BTCHW is None else context_BTCHW.flatten(0, 1),
            temporal_tokens=temporal_tokens_BLC,
            temporal_embed=self._temporal_embedding(noise_level_B, motion_BT2),
            seen=seen,
            is_checkpointed=self._is_checkpointed and torch.is_grad_enabled(),
        )
        return self._levels(run, sample_BTCHW.flatten(0, 1), deep).unflatten(0, (b, t))

    def _levels(self, run: UNetPass, x_NCHW: Tensor, deep: DeepFeatures | None) -> Tensor:
        """All levels, down and up again, on frames (B T) C H W."""
        unet = self.backbone
        h = unet.conv_in(x_NCHW)
        skips = [h]
        down = zip(unet.down_blocks, self.temporal.down_blocks, strict=True)
        run.down(h, *next(down), skips)
        del h  # it is among the skips, and gone with them
        below = self._deep(run, down, skips, deep)
        h = run.up(below, unet.up_blocks[-1], self.temporal.up_blocks[-1], skips)
        return in_groups(lambda part: unet.conv_out(unet.conv_act(unet.conv_norm_out(part))), h, fewest=run.fewest)

    def _deep(self, run: UNetPass, down: Iterator[Any], skips: list[Tensor], deep: DeepFeatures | None) -> list[Tensor]:
        """The input of the last up block, made or known, in a list that alone holds it where nobody keeps it."""
        if deep is None:
            return [self._below(run, down, skips)]
        if deep.features_NCHW is None:
            deep.features_NCHW = self._below(run, down, skips)
        return [deep.features_NCHW]

    def _samples_at_once(self, sample_BTCHW: Tensor) -> int:
        """How many samples, such as the branches of guidance, are made at once, and the others after them.

        So their memory does not add up. Where gradients are wanted it would all the same, clips of few frames would
        not be what the backbone makes of a batch bit for bit, and small ones would leave a GPU idle.
        """
        if torch.is_grad_enabled() or sample_BTCHW.shape[1] < FEWEST_FRAMES:
            return len(sample_BTCHW)
        numbers = sample_BTCHW[:, :, 0].numel() * int(self.backbone.conv_in.out_channels)
        return samples_at_once(sample_BTCHW, numbers)

    def _in_parts(
        self,
        size: int,
        sample_BTCHW: Tensor,
        of_each: tuple[Tensor | None, ...],
        deep: DeepFeatures | None,
        seen: SeenTokens | None,
    ) -> Tensor:
        """`size` samples at a time."""
        names = ("token_mask_BL", "context_BTCHW", "temporal_tokens_BLC", "noise_level_B", "motion_BT2")
        b, t = sample_BTCHW.shape[:2]
        made, below = [], []
        for first in range(0, b, size):
            part = slice(first, first + size)
            times = b // size if sample_BTCHW.is_meta and first + size <= b else 1
            if times > 1 and first > 0:
                continue  # where nothing comes of them, one part stands for all of its size
            kept = None
            if deep is not None:
                known = deep.features_NCHW
                kept = DeepFeatures(features_NCHW=None if known is None else known[first * t : (first + size) * t])
            step, tokens, *more = (None if value is None else value[part] for value in of_each)
            assert step is not None and tokens is not None
            others = dict(zip(names, more, strict=True))
            of_part = None if seen is None else seen.of_part(first)
            with standing_for(times):
                made += [self(sample_BTCHW[part], step, tokens, deep=kept, seen=of_part, **others)] * times
            if kept is not None:
                below += [kept.features_NCHW] * times
        if deep is not None and deep.features_NCHW is None:
            deep.features_NCHW = torch.cat([features for features in below if features is not None])
        return torch.cat(made)

    def _below(self, run: UNetPass, down: Iterator[Any], skips: list[Tensor]) -> Tensor:
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

    def _temporal_embedding(self, noise_level_B: Tensor | None, motion_BT2: Tensor | None) -> Tensor | None:
        """What temporal layers are told besides the time, (B, T or 1, D); None = nothing."""
        of_noise, of_motion = self.temporal.noise_embed, self.temporal.motion_embed
        is_told = of_noise is not None or self.backbone.class_embedding is not None
        assert is_told == (noise_level_B is not None), "the noise level is told to parts that were built to be told"
        assert motion_BT2 is None or of_motion is not None, "motion is told to stacks that were built to be told"
        told = [] if of_noise is None else [of_noise(noise_level_B)[:, None]]
        if of_motion is not None and motion_BT2 is not None:
            told.append(of_motion(motion_BT2))
        return sum(told[1:], start=told[0]) if told else None


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
