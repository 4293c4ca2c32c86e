"""Convolutions over time, height and width, and the layer that mixes them into an image network.

Axes: B samples, T frames, C channels, H W picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.nn.temporal import Mix

Cut = tuple[int, int]  # frames at the start and at the end of a clip that are context alone
# Channels in, and pixels of a frame, from which on groups of frames take less time (oneDNN of torch 2.13, one thread):
# with fewer channels the sums of frames weigh more than the products, with fewer pixels the sums of kernels do.
FEWEST_CHANNELS, FEWEST_PIXELS = 16, 256
_MAY_GROUP: ContextVar[bool] = ContextVar("may group", default=True)


@contextmanager
def counted_as(has_groups: bool) -> Iterator[None]:
    """What the meta device counts inside is of a CPU in float32, which groups frames, or of a device that does not."""
    token = _MAY_GROUP.set(_MAY_GROUP.get() and has_groups)
    try:
        yield
    finally:
        _MAY_GROUP.reset(token)


# Kernels of the products that make two and four frames, from the kernels of three frames.
_KERNELS_OF_TWO = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
_KERNELS_OF_FOUR = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip


def in_groups_of_frames(video_BTCHW: Tensor, weight: Tensor, bias: Tensor | None, first: int, last: int) -> Tensor:
    """Frames [first, last) of a convolution over time and space: four frames by six products instead of twelve.

    Winograd's F(4, 3) and F(2, 3) over time, after Lavin and Gray 2016 (arXiv 1509.09308). Float32 is off a convolution
    by 2e-6 of the largest output; shorter types lose too much.

    Args:
        video_BTCHW: the clip; beyond both ends frames are zero.
        weight: (C', C, 3, 3, 3).
        bias: (C',), or None.
        first: the first frame that is wanted.
        last: the frame after the last one.

    Returns:
        (B, last - first, C', H, W).
    """
    t, wanted = video_BTCHW.shape[1], last - first
    beyond = torch.zeros_like(video_BTCHW[:, 0])
    fours, rest = divmod(wanted, 4)
    sizes = [4] * fours + {0: [], 1: [2], 2: [2], 3: [4]}[rest]
    made: list[Tensor] = []
    for size, rows, group in ((4, _KERNELS_OF_FOUR, _four_frames), (2, _KERNELS_OF_TWO, _two_frames)):
        if size not in sizes:
            continue
        kernels = torch.einsum("pt,oityx->poiyx", weight.new_tensor(rows), weight)
        for _ in range(sizes.count(size)):
            before = first + len(made) - 1
            seen = [video_BTCHW[:, i] if 0 <= i < t else beyond for i in range(before, before + size + 2)]
            made.extend(group(seen, kernels, bias))
    return torch.stack(made[:wanted], dim=1)


def _four_frames(seen: Sequence[Tensor], kernels: Tensor, bias: Tensor | None) -> list[Tensor]:
    """F(4, 3), points 0, 1, -1, 2, -2 and infinity; the second product is a summand of all four frames."""
    d0, d1, d2, d3, d4, d5 = seen
    even, odd = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    near, twice = d4 - d2, (d3 - d1) * 2
    p0 = _product(torch.sub(d4, d2, alpha=5).add_(d0, alpha=4), kernels[0])
    p1 = _product(even + odd, kernels[1], bias)
    p2 = _product(even.sub_(odd), kernels[2])
    p3 = _product(near + twice, kernels[3])
    p4 = _product(near.sub_(twice), kernels[4])
    p5 = _product(torch.sub(d5, d3, alpha=5).add_(d1, alpha=4), kernels[5])
    sum_1, sum_2 = p1 + p2, p3 + p4
    change_1, change_2 = p1.sub_(p2), p3.sub_(p4)
    return [
        p0.add_(sum_1).add_(sum_2),
        torch.add(change_1, change_2, alpha=2),
        torch.add(sum_1, sum_2, alpha=4),
        p5.add_(change_1).add_(change_2, alpha=8),
    ]


def _two_frames(seen: Sequence[Tensor], kernels: Tensor, bias: Tensor | None) -> list[Tensor]:
    """F(2, 3), points 0, 1, -1 and infinity; the second product is a summand of both frames."""
    d0, d1, d2, d3 = seen
    p0 = _product(d0 - d2, kernels[0])
    p1 = _product(d1 + d2, kernels[1], bias)
    p2 = _product(d2 - d1, kernels[2])
    p3 = _product(d1 - d3, kernels[3])
    return [p0.add_(p1).add_(p2), p1.sub_(p2).sub_(p3)]


def _product(frame_NCHW: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(frame_NCHW, kernel, bias, padding=1)


class VideoConv(nn.Conv3d):
    """A convolution with a kernel of (3, side, side), computed by 2-D convolutions.

    The same linear map as Conv3d on `B C T H W`, with its weight and names. Each frame is convolved once with the
    kernels of all three places in time, and a frame's output is the sum of three neighbours' shares: on one CPU thread
    1/2.5 of Conv3d's time for 96 channels of 16 x 32, 1/9 for 16 of 64 x 128 (8 frames, oneDNN of torch 2.13). On a CPU
    in float32, with a side of 3, no stride, and enough channels and pixels, groups of frames take half the products
    (`in_groups_of_frames`): 0.6 of the time for 64 channels of 32 x 64, 0.5 to 0.7 for 32 of 64 x 128.

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
        first, last = cut[0], t - cut[1]
        if self._has_fewer_products(video_BTCHW, last - first):
            return in_groups_of_frames(video_BTCHW, self.weight, self.bias, first, last)
        shares = self.shares(video_BTCHW.flatten(0, 1)).unflatten(0, (b, t))
        made = shares[:, first:last, 1]
        made = made.clone() if self.bias is None else made + self.bias.view(-1, 1, 1)
        after = max(first, 1)  # the first frame that has one before it
        made[:, after - first :] += shares[:, after - 1 : last - 1, 0]
        before = min(last, t - 1)
        made[:, : before - first] += shares[:, first + 1 : before + 1, 2]
        return made

    def _has_fewer_products(self, video_BTCHW: Tensor, num_made: int) -> bool:
        """Whether `in_groups_of_frames` can be used and takes less time."""
        kind, (height, width) = video_BTCHW.device.type, video_BTCHW.shape[-2:]
        is_here = (kind == "cpu" and not torch.is_autocast_enabled("cpu")) or (kind == "meta" and _MAY_GROUP.get())
        is_plain = self.kernel_size[1:] == (3, 3) and self.stride == (1, 1, 1) and video_BTCHW.dtype is torch.float32
        is_worth_it = self.in_channels >= FEWEST_CHANNELS and height * width >= FEWEST_PIXELS and num_made > 1
        return is_here and is_plain and is_worth_it

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
            normed = F.silu(norm(x.flatten(0, 1)), inplace=not torch.is_grad_enabled())
            x = conv(normed.unflatten(0, (b, x.shape[1])), left_out)
        return self.mixed(video_BTCHW, x, cut)

    def mixed(self, video_BTCHW: Tensor, convolved_BTCHW: Tensor, cut: Cut) -> Tensor:
        """The layer's output from its input, of which `cut` is left out, and from what the convolutions made of it."""
        spatial = video_BTCHW[:, cut[0] : video_BTCHW.shape[1] - cut[1]]
        return self.mix.add(spatial, convolved_BTCHW)
