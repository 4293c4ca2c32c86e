"""I3D (Inception-v1 with time) on Kinetics-400, under the names of its public PyTorch form.

Carreira and Zisserman 2017, "Quo vadis, action recognition?". Made for features: batch norms are folded into
the convolutions, memory is channels-last throughout, padding is the operations' own wherever it is symmetric.

Legend: B clips, C channels, T frames, H x W pixels.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NUM_CLASSES = 400
INPUT_HW = (224, 224)
MIN_FRAMES = 9  # with 8 the average pool over 2 has 1 frame left

Triple = tuple[int, int, int]

# Output channels of the four branches: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1.
_MIXED_CHANNELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# A max pool stands in front of these: kernel, stride.
_POOLS: dict[str, tuple[Triple, Triple]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
_COUNTER = "num_batches_tracked"  # training's; files older than torch 0.4.1 lack it


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding in front and behind: ceil(size / stride) outputs, the odd one behind."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def max_pool_same(maps_BCTHW: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Max pool with SAME padding, without a padded copy.

    `ceil_mode` stands for the padding behind: a window that leaves the picture is cut off there.
    """
    if stride == (1, 1, 1) and kernel == (3, 3, 3):
        for axis in (2, 3, 4):
            maps_BCTHW = _max_of_three(maps_BCTHW, axis)
        return maps_BCTHW
    sizes = zip(maps_BCTHW.shape[2:], kernel, stride, strict=True)
    front = [same_padding(size, width, step)[0] for size, width, step in sizes]
    return F.max_pool3d(maps_BCTHW, kernel, stride, front, ceil_mode=True)


def _max_of_three(maps: Tensor, axis: int) -> Tensor:
    """Each entry's maximum with its neighbours along an axis; three of these are 3 times faster than one pool."""
    rest = maps.shape[axis] - 1
    out = maps.clone()
    for inner, neighbour in ((out.narrow(axis, 1, rest), 0), (out.narrow(axis, 0, rest), 1)):
        inner.copy_(torch.maximum(inner, maps.narrow(axis, neighbour, rest)))
    return out


class ConvUnit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn: nn.Module = nn.BatchNorm3d(channels_out, eps=eps)
        self.kernel, self.stride = kernel, stride

    def fold(self) -> None:
        """Multiplies the batch norm into the convolution."""
        if isinstance(self.bn, nn.BatchNorm3d):
            self.conv3d = fuse_conv_bn_eval(self.conv3d, self.bn)
            self.bn = nn.Identity()

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, channels out, ceil(T / stride), ceil(H / stride), ceil(W / stride))."""
        weight, bias = self.conv3d.weight, self.conv3d.bias
        if self.kernel == 1:  # in channels-last memory a matrix product
            out = F.linear(maps_BCTHW.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        else:
            pads = [same_padding(size, self.kernel, self.stride) for size in maps_BCTHW.shape[2:]]
            if any(front != behind for front, behind in pads):
                maps_BCTHW = F.pad(maps_BCTHW, [width for pair in reversed(pads) for width in pair])
                pads = [(0, 0)] * 3
            out = F.conv3d(maps_BCTHW, weight, bias, self.stride, [front for front, _ in pads])
        activated: Tensor = self.bn(out).relu_()
        return activated


class MixedBlock(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(self, channels_in: int, channels: tuple[int, int, int, int, int, int], eps: float) -> None:
        super().__init__()
        self.b0 = ConvUnit(channels_in, channels[0], 1, 1, eps)
        self.b1a = ConvUnit(channels_in, channels[1], 1, 1, eps)
        self.b1b = ConvUnit(channels[1], channels[2], 3, 1, eps)
        self.b2a = ConvUnit(channels_in, channels[3], 1, 1, eps)
        self.b2b = ConvUnit(channels[3], channels[4], 3, 1, eps)
        self.b3b = ConvUnit(channels_in, channels[5], 1, 1, eps)

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        """Same T, H and W; the channels of the branches one after another."""
        pooled = max_pool_same(maps_BCTHW, (3, 3, 3), (1, 1, 1))
        branches = [
            self.b0(maps_BCTHW),
            self.b1b(self.b1a(maps_BCTHW)),
            self.b2b(self.b2a(maps_BCTHW)),
            self.b3b(pooled),
        ]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The last 1x1x1 convolution, under its public name."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, NUM_CLASSES, 1)

    def forward(self, vectors_BC: Tensor) -> Tensor:
        """(B, C) -> (B, 400)."""
        return F.linear(vectors_BC, self.conv3d.weight.flatten(1), self.conv3d.bias)


class I3D(nn.Module):
    """The network up to the logits that FVD is computed from.

    Args:
        eps: of the batch norms; 1e-3 in TensorFlow's original, 1e-5 in the ports of VideoGPT, TATS and LVDM.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, 7, 2, eps)
        self.Conv3d_2b_1x1 = ConvUnit(64, 64, 1, 1, eps)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, 3, 1, eps)
        channels = 192
        for name, branches in _MIXED_CHANNELS.items():
            self.add_module(name, MixedBlock(channels, branches, eps))
            channels = branches[0] + branches[2] + branches[4] + branches[5]
        self.logits = Logits(channels)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Logits (B, 400), the mean over time, no softmax, of float RGB clips in [-1, 1] of 224 x 224 pixels.

        Raises:
            ValueError: fewer than 9 frames, or pictures whose last map is not 7 x 7.
        """
        if clips_BCTHW.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D: clips of {clips_BCTHW.shape[2]} frames; it needs at least {MIN_FRAMES}")
        maps = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        for name, stage in self._stages():
            if name in _POOLS:
                maps = max_pool_same(maps, *_POOLS[name])
            maps = stage(maps)
        if maps.shape[3:] != (7, 7):
            raise ValueError(f"I3D: pictures of {tuple(clips_BCTHW.shape[3:])} pixels; it needs 224 x 224")
        # The last convolution is linear, so the mean over time can come first.
        vectors: Tensor = F.avg_pool3d(maps, (2, 7, 7), stride=1).mean(dim=(2, 3, 4))
        logits: Tensor = self.logits(vectors)
        return logits

    def _stages(self) -> Iterator[tuple[str, nn.Module]]:
        return ((name, stage) for name, stage in self.named_children() if name != "logits")

    def fold(self) -> I3D:
        """Folds all batch norms, which changes features by rounding alone; for evaluation mode only."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fold()
        return self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # a keyword of torch's own

    @classmethod
    def load(cls, path: Path, eps: float = 1e-3) -> I3D:
        """The network with the weights of a plain state dict, folded, in evaluation mode.

        Args:
            path: .safetensors, or a .pt of tensors alone, which is read without running anything in it.
            eps: see the class.

        Raises:
            ValueError: no state dict, or one with missing, unexpected or mis-shaped tensors; names the first.
        """
        with torch.device("meta"):  # so that no random numbers are drawn
            network = cls(eps)
        expected = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
        weights = {name: value.float() for name, value in _read_tensors(path).items() if not name.endswith(_COUNTER)}
        for name, value in expected.items():
            if name not in weights:
                raise ValueError(f"{path}: not I3D's weights: {name} is missing")
            if weights[name].shape != value.shape:
                found, wanted = tuple(weights[name].shape), tuple(value.shape)
                raise ValueError(f"{path}: not I3D's weights: {name} has shape {found}, expected {wanted}")
        for name in weights:
            if name not in expected:
                raise ValueError(f"{path}: not I3D's weights: {name} is unexpected")
        network.load_state_dict(weights, strict=False, assign=True)  # not strict: the counters go with the folding
        return network.eval().requires_grad_(False).fold()


