"""Large pictures through an image autoencoder's decoder in bands: the memory of a band, and no seams.

Group norms and attention see a whole picture. What they see there is taken from a summary of it, the latents resized
to few positions: means and variances for the norms, keys and values for the attention. With these every band is decoded
with all that its convolutions need. Tiles with norms and attention of their own are further off the whole decoder.

Axes: N frames, C channels, H W latents or what is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from drivesim.nn.bands import COLUMNS, ROWS, Convolution, Layer, OnEach, OnPixels, Residual, Stage, flow
from drivesim.nn.tiles import Moments, normed, pooled

WHOLE = 96 * 96  # latents of a picture that is decoded at once, exactly as the autoencoder does
SUMMARY = 48 * 48  # latents of a summary, at most
# Numbers of a band, and pixels that it has at least: with fewer a convolution's time goes into ordering its weights.
# A GPU is kept busy by as many as stand for it here.
_BAND = {"cpu": 2**18, "meta": 2**18}  # what is counted is a CPU's
_BAND_ON_GPU = 2**24
_PIXELS = 2**10


class _Seen(NamedTuple):
    """What layers see of the whole picture."""

    moments: dict[nn.Module, Moments]  # of group norms
    keys: dict[nn.Module, tuple[Tensor, Tensor]]  # of attention: keys and values (N, heads, positions, width)


def layers_of(decoder: Decoder) -> Iterator[tuple[int, nn.Module]]:
    """All layers in order, each with the number of its level: 0 for the middle, and upwards from there.

    The first convolution counts to the middle; the last norm, activation and convolution to the last level.
    """
    yield 0, decoder.conv_in
    blocks: Any = [decoder.mid_block, *decoder.up_blocks]
    for level, block in enumerate(blocks):
        attentions = getattr(block, "attentions", ())
        for index, resnet in enumerate(block.resnets):
            yield level, resnet
            yield from ((level, layer) for layer in attentions[index : index + 1] if layer is not None)
        yield from ((level, layer) for layer in getattr(block, "upsamplers", None) or ())
    for layer in (decoder.conv_norm_out, decoder.conv_act, decoder.conv_out):
        yield len(blocks) - 1, layer


@torch.no_grad()
def decode_in_bands(decoder: Decoder, latents_NCHW: Tensor, before: OnPixels) -> Tensor:
    """As `decoder(before(latents))`, (N, 3, f * H, f * W), with norms and attention that see a summary of the latents.

    Args:
        decoder: in evaluation mode, with group norms.
        latents_NCHW: on its device.
        before: what latents go through first, each by itself.
    """
    seen = _summarised(decoder, before(_resized(latents_NCHW)))
    lines_on = ROWS if latents_NCHW.shape[2] > latents_NCHW.shape[3] else COLUMNS  # what is kept is lines: short ones
    stages = _stages(decoder, seen, before, latents_NCHW, lines_on)
    n, _, height, width = latents_NCHW.shape
    scale = 2 ** (len(stages) - 1)
    picture = latents_NCHW.new_empty(n, decoder.conv_out.out_channels, scale * height, scale * width)
    return _collected(flow(stages, latents_NCHW, lines_on), picture, lines_on)


def _resized(latents_NCHW: Tensor) -> Tensor:
    """Few latents, with the mean and the variance of all."""
    height, width = latents_NCHW.shape[2:]
    share = min(1.0, (SUMMARY / (height * width)) ** 0.5)
    size_hw = max(1, int(share * height)), max(1, int(share * width))
    latents = latents_NCHW.to(torch.promote_types(latents_NCHW.dtype, torch.float32))
    small = F.interpolate(latents, size_hw, mode="bicubic", antialias=True)
    (variance, mean), (had, was) = (torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0) for x in (latents, small))
    small = (small - was) * (variance / had.clamp(min=torch.finfo(had.dtype).tiny)).sqrt() + mean
    return small.to(latents_NCHW.dtype)


def _stages(decoder: Decoder, seen: _Seen, before: OnPixels, latents_NCHW: Tensor, lines_on: int) -> list[Stage]:
    """All layers: the first stage takes bands of latents, each of the others enlarges what it takes first."""
    *layers, norm, activation, conv_out = (layer for _, layer in layers_of(decoder))
    length = latents_NCHW.shape[COLUMNS if lines_on == ROWS else ROWS]  # of a line
    made: list[Layer] = [OnEach(before)]
    stages = [Stage(_lines(decoder.conv_in.out_channels, length, latents_NCHW), made)]
    for layer in layers:
        if isinstance(layer, Upsample2D):
            length *= 2
            lines = _lines(layer.out_channels, 2 * length, latents_NCHW)
            made = _enlarging(layer, lines_on)
            stages.append(Stage(lines, made))
        elif isinstance(layer, Attention):
            made.append(OnEach(partial(_attended, layer, seen)))
        elif isinstance(layer, ResnetBlock2D):
            branch = [_convolution(layer, which, lines_on, seen) for which in (1, 2)]
            made.append(Residual(branch, lines_on, _shortcut(layer)))
        else:
            assert isinstance(layer, nn.Conv2d), layer
            made.append(Convolution(layer, lines_on))
    assert isinstance(norm, nn.GroupNorm) and isinstance(conv_out, nn.Conv2d)
    made.append(Convolution(conv_out, lines_on, partial(_activated, norm, activation, seen)))
    return stages


def _lines(channels: int, length: int, like: Tensor) -> int:
    """Lines of a band, of so many pixels each."""
    numbers = _BAND.get(like.device.type, _BAND_ON_GPU)
    return max(1, max(numbers // channels, _PIXELS) // (len(like) * length))


def _enlarging(layer: Any, lines_on: int) -> list[Layer]:
    return [Convolution(layer.conv, lines_on, _doubled)]


def _doubled(band: Tensor) -> Tensor:
    return F.interpolate(band, scale_factor=2.0, mode="nearest")


def _convolution(block: Any, which: int, lines_on: int, seen: _Seen) -> Layer:
    """The first or second norm, activation and convolution of a residual block.

    It has neither time embedding nor dropout, as decoders have them.
    """
    norm, conv = (block.norm1, block.conv1) if which == 1 else (block.norm2, block.conv2)
    return Convolution(conv, lines_on, partial(_activated, norm, block.nonlinearity, seen))


def _shortcut(block: Any) -> OnPixels:
    return block.conv_shortcut or nn.Identity()  # type: ignore[no-any-return]


def _activated(norm: nn.GroupNorm, activation: nn.Module, seen: _Seen, band: Tensor) -> Tensor:
    h = normed(band, norm, seen.moments[norm])
    return F.silu(h, inplace=True) if isinstance(activation, nn.SiLU) else activation(h)


def _attended(attention: Any, seen: _Seen, band: Tensor) -> Tensor:
    """Attention of a band's pixels to the keys of the summary."""
    queries = _heads(attention, attention.to_q(_pixels(attention, seen, band)))
    made = F.scaled_dot_product_attention(queries, *seen.keys[attention])
    out = attention.to_out[0](made.transpose(1, 2).flatten(2)).transpose(1, 2)
    return (band + out.unflatten(2, band.shape[2:])) / attention.rescale_output_factor  # type: ignore[no-any-return]


