"""Layers of a convolutional network run on pieces of a picture, with the result of running them on the whole.

Two things reach beyond a piece: a convolution sees the pixels around it, which come along as a margin and are cut off
again, and a group norm sees the whole picture, whose mean and variance are pooled over all pieces first.

Axes: N frames, C channels, G groups, H W picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Grid = tuple[int, int]  # rows and columns of pieces


class Moments(NamedTuple):
    """What a group norm divides by and takes off, of each frame and group."""

    mean_NG: Tensor
    variance_NG: Tensor


# What a layer makes of a piece (N, C, h, w), given the moments that its first norms see: the input of the next norm,
# or, when none is left, its output.
LayerOnPiece = Callable[[Tensor, list[Moments]], Tensor]

OnPiece = Callable[[Tensor], Tensor]


def normed(piece_NCHW: Tensor, norm: nn.GroupNorm, moments: Moments) -> Tensor:
    """A piece as the group norm leaves it when the whole picture has these moments."""
    per_group = norm.num_channels // norm.num_groups
    scale_NC = (moments.variance_NG + norm.eps).rsqrt().repeat_interleave(per_group, dim=1) * norm.weight
    shift_NC = norm.bias - moments.mean_NG.repeat_interleave(per_group, dim=1) * scale_NC
    shift, scale = (x[:, :, None, None].to(piece_NCHW.dtype) for x in (shift_NC, scale_NC))
    return torch.addcmul(shift, piece_NCHW, scale)


def run_on_pieces(layer: LayerOnPiece, norms: Sequence[nn.GroupNorm], picture_NCHW: Tensor, grid: Grid) -> Tensor:
    """A layer of group norms, each followed by an activation and a convolution of 3 x 3.

    For each norm all pieces are run up to it; whole features are kept before and after the layer alone. Its output is
    written over `picture_NCHW` where it has the same shape.
    """
    known: list[Moments] = []
    for norm in norms:
        known.append(_pooled_moments(layer, known, norm.num_groups, picture_NCHW, grid))
    return sweep(lambda piece: layer(piece, known), picture_NCHW, grid, margin=len(norms))


def sweep(make: OnPiece, picture_NCHW: Tensor, grid: Grid, *, margin: int, scale: int = 1) -> Tensor:
    """What `make` does to a picture, done piece by piece.

    Args:
        make: (N, C, h, w) to (N', C', h * scale, w * scale).
        picture_NCHW: is overwritten where the result has its shape.
        grid: pieces; fewer rows of them where they would be lower than the margin.
        margin: pixels around a piece that its result depends on.
        scale: of the result's height and width.
    """
    height, width = picture_NCHW.shape[2:]
    out: Tensor | None = None
    waiting: tuple[int, Tensor] | None = None  # a row of pieces is written when the row below has been read
    for top, bottom in spans(height, min(grid[0], max(1, height // max(1, margin)))):
        above = min(margin, top)
        rows = picture_NCHW[:, :, top - above : bottom + margin].clone()
        if waiting is not None:
            out = _written(out, waiting, picture_NCHW, scale)
        made = [
            _inner(make(piece), scale * above, scale * left, (scale * (bottom - top), scale * wide))
            for piece, left, wide in _columns(rows, grid[1], margin)
        ]
        waiting = (scale * top, torch.cat(made, dim=3))
    assert waiting is not None
    return _written(out, waiting, picture_NCHW, scale)


def _written(out: Tensor | None, rows: tuple[int, Tensor], picture_NCHW: Tensor, scale: int) -> Tensor:
    top, made = rows
    if out is None:
        shape = (*made.shape[:2], scale * picture_NCHW.shape[2], scale * picture_NCHW.shape[3])
        out = picture_NCHW if shape == picture_NCHW.shape else picture_NCHW.new_empty(shape)
    out[:, :, top : top + made.shape[2]] = made
    return out


def spans(length: int, parts: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of parts as long as each other, or one pixel longer; at most one a pixel."""
    parts = min(parts, length)
    ends = [length * (index + 1) // parts for index in range(parts)]
    yield from zip([0, *ends[:-1]], ends, strict=True)


def _columns(rows_NCHW: Tensor, parts: int, margin: int) -> Iterator[tuple[Tensor, int, int]]:
    """Pieces of rows with their margins, the width of the margin on the left, and the width without margins."""
    for left, right in spans(rows_NCHW.shape[3], parts):
        before = min(margin, left)
        yield rows_NCHW[:, :, :, left - before : right + margin], before, right - left


def _inner(piece_NCHW: Tensor, top: int, left: int, size_hw: tuple[int, int]) -> Tensor:
    return piece_NCHW[:, :, top : top + size_hw[0], left : left + size_hw[1]]


def _pooled_moments(
    layer: LayerOnPiece, known: list[Moments], num_groups: int, picture_NCHW: Tensor, grid: Grid
) -> Moments:
    """Moments over all pieces of what the layer's next norm sees."""
    margin = len(known)

    def pieces() -> Iterator[Tensor]:
        for top, bottom in spans(picture_NCHW.shape[2], grid[0]):
            above = min(margin, top)
            for piece, left, wide in _columns(picture_NCHW[:, :, top - above : bottom + margin], grid[1], margin):
                yield _inner(layer(piece, known), above, left, (bottom - top, wide))

    return pooled(pieces(), num_groups)


def pooled(pieces: Iterable[Tensor], num_groups: int) -> Moments:
    """Moments over all pieces of a picture, (N, C, h, w) each, in float32 or better."""
    means, variances, areas = [], [], []
    for piece in pieces:
        at_least_float = piece.to(torch.promote_types(piece.dtype, torch.float32))
        variance, mean = torch.var_mean(at_least_float.unflatten(1, (num_groups, -1)), dim=(2, 3, 4), correction=0)
        means.append(mean)
        variances.append(variance)
        areas.append(piece.shape[2] * piece.shape[3])
    means_PNG, variances_PNG = torch.stack(means), torch.stack(variances)  # P pieces
    shares_P11 = means_PNG.new_tensor(areas).view(-1, 1, 1) / sum(areas)
    mean_NG = (shares_P11 * means_PNG).sum(dim=0)
    # what varies inside the pieces, and from piece to piece
    return Moments(mean_NG, (shares_P11 * (variances_PNG + (means_PNG - mean_NG).square())).sum(dim=0))
