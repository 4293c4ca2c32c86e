"""Long videos and large pictures through the video decoder: in chunks of frames and in tiles, as if all at once.

A frame depends on the frames within the decoder's radius and on no other, so a chunk is decoded with these beside it.
Tiles are run in step, layer by layer, with the statistics of the whole frame (`nn.tiles`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from drivesim.models.video_decoder import VideoDecoder, run_layer
from drivesim.nn.tiles import Grid, Moments, normed, run_on_pieces, sweep
from drivesim.nn.video_convolution import Cut, VideoConvLayer


def decode_chunks(
    decoder: VideoDecoder,
    latents_TCHW: Tensor,
    first: int,
    last: int,
    *,
    frames_at_once: int = 16,
    tiles: Grid = (1, 1),
) -> Iterator[Tensor]:
    """As `decode_clip`, chunk by chunk of `frames_at_once` or, at the end, fewer; nothing of no frames.

    Memory depends on `frames_at_once` and `decoder.radius`, not on the video's length.
    """
    for start in range(first, last, frames_at_once):
        yield decode_clip(decoder, latents_TCHW, start, min(start + frames_at_once, last), tiles=tiles)


@torch.no_grad()
def decode_clip(decoder: VideoDecoder, latents_TCHW: Tensor, first: int, last: int, *, tiles: Grid = (1, 1)) -> Tensor:
    """Frames [first, last) of a video, whose other frames within the decoder's radius are their context.

    Args:
        decoder: in evaluation mode.
        latents_TCHW: scaled latents. Frames that are not there count as beyond the video's ends: they may be missing
            where the video begins or ends, and where they are more than `decoder.radius` away.
        first: the first frame.
        last: the frame after the last one.
        tiles: rows and columns that pictures are cut into; the more, the less memory, and at most one a latent.

    Returns:
        Float frames (last - first, 3, H, W) in [-1, 1] on the decoder's device.

    Raises:
        ValueError: frames that are not in the video, or tiles that cannot be.
    """
    total, radius = len(latents_TCHW), decoder.radius
    if not 0 <= first < last <= total:
        raise ValueError(f"frames [{first}, {last}) of {total}; expected 0 <= first < last <= {total}")
    if min(tiles) < 1 or tiles[0] > latents_TCHW.shape[2] or tiles[1] > latents_TCHW.shape[3]:
        raise ValueError(f"tiles={tiles}; valid: rows and columns from 1 to {tuple(latents_TCHW.shape[2:])}")
    lead, trail = min(radius, first), min(radius, total - last)
    latents = latents_TCHW[first - lead : last + trail].to(decoder.decoder.conv_in.weight)  # quicker than `device`
    if tiles == (1, 1):
        return decoder(latents[None], lead, trail)[0].clamp(-1, 1)  # type: ignore[no-any-return]
    return _decode_tiled(decoder, latents, (lead, trail), tiles).clamp(-1, 1)


def _decode_tiled(decoder: VideoDecoder, latents_TCHW: Tensor, context: Cut, tiles: Grid) -> Tensor:
    """As `decoder(...)`. Whole frames up to the last attention, where pictures are small, pieces of them from there."""
    layers = list(decoder.layers(*context))
    is_up = [isinstance(layer, Upsample2D) for layer, _ in layers]
    last_attention = max((index for index, (layer, _) in enumerate(layers) if isinstance(layer, Attention)), default=0)
    start = is_up.index(True, last_attention) if any(is_up[last_attention:]) else len(layers) - 3
    h = decoder.unscaled(latents_TCHW)
    for layer, cut in layers[:start]:
        h = run_layer(layer, h, 1, cut)
    for layer, cut in layers[start:-3]:
        h = _on_pieces(layer, cut, h, tiles)
    norm, activation, conv = (layer for layer, _ in layers[-3:])
    assert isinstance(norm, nn.GroupNorm)
    return run_on_pieces(partial(_picture_of_piece, norm, activation, conv), [norm], h, tiles)


def _on_pieces(layer: nn.Module, cut: Cut, frames_NCHW: Tensor, tiles: Grid) -> Tensor:
    if isinstance(layer, Upsample2D):
        return sweep(layer, frames_NCHW, tiles, margin=1, scale=2)
    if isinstance(layer, ResnetBlock2D):
        return run_on_pieces(partial(_resnet_on_piece, layer), [layer.norm1, layer.norm2], frames_NCHW, tiles)
    assert isinstance(layer, VideoConvLayer), layer
    return run_on_pieces(partial(_video_layer_on_piece, layer, cut), _norms(layer), frames_NCHW, tiles)


def _norms(layer: VideoConvLayer) -> Sequence[nn.GroupNorm]:
    norms: Any = layer.norms
    return list(norms)


def _resnet_on_piece(block: Any, piece_NCHW: Tensor, known: list[Moments]) -> Tensor:
    """A residual block without time embedding and dropout, as decoders have them."""
    h = piece_NCHW
    for norm, conv, moments in zip((block.norm1, block.norm2), (block.conv1, block.conv2), known, strict=False):
        h = conv(block.nonlinearity(normed(h, norm, moments)))
    if len(known) < 2:
        return h
    shortcut = piece_NCHW if block.conv_shortcut is None else block.conv_shortcut(piece_NCHW)
    return (shortcut + h) / block.output_scale_factor  # type: ignore[no-any-return]


def _video_layer_on_piece(layer: Any, cut: Cut, piece_TCHW: Tensor, known: list[Moments]) -> Tensor:
    h = piece_TCHW
    for norm, conv, left_out, moments in zip(layer.norms, layer.convs, layer.cuts(cut), known, strict=False):
        h = conv(F.silu(normed(h, norm, moments))[None], left_out)[0]
    if len(known) < len(layer.norms):
        return h
    return layer.mixed(piece_TCHW[None], h[None], cut)[0]  # type: ignore[no-any-return]


def _picture_of_piece(norm: nn.GroupNorm, activation: Any, conv: Any, piece: Tensor, known: list[Moments]) -> Tensor:
    return conv(activation(normed(piece, norm, known[0]))) if known else piece  # type: ignore[no-any-return]
