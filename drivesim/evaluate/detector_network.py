"""A small network of our own that finds road users in single pictures: a heatmap a class, a box and a depth a cell.

Legend: B pictures, C channels, H x W pixels, h x w cells, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from drivesim.core.boxes import CLASSES
from drivesim.evaluate.network_files import load_weights, save_weights

INPUT_HW = (128, 256)
STRIDE_PX = 4  # pixels of the input a cell
_RARE = 0.02  # share of cells that show an object, at first: a rare class must not drown the others in its loss


@dataclass(kw_only=True, slots=True)
class DetectorNetworkConfig:
    """Sizes of a `DetectorNetwork`."""

    stem_channels: int = 16  # of a picture 2 times smaller
    channels: tuple[int, int, int, int] = (32, 64, 96, 128)  # of pictures 4, 8, 16 and 32 times smaller
    head_channels: int = 48  # of the maps that the answers are read from


@dataclass(kw_only=True, slots=True)
class DetectorMaps:
    """What the network says of B pictures."""

    objects_BKhw: Tensor  # logit of a class's object being centred in the cell
    sides_B4hw: Tensor  # left, top, right, bottom borders' distances from the cell's centre, in pixels of INPUT_HW
    log_depth_Bhw: Tensor  # log of the metres along the optical axis
    night_B: Tensor  # logit


class DetectorNetwork(nn.Module):
    """Single-stage and without anchors, after "Objects as Points" (Zhou et al. 2019): down to 1/32, up to 1/4 again."""

    def __init__(self, config: DetectorNetworkConfig | None = None) -> None:
        super().__init__()
        config = config or DetectorNetworkConfig()
        self.input_hw, self.stride_px = INPUT_HW, STRIDE_PX
        c4, c8, c16, c32 = config.channels
        self.stem = nn.Sequential(_conv(3, config.stem_channels, 2, kernel=5), _conv(config.stem_channels, c4, 2))
        self.stage4 = _Residual(c4)
        self.stage8 = nn.Sequential(_conv(c4, c8, 2), _Residual(c8))
        self.stage16 = nn.Sequential(_conv(c8, c16, 2), _Residual(c16))
        self.stage32 = nn.Sequential(_conv(c16, c32, 2), _Residual(c32))
        self.up16 = _Up(c32, c16)
        self.up8 = _Up(c16, c8)
        self.up4 = _Up(c8, c4)
        self.trunk = _conv(c4, config.head_channels, 1)
        self.objects_head = nn.Conv2d(config.head_channels, len(CLASSES), 1)
        self.box_head = nn.Conv2d(config.head_channels, 5, 1)
        self.night_head = nn.Linear(c32, 1)
        assert self.objects_head.bias is not None
        nn.init.constant_(self.objects_head.bias, torch.logit(torch.tensor(_RARE)).item())

    def forward(self, pictures_BCHW: Tensor) -> DetectorMaps:
        """The maps of float pictures in [-1, 1] of INPUT_HW."""
        at4 = self.stage4(self.stem(pictures_BCHW))
        at8 = self.stage8(at4)
        at16 = self.stage16(at8)
        at32 = self.stage32(at16)
        maps = self.trunk(self.up4(self.up8(self.up16(at32, at16), at8), at4))
        boxes = self.box_head(maps)
        return DetectorMaps(
            objects_BKhw=self.objects_head(maps),
            # Exponentials, as a border's error counts in shares of the object's size.
            sides_B4hw=STRIDE_PX * boxes[:, :4].clamp(max=6).exp(),
            log_depth_Bhw=boxes[:, 4] + 3.0,
            night_B=self.night_head(at32.mean(dim=(-2, -1)))[:, 0],
        )

    def save(self, path: Path) -> None:
        """Writes the weights as fp16 safetensors."""
        save_weights(self, path)

    @classmethod
    def load(cls, path: Path) -> DetectorNetwork:
        """A network of the default sizes with the weights of a file, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds other tensors than this network has.
        """
        return load_weights(cls(), path, "detector")


def _conv(c_in: int, c_out: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )


class _Residual(nn.Module):
    """Two convolutions that add to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(channels, channels, 1), _conv(channels, channels, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) as it came."""
        added: Tensor = maps + self.layers(maps)
        return added


class _Up(nn.Module):
    """Coarse maps, twice as large, joined to the fine ones of the way down."""

    def __init__(self, c_coarse: int, c_fine: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(c_coarse, c_fine, 1)
        self.join = _conv(c_fine, c_fine, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, C, h, w) of the fine maps' size."""
        joined: Tensor = self.join(fine + functional.interpolate(self.narrow(coarse), scale_factor=2.0))
        return joined
