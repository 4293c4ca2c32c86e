"""Weights of a loss that count what lies in boxes more: small objects would else hardly be learned.

After the foreground re-weighting of GeoDiffusion (Chen et al. 2024), without its dependence on the area.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivesim.core.boxes import UNKNOWN


def box_coverage(boxes_XN4: Tensor, classes_XN: Tensor, hw: tuple[int, int]) -> Tensor:
    """Share of each cell that its most covering box covers.

    Args:
        boxes_XN4: (..., N, 4) left, top, right, bottom as shares of the picture.
        classes_XN: (..., N), UNKNOWN = padding.
        hw: rows and columns of cells.

    Returns:
        (..., H, W) in [0, 1].
    """
    left, top, right, bottom = boxes_XN4.unbind(-1)
    down = _overlap(top, bottom, hw[0])
    across = _overlap(left, right, hw[1])
    covered = down[..., :, None] * across[..., None, :] * (classes_XN != UNKNOWN)[..., None, None]
    if covered.shape[-3] == 0:
        return covered.new_zeros(*covered.shape[:-3], *hw)
    return covered.amax(dim=-3)


def _overlap(low: Tensor, high: Tensor, num_cells: int) -> Tensor:
    """(..., N, num_cells): share of each of the equal parts of [0, 1] that lies between low and high."""
    edges = torch.arange(num_cells + 1, device=low.device) / num_cells
    inside = torch.minimum(high[..., None], edges[1:]) - torch.maximum(low[..., None], edges[:-1])
    return inside.clamp(min=0) * num_cells


def box_weights(boxes_XN4: Tensor, classes_XN: Tensor, hw: tuple[int, int], extra: float) -> Tensor:
    """(..., 1, H, W) weights with mean 1: cells inside a box count `1 + extra` times as much as those outside."""
    weights = 1 + extra * box_coverage(boxes_XN4, classes_XN, hw)
    return (weights / weights.mean())[..., None, :, :]
