"""Layers over a picture that passes by in bands of lines, with the result of running them on the whole picture.

Lines are rows or columns. A convolution keeps the two lines that it needs again, so nothing is computed twice; its
result comes one line late, and is made up for with the last band.

Axes: N frames, C channels, h w of a band.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.nn.frame_groups import standing_for

OnPixels = Callable[[Tensor], Tensor]  # (N, C, h, w) to (N, C', h, w), or larger: each pixel by itself

ROWS, COLUMNS = 2, 3  # the axis that lines follow each other on
# Lines after which bands come out with as many as went in: one stands for the others where work is counted.
_SETTLED = 32


class Layer(Protocol):
    """Takes bands in order."""

    def push(self, band_NChw: Tensor, is_last: bool) -> Tensor | None:
        """What the layer makes of the lines that have come and that it has not given out yet; None = none so far."""


class Stage(NamedTuple):
    """Layers that take bands of at most so many lines."""

    lines: int
    layers: Sequence[Layer]


def flow(stages: Sequence[Stage], picture_NCHW: Tensor, lines_on: int) -> Iterator[Tensor]:
    """What all stages make of a picture, band by band; each goes all the way before the next one begins."""
    bands = picture_NCHW.split(stages[0].lines, dim=lines_on)
    settled = -(-_SETTLED // stages[0].lines)
    if not picture_NCHW.is_meta or len(bands) < settled + 3:
        yield from _flow(stages, deque(bands), lines_on, is_last=True)
        return
    yield from _flow(stages, deque(bands[:settled]), lines_on, is_last=False)
    with standing_for(len(bands) - settled - 1):
        yield from _flow(stages, deque(bands[settled : settled + 1]), lines_on, is_last=False)
    yield from _flow(stages, deque(bands[-1:]), lines_on, is_last=True)


def _flow(stages: Sequence[Stage], bands: deque[Tensor], lines_on: int, is_last: bool) -> Iterator[Tensor]:
    """Takes bands out, so that none is kept while what is made of it is on its way."""
    while bands:
        band = bands.popleft()
        is_end = is_last and not bands
        made = _through(stages[0].layers, band, is_end)
        del band
        if made is None:
            continue
        if len(stages) == 1:
            yield made
            continue
        pieces = made.split(stages[1].lines, dim=lines_on)
        # copies, of which each can be let go by itself
        next_bands = deque(pieces if len(pieces) == 1 else [piece.clone() for piece in pieces])
        del made, pieces
        yield from _flow(stages[1:], next_bands, lines_on, is_end)


def _through(layers: Sequence[Layer], band_NChw: Tensor, is_last: bool) -> Tensor | None:
    for layer in layers:
        made = layer.push(band_NChw, is_last)
        if made is None:
            return None
        band_NChw = made
    return band_NChw


class OnEach:
    """Something that each pixel goes through by itself."""

    def __init__(self, make: OnPixels):
        self._make = make

    def push(self, band_NChw: Tensor, is_last: bool) -> Tensor:
        return self._make(band_NChw)


class Convolution:
    """A convolution of 3 x 3 that keeps a picture's size, after something that each pixel goes through by itself.

    Args:
        conv: a padding of one pixel, of zeros.
        lines_on: `ROWS` or `COLUMNS`.
        before: what pixels go through first; zeros lie around what it makes of them.
    """

    def __init__(self, conv: nn.Conv2d, lines_on: int, before: OnPixels | None = None):
        self._conv, self._lines_on, self._before = conv, lines_on, before
        self._kept: Tensor | None = None  # the last lines that have come, as the convolution sees them
        self._padding = (0, 1) if lines_on == ROWS else (1, 0)

    def push(self, band_NChw: Tensor, is_last: bool) -> Tensor | None:
        band = band_NChw if self._before is None else self._before(band_NChw)
        shape = list(band.shape)
        lead = 1 if self._kept is None else 2
        shape[self._lines_on] += lead + is_last
        seen = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=torch.channels_last)
        before, here, after = seen.split([lead, band.shape[self._lines_on], int(is_last)], dim=self._lines_on)
        if self._kept is None:
            before.zero_()
        else:
            before.copy_(self._kept)
        here.copy_(band)
        after.zero_()
        del band
        self._kept = None  # before the next ones are kept: the least memory
        self._kept = seen.narrow(self._lines_on, shape[self._lines_on] - 2, 2).clone()
        if shape[self._lines_on] < 3:
            return None
        return F.conv2d(seen, self._conv.weight, self._conv.bias, padding=self._padding)


class Residual:
    """What a branch makes of bands, which may come late, plus what a shortcut makes of them."""

    def __init__(self, branch: Sequence[Layer], lines_on: int, shortcut: OnPixels):
        self._branch, self._lines_on, self._shortcut = branch, lines_on, shortcut
        self._waiting: deque[Tensor] = deque()  # lines that have come and whose result has not

    def push(self, band_NChw: Tensor, is_last: bool) -> Tensor | None:
        self._waiting.append(band_NChw)
        made = _through(self._branch, band_NChw, is_last)
        if made is None:
            return None
        rest = made
        while rest.shape[self._lines_on]:
            come = self._waiting.popleft()
            lines = min(come.shape[self._lines_on], rest.shape[self._lines_on])
            rest.narrow(self._lines_on, 0, lines).add_(self._shortcut(come.narrow(self._lines_on, 0, lines)))
            rest = rest.narrow(self._lines_on, lines, rest.shape[self._lines_on] - lines)
            left = come.shape[self._lines_on] - lines
            if left:  # a copy, so that a whole band is not kept
                self._waiting.appendleft(come.narrow(self._lines_on, lines, left).clone())
        return made