class NetworkResize(str, Enum):
    """How frames are brought to 224 x 224 for I3D: bilinear in floats, no antialias, half-pixel centres but for TF1."""

    SQUASH = "squash"  # TATS, LVDM, cd-fvd, StyleGAN-V
    SHORT_SIDE = "short-side"  # VideoGPT: the short side becomes 224, then the middle is cut out
    SQUASH_TF1 = "squash-tf1"  # the original FVD: corners of pixels in place of their centres


def network_input(frames_BTHWC: NDArray[np.uint8], resize: NetworkResize, device: str = "cpu") -> Tensor:
    """Clips (B, 3, T, 224, 224), float32 in [-1, 1], of frames of any size."""
    batch, num_frames, height, width, _ = frames_BTHWC.shape
    frames = torch.from_numpy(frames_BTHWC).to(device).flatten(0, 1).permute(0, 3, 1, 2).float()
    if (height, width) != INPUT_HW:
        size_hw = INPUT_HW
        if resize is NetworkResize.SHORT_SIDE:
            scale = INPUT_HW[0] / min(height, width)
            long_side = math.ceil(max(height, width) * scale)
            size_hw = (INPUT_HW[0], long_side) if height < width else (long_side, INPUT_HW[1])
        if resize is NetworkResize.SQUASH_TF1:
            frames = resize_tf1(frames, size_hw)
        else:
            frames = F.interpolate(frames, size=size_hw, mode="bilinear", align_corners=False)
        top, left = (size_hw[0] - INPUT_HW[0]) // 2, (size_hw[1] - INPUT_HW[1]) // 2
        frames = frames[..., top : top + INPUT_HW[0], left : left + INPUT_HW[1]]
    return (frames * (2 / 255) - 1).unflatten(0, (batch, num_frames)).transpose(1, 2)


def resize_tf1(pictures_NCHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Float pictures at another size as TensorFlow 1's `resize_bilinear`: output k lies at input k * (in / out)."""
    for axis, size in ((3, size_hw[1]), (2, size_hw[0])):
        there = pictures_NCHW.shape[axis]
        places = torch.arange(size, device=pictures_NCHW.device, dtype=torch.float32) * (there / size)
        below = places.floor().long().clamp(max=there - 1)
        shares = (places - below).reshape([-1 if other == axis else 1 for other in range(4)])
        lower, upper = (pictures_NCHW.index_select(axis, index) for index in (below, (below + 1).clamp(max=there - 1)))
        pictures_NCHW = lower + (upper - lower) * shares
    return pictures_NCHW


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        raise ValueError(f"{path}: not a state dict (.safetensors, or .pt of tensors alone): {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path}: holds no state dict; save `network.state_dict()`, names to tensors")
    return tensors
