"""Attention of all positions of all frames to one another: what carries things across the picture.

A (3, 1, 1) convolution and attention over the frames of one position see what changes at a place. What moves by more
than the image layers' convolutions reach, such as all that is in sight of a car that turns, has to be found elsewhere.

Axes: B samples, T frames, C channels, H W picture, P = H * W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drivesim.nn.positions import num_position_channels, position_channels
from drivesim.nn.temporal import Attention, FeedForward, Mix, from_time_view, near_frames, sinusoidal, to_time_view

_OCTAVES = 5  # of the place in the picture
_FRAME_WAVES = 32  # numbers that tell the frame index


class SpaceTimeBlock(nn.Module):
    """Attention over space and time, told place and frame, and a feed-forward layer; a fresh one changes nothing.

    Args:
        channels: of the video.
        heads: of the attention.
        num_alphas: 1 = one alpha for all frames; T = one for each frame index.
        window: frames that a stack was trained on; in longer clips frames see those at most as many away.
        feed_forward_mult: how many times wider the feed-forward layer is inside.
    """

    def __init__(self, channels: int, heads: int, *, num_alphas: int, window: int, feed_forward_mult: int = 4):
        super().__init__()
        self.window = window
        self.place = nn.Linear(num_position_channels(_OCTAVES) + _FRAME_WAVES, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, feed_forward_mult)
        self.mix = Mix(num_alphas)
        for last in (self.attn.to_out, self.ff.proj_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, h_NCHW: Tensor, num_frames: int) -> Tensor:
        """`(B T) C H W` -> `(B T) C H W`, mixed."""
        height, width = h_NCHW.shape[2:]
        x_BTPC = to_time_view(h_NCHW, num_frames).permute(0, 2, 3, 1)
        x = x_BTPC.flatten(1, 2)
        places_TPC = self._places(num_frames, height, width, like=x)
        near_TT = near_frames(num_frames, self.window, x.device)
        if near_TT is not None:
            near_TT = near_TT.repeat_interleave(height * width, 0).repeat_interleave(height * width, 1)
        attended = self.attn(self.norm1(x) + places_TPC.flatten(0, 1), near_TT=near_TT)
        change = attended + self.ff(self.norm2(x + attended))
        mixed = self.mix.add(x_BTPC, change.view_as(x_BTPC))
        return from_time_view(mixed.permute(0, 3, 1, 2), h_NCHW)

    def _places(self, num_frames: int, height: int, width: int, like: Tensor) -> Tensor:
        """(T, P, C) what tells positions where and when they are."""
        where_PX = position_channels((height, width), _OCTAVES, like.device).flatten(1).t()
        when_TX = sinusoidal(torch.arange(num_frames, device=like.device), _FRAME_WAVES, max_period=100.0)
        shape = (num_frames, height * width, -1)
        told = torch.cat([where_PX[None].expand(shape), when_TX[:, None].expand(shape)], dim=-1)
        return self.place(told.to(like.dtype))  # type: ignore[no-any-return]
