"""Layers on bands of lines give what they give on the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.nn.bands import COLUMNS, ROWS, Convolution, OnEach, Residual, Stage, flow


def doubled(band: Tensor) -> Tensor:
    return F.interpolate(band, scale_factor=2.0)


@pytest.fixture
def convs() -> list[nn.Conv2d]:
    torch.manual_seed(0)
    return [nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64).requires_grad_(False) for _ in range(4)]


def whole(convs: Sequence[nn.Conv2d], picture: Tensor) -> Tensor:
    first, second, third, last = convs
    h = F.silu(first(picture))
    h = h * 2 + third(F.silu(second(F.silu(h))))
    return last(doubled(h))


def stages(convs: Sequence[nn.Conv2d], lines_on: int, lines: tuple[int, int]) -> list[Stage]:
    first, second, third, last = convs
    branch = [Convolution(second, lines_on, F.silu), Convolution(third, lines_on, F.silu)]
    layers = [Convolution(first, lines_on), OnEach(F.silu), Residual(branch, lines_on, lambda band: band * 2)]
    return [Stage(lines[0], layers), Stage(lines[1], [Convolution(last, lines_on, doubled)])]


@pytest.mark.parametrize("lines_on", [ROWS, COLUMNS])
@pytest.mark.parametrize("lines", [(1, 1), (2, 1), (3, 2), (5, 3), (100, 1), (100, 100)])
@pytest.mark.parametrize("size_hw", [(11, 7), (4, 9), (1, 5), (5, 1)])
def test_bands_make_the_whole_picture(
    convs: list[nn.Conv2d], lines_on: int, lines: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    picture = torch.randn(2, 4, *size_hw, dtype=torch.float64)
    made = torch.cat(list(flow(stages(convs, lines_on, lines), picture, lines_on)), dim=lines_on)
    torch.testing.assert_close(made, whole(convs, picture), rtol=0, atol=1e-12)


def test_a_band_goes_all_the_way_before_the_next_one_begins(convs: list[nn.Conv2d]) -> None:
    seen: list[str] = []

    def note(name: str) -> OnEach:
        return OnEach(lambda band: (seen.append(f"{name}{band.shape[ROWS]}"), band)[1])

    first, second = Stage(4, [note("a")]), Stage(2, [note("b")])
    bands = list(flow([first, second], torch.zeros(1, 1, 10, 3), ROWS))
    assert seen == ["a4", "b2", "b2", "a4", "b2", "b2", "a2", "b2"]
    assert [band.shape[ROWS] for band in bands] == [2, 2, 2, 2, 2]


def test_the_picture_is_left_as_it_was(convs: list[nn.Conv2d]) -> None:
    picture = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    before = picture.clone()
    list(flow(stages(convs, ROWS, (2, 1)), picture, ROWS))
    assert torch.equal(picture, before)
