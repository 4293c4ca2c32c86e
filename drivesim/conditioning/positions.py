"""Where a latent lies in its picture, as channels: what lets a convolution or a query know its own place."""

from __future__ import annotations

import torch
from torch import Tensor


def num_position_channels(num_frequencies: int) -> int:
    """Channels that `with_positions` appends."""
    return 4 * num_frequencies


def with_positions(x: Tensor, num_frequencies: int) -> Tensor:
    """Appends Fourier features of the place to latents.

    Boxes come as tokens that carry coordinates. Attention can match them with a place in the picture only when the
    place knows its own coordinates, which a U-Net otherwise has to guess from the zeros at its borders.

    Args:
        x: (..., C, H, W).
        num_frequencies: octaves, the first with half a wave over the picture; 0 = nothing is appended.

    Returns:
        (..., C + 4 * num_frequencies, H, W).
    """
    if num_frequencies == 0:
        return x
    height, width = x.shape[-2:]
    y = (torch.arange(height, device=x.device) + 0.5) / height
    x_place = (torch.arange(width, device=x.device) + 0.5) / width
    octaves = torch.pi * 2.0 ** torch.arange(num_frequencies, device=x.device)
    down = (octaves[:, None, None] * y[None, :, None]).expand(-1, height, width)
    across = (octaves[:, None, None] * x_place[None, None, :]).expand(-1, height, width)
    channels = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()]).to(x.dtype)
    return torch.cat([x, channels.expand(*x.shape[:-3], -1, -1, -1)], dim=-3)
