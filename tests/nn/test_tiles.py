"""Layers on pieces of a picture, as if on all of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from drivesim.nn.tiles import sweep


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_pieces_lower_than_what_a_layer_sees_are_not_written_over_before_they_are_read(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kernel, picture = (torch.randn(shape, generator=generator) for shape in ((2, 2, 7, 7), (1, 2, 8, 6)))
    whole = F.conv2d(picture, kernel, padding=3)
    made = sweep(lambda piece: F.conv2d(piece, kernel, padding=3), picture, (rows, 2), margin=3)
    torch.testing.assert_close(made, whole)
