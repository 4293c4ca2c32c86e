"""The pixel-space upsampler: a diffusion U-Net that turns noise and a small picture into a large one.

Axes: B samples, T frames, C channels, H W pixels of the large picture, h w pixels of the small one, Y X of the large
one whose pixels are folded to channels, N = B * T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import VideoUNet

COLOURS = 3
TOKEN_DIM = 1  # of the constant token that cross-attention sees
# What a U-Net's config says of the scale that it was trained for, which its weights fit any of. diffusers keeps keys
# with a leading underscore without a word; those of earlier trainings have none.
SCALE_KEY = "_upsampler_scale"


@dataclass(kw_only=True, slots=True)
class UpsamplerConfig:
    """Image upsampler (Table 6), and how it is run."""

    scale: int = 4  # pixels of the large picture to one of the small one, a side
    patch_px: int = 1  # side of the patches that are folded into channels before the U-Net; 1 = none, as in the paper
    detail_gain: float | None = None  # diffused is this times what the enlarged picture lacks; None = the picture
    block_out_channels: list[int] = field(default_factory=lambda: [160, 320, 640, 640])  # top to bottom
    attention: list[bool] = field(default_factory=lambda: [False, False, False, True])  # which levels have it
    layers_per_block: int = 2  # residual blocks of a level
    num_heads: int = 4  # of every attention
    norm_num_groups: int = 32  # groups of the group norms
    noise_level: int = 150  # diffusion step whose noise small pictures get when sampling; training draws its own

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if len(self.attention) != levels:
            raise ValueError(f"upsampler: {len(self.attention)} entries in attention for {levels} block_out_channels")
        check_fold(self.scale, self.patch_px)


def check_fold(scale: int, patch_px: int) -> None:
    """Raises ValueError for patches of which no whole number makes up one pixel of the small picture."""
    if scale < 1 or patch_px < 1 or scale % patch_px:
        choices = ", ".join(str(p) for p in range(1, scale + 1) if scale % p == 0)
        raise ValueError(f"upsampler: patch_px={patch_px} for scale={scale}; valid: {choices or 'scale above 0'}")


@dataclass(kw_only=True, slots=True)
class UpsamplerTemporalConfig:
    """Temporal layers of the upsampler (Table 8)."""

    num_frames: int = 8  # frames of a portion
    overlap: int = 2  # frames of a portion that the one before it makes as well; cross-faded
    context_channels: int = 128  # channels that the small frames are convolved to
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.num_frames // 2:
            raise ValueError(
                f"upsampler_temporal: overlap={self.overlap} of num_frames={self.num_frames}; at most half overlaps"
            )


def make_upsampler(config: UpsamplerConfig, low_hw: tuple[int, int]) -> UNet2DConditionModel:
    """A fresh U-Net for small pictures of `low_hw` (height, width).

    The level of noise is told through diffusers' class embedding of type "timestep": neighbouring levels share what
    they learn, which a table of one vector a level (Stable Diffusion's x4 upscaler) leaves to long training.
    Attention levels are diffusers' cross-attention blocks, because those have temporal counterparts; there is no
    text, so they see one constant token (ours).

    Raises:
        ValueError: pictures that the number of levels cannot halve.
    """
    levels = len(config.block_out_channels)
    folded_hw = tuple(side * config.scale // config.patch_px for side in low_hw)
    check_halving(folded_hw, levels, low_hw)
    folded = COLOURS * config.patch_px**2
    unet = UNet2DConditionModel(
        sample_size=folded_hw,
        in_channels=folded + COLOURS,
        out_channels=folded,
        block_out_channels=tuple(config.block_out_channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in config.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(config.attention)),
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=TOKEN_DIM,
        class_embed_type="timestep",
    )
    unet.register_to_config(**{SCALE_KEY: config.scale})
    return unet


def check_halving(folded_hw: tuple[int, ...], levels: int, low_hw: tuple[int, ...]) -> None:
    """Raises ValueError where the U-Net's levels do not divide its input."""
    if any(side % 2 ** (levels - 1) for side in folded_hw):
        raise ValueError(
            f"upsampler: pictures of {list(low_hw)} (height, width) reach the U-Net as {list(folded_hw)}, which cannot "
            f"be halved {levels - 1} times"
        )


def make_upsampler_temporal(config: UpsamplerTemporalConfig, backbone: UNet2DConditionModel) -> TemporalStack:
    """Fresh temporal layers for an upsampler, with the small frames as context."""
    return TemporalStack.for_backbone(
        backbone,
        num_frames=config.num_frames,
        per_frame_alpha=True,
        context_in_channels=COLOURS,
        context_channels=config.context_channels,
        feed_forward_mult=config.feed_forward_mult,
    )


def enlarged(frames_NCHW: Tensor, scale: int) -> Tensor:
    """Pictures made larger bilinearly."""
    if scale == 1:
        return frames_NCHW
    return F.interpolate(frames_NCHW, scale_factor=float(scale), mode="bilinear", align_corners=False)


def _enlarged_folded(frames_NChw: Tensor, scale: int, patch_px: int) -> Iterator[Tensor]:
    """`enlarged`, folded, frame by frame: (3 * patch_px^2, h * scale / patch_px, w * scale / patch_px).

    Every pixel of a large picture is the same weights' mean of a small one and its neighbours: one product, in an
    eighth of the time that enlarging alone takes.
    """
    c, h, w = frames_NChw.shape[1:]
    neighbours_9133 = torch.eye(9).view(9, 1, 3, 3)
    middle_9SS = enlarged(neighbours_9133, scale)[:, 0, scale : 2 * scale, scale : 2 * scale]
    weight_S9 = middle_9SS.flatten(1).T.to(frames_NChw)
    padded = F.pad(frames_NChw, (1, 1, 1, 1), mode="replicate")
    shifted = [padded[:, :, row : row + h, column : column + w] for row in range(3) for column in range(3)]
    pieces = scale // patch_px  # of the folded picture to one small pixel, a side
    for near_C9P in torch.stack(shifted, dim=2).flatten(3):  # one by one they stay in a CPU's cache
        made = (weight_S9 @ near_C9P).view(c, pieces, patch_px, pieces, patch_px, h, w)
        yield made.permute(0, 2, 4, 5, 1, 6, 3).reshape(c * patch_px**2, h * pieces, w * pieces)


class Upsampler(nn.Module):
    """The denoiser of large frames, whose pixels are folded to channels: shows the small frames, tells their noise.

    Args:
        unet: made by `make_upsampler`.
        temporal: made by `make_upsampler_temporal`; None = every frame by itself.
        scale: pixels of the large picture to one of the small one, a side.
        detail_gain: what `UpsamplerConfig` says.

    Raises:
        ValueError: parts that do not fit together, naming both sides.
    """

    def __init__(
        self, unet: UNet2DConditionModel, temporal: TemporalStack | None, *, scale: int, detail_gain: float | None
    ):
        super().__init__()
        self.patch_px = round((unet.config.out_channels / COLOURS) ** 0.5)
        folded = COLOURS * self.patch_px**2
        check_fold(scale, self.patch_px)
        wanted = {"in_channels": folded + COLOURS, "out_channels": folded, "class_embed_type": "timestep"}
        _check_config("upsampler", unet.config, wanted)
        trained = unet.config.get(SCALE_KEY, scale)
        if trained != scale:
            raise ValueError(f"upsampler: scale={scale}, but its U-Net was trained for a scale of {trained}")
        if temporal is not None:
            _check_config("upsampler_temporal", temporal.config, {"context_in_channels": COLOURS})
        self.video_unet = None if temporal is None else VideoUNet(unet, temporal)
        self.unet, self.scale, self.detail_gain = unet, scale, detail_gain

    def forward(
        self, noisy_BTCYX: Tensor, timestep_B: Tensor, noised_low_BTChw: Tensor, noise_level_B: Tensor
    ) -> Tensor:
        """The prediction (B, T, C, Y, X) for noisy samples of what is diffused (`to_diffused`).

        Args:
            noisy_BTCYX: noisy samples.
            timestep_B: int64 diffusion step of each sample.
            noised_low_BTChw: small frames with noise.
            noise_level_B: int64 diffusion step of that noise.
        """
        b, t = noisy_BTCYX.shape[:2]
        shown = enlarged(noised_low_BTChw.flatten(0, 1), self.scale // self.patch_px)
        x = torch.cat([noisy_BTCYX.flatten(0, 1), shown], dim=1)
        token = x.new_zeros(b, 1, TOKEN_DIM)
        if self.video_unet is None:
            steps, levels = (value.repeat_interleave(t) for value in (timestep_B, noise_level_B))
            tokens = token.repeat_interleave(t, dim=0)
            made: Tensor = self.unet(x, steps, tokens, class_labels=levels).sample
            return made.unflatten(0, (b, t))
        return self.video_unet(
            x.unflatten(0, (b, t)), timestep_B, token, context_BTCHW=noised_low_BTChw, noise_level_B=noise_level_B
        )

    def folded_shape(self, low_hw: Sequence[int]) -> tuple[int, int, int]:
        """(C, Y, X) of the folded large picture of a small one (h, w)."""
        height, width = (side * self.scale // self.patch_px for side in low_hw)
        return COLOURS * self.patch_px**2, height, width

    def folded(self, frames_NCHW: Tensor) -> Tensor:
        """Large frames with their pixels folded to channels, (N, C, Y, X)."""
        return F.pixel_unshuffle(frames_NCHW, self.patch_px)

    def unfolded(self, folded_NCYX: Tensor) -> Tensor:
        """Large frames (N, 3, H, W) again."""
        return F.pixel_shuffle(folded_NCYX, self.patch_px)

    def pictures(self, levels_NCYX: Tensor) -> NDArray[np.uint8]:
        """RGB pictures (N, H, W, 3) of folded uint8 levels; rows first, then pixels, in a quarter of the time."""
        n, _, rows, columns = levels_NCYX.shape
        p = self.patch_px
        by_row = (
            levels_NCYX.unflatten(1, (COLOURS, p, p))
            .permute(0, 4, 2, 3, 1, 5)
            .reshape(n, rows * p, p * COLOURS, columns)
        )
        by_pixel = by_row.transpose(2, 3).reshape(n, rows * p, columns * p, COLOURS)
        return by_pixel.cpu().numpy()

    def to_diffused(self, frames_NCHW: Tensor, low_NChw: Tensor) -> Tensor:
        """What is diffused, folded: the large frames, or what the enlarged small ones lack of them, times the gain."""
        if self.detail_gain is None:
            return self.folded(frames_NCHW)
        # Not as one convolution, which mixed precision would round.
        return self.folded(self.detail_gain * (frames_NCHW - enlarged(low_NChw, self.scale)))

    def from_diffused(self, sample_NCYX: Tensor, low_NChw: Tensor) -> Tensor:
        """Folded large frames of what was sampled, written over it.

        `unfolded` makes them the inverse of `to_diffused`.
        """
        if self.detail_gain is not None:
            enlarged_frames = _enlarged_folded(low_NChw, self.scale, self.patch_px)
            for enlarged_CYX, sampled_CYX in zip(enlarged_frames, sample_NCYX, strict=True):
                torch.add(enlarged_CYX, sampled_CYX, alpha=1 / self.detail_gain, out=sampled_CYX)
        return sample_NCYX

    def check_low(self, low_hw: tuple[int, int]) -> None:
        """Raises ValueError for small pictures that the U-Net cannot halve as often as it has to."""
        check_halving(self.folded_shape(low_hw)[1:], len(self.unet.config.block_out_channels), low_hw)


def _check_config(name: str, config: Any, wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if config[key] != value:
            raise ValueError(f"part {name!r} is no upsampler's: {key} is {config[key]}, expected {value}")
