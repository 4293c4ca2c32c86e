"""Convolutions over time, height and width, and the layer that mixes them into an image network.

Axes: B samples, T frames, C channels, H W picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.nn.temporal import Mix

Cut = tuple[int, int]  # frames at the start and at the end of a clip that are context alone


class VideoConv(nn.Conv3d):
    """A convolution with a kernel of (3, side, side), computed as one 2-D convolution of every frame.

    Each frame is convolved once with the kernels of all three places in time, and a frame's output is the sum of
    three neighbours' shares. The same linear map as Conv3d on `B C T H W`, with its weight and names. On one CPU thread
    it takes 1/2.5 of Conv3d's time for 96 channels of 16 x 32, 1/4.5 for 48 of 32 x 64, 1/9 for 16 of 64 x 128 (8
    frames, oneDNN of torch 2.13).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        side: height and width of the kernel.
        stride: in height and width; every frame has an output.
        bias: whether a learned number is added to each channel.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int = 3, *, stride: int = 1, bias: bool = True):
        super().__init__(
            in_channels, out_channels, (3, side, side), stride=(1, stride, stride), padding=(1, 1, 1), bias=bias
        )

    def forward(self, video_BTCHW: Tensor, cut: Cut = (0, 0)) -> Tensor:
        """(B, T, C, H, W) -> (B, T - sum(cut), C', H', W'); beyond both ends of the clip frames are zero.

        Args:
            video_BTCHW: the clip.
            cut: frames at the start and at the end for which no output is wanted.
        """
        b, t = video_BTCHW.shape[:2]
        shares = self.shares(video_BTCHW.flatten(0, 1)).unflatten(0, (b, t))
        first, last = cut[0], t - cut[1]
        made = shares[:, first:last, 1]
        made = made.clone() if self.bias is None else made + self.bias.view(-1, 1, 1)
        after = max(first, 1)  # the first frame that has one before it
        made[:, after - first :] += shares[:, after - 1 : last - 1, 0]
        before = min(last, t - 1)
        made[:, : before - first] += shares[:, first + 1 : before + 1, 2]
        return made

    def shares(self, frames_NCHW: Tensor) -> Tensor:
        """What each frame adds to the one after it, to itself and to the one before it: (N, 3, C', H', W')."""
        weight = self.weight.transpose(0, 2).transpose(1, 2).flatten(0, 1)
        made = F.conv2d(frames_NCHW, weight, stride=self.stride[1:], padding=self.padding[1:])  # type: ignore[arg-type]
        return made.unflatten(1, (3, -1))


class VideoConvLayer(nn.Module):
    """What follows a spatial residual block of a decoder: normed convolutions over time and space, and the mix.

    Norms look at one frame each, so that a frame's output depends on frames within `radius` alone. The last
    convolution starts at zero, so a fresh layer changes nothing.

    Args:
        channels: in and out.
        num_convolutions: one after the other, each behind a norm and an activation.
        groups: of the group norms.
    """

    def __init__(self, channels: int, num_convolutions: int, groups: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels, eps=1e-6) for _ in range(num_convolutions))
        self.convs = nn.ModuleList(VideoConv(channels, channels) for _ in range(num_convolutions))
        for parameter in self.convs[-1].parameters():
            nn.init.zeros_(parameter)
        self.mix = Mix()

    @property
    def radius(self) -> int:
        """How many frames before and after a frame it sees."""
        return len(self.convs)

    def cuts(self, cut: Cut) -> Iterator[Cut]:
        """What each convolution leaves out for the layer to leave out `cut`: late, so that the next one sees it."""
        for still_to_come in reversed(range(len(self.convs))):
            now = (max(0, cut[0] - still_to_come), max(0, cut[1] - still_to_come))
            cut = (cut[0] - now[0], cut[1] - now[1])
            yield now

    def forward(self, video_BTCHW: Tensor, cut: Cut = (0, 0)) -> Tensor:
        """(B, T, C, H, W) -> (B, T - sum(cut), C, H, W); of the frames cut at both ends at most `radius` each."""
        b = len(video_BTCHW)
        x = video_BTCHW
        if torch.is_grad_enabled() and not x.requires_grad:
            # The backward pass of torch 2.13's group norm on a CPU crashes where channels-last input needs no gradient.
            x = x.detach().requires_grad_()
        for norm, conv, left_out in zip(self.norms, self.convs, self.cuts(cut), strict=True):
            x = conv(F.silu(norm(x.flatten(0, 1))).unflatten(0, (b, x.shape[1])), left_out)
        return self.mixed(video_BTCHW, x, cut)

    def mixed(self, video_BTCHW: Tensor, convolved_BTCHW: Tensor, cut: Cut) -> Tensor:
        """The layer's output from its input, of which `cut` is left out, and from what the convolutions made of it."""
        spatial = video_BTCHW[:, cut[0] : video_BTCHW.shape[1] - cut[1]]
        return self.mix(spatial, spatial + convolved_BTCHW)  # type: ignore[no-any-return]