def _pixels(attention: Any, seen: _Seen, band: Tensor) -> Tensor:
    """What queries, keys and values are made of: (N, positions, C)."""
    return normed(band, attention.group_norm, seen.moments[attention.group_norm]).flatten(2).transpose(1, 2)


def _heads(attention: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)


def _summarised(decoder: Decoder, small_NCHW: Tensor) -> _Seen:
    """What norms and attention see of a small picture, which goes through layer by layer."""
    seen = _Seen({}, {})
    *layers, last_norm, _, _ = (layer for _, layer in layers_of(decoder))
    h = small_NCHW
    for layer in layers:
        if isinstance(layer, Attention):
            _note(seen, layer.group_norm, h)
            x = _pixels(layer, seen, h)
            seen.keys[layer] = (_heads(layer, layer.to_k(x)), _heads(layer, layer.to_v(x)))
            h = _attended(layer, seen, h)
        elif isinstance(layer, ResnetBlock2D):
            h = _summary_through(layer, h, seen)
        elif isinstance(layer, Upsample2D):
            n, _, height, width = h.shape
            made = flow([Stage(_lines(layer.out_channels, 4 * width, h), _enlarging(layer, ROWS))], h, ROWS)
            h = _collected(made, h.new_empty(n, layer.out_channels, 2 * height, 2 * width), ROWS)
        else:
            h = layer(h)
    _note(seen, last_norm, h)
    return seen


def _note(seen: _Seen, norm: Any, h: Tensor) -> None:
    seen.moments[norm] = pooled(h.split(_lines(h.shape[1], h.shape[3], h), dim=ROWS), norm.num_groups)


def _summary_through(block: Any, h: Tensor, seen: _Seen) -> Tensor:
    """A residual block; its result is written over what goes in where there is room."""
    n, channels, height, width = h.shape
    lines = _lines(max(channels, block.out_channels), width, h)
    _note(seen, block.norm1, h)
    inner = h.new_empty(n, block.out_channels, height, width)
    _collected(flow([Stage(lines, [_convolution(block, 1, ROWS, seen)])], h, ROWS), inner, ROWS)
    _note(seen, block.norm2, inner)
    out = h[:, : block.out_channels] if block.out_channels <= channels else torch.empty_like(inner)
    first = 0
    for made in flow([Stage(lines, [_convolution(block, 2, ROWS, seen)])], inner, ROWS):
        rows = slice(first, first := first + made.shape[ROWS])
        out[:, :, rows] = _shortcut(block)(h[:, :, rows]) + made
    return out


def _collected(bands: Iterator[Tensor], room: Tensor, lines_on: int) -> Tensor:
    """Bands one after the other, in a picture that has room for them."""
    first = 0
    for band in bands:
        room.narrow(lines_on, first, band.shape[lines_on]).copy_(band)
        first += band.shape[lines_on]
    return room
