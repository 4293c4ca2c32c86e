"""Boxes, day or night and number of cars as tokens for cross-attention (App. H.1, Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from drivesim.conditioning.positions import num_position_channels, with_positions
from drivesim.core.boxes import CLASSES, MAX_BOXES, UNKNOWN, Boxes2D


@dataclass(kw_only=True, slots=True)
class DrivingConditions:
    """What is known of B pictures. Unknown is a value of its own, never "none"."""

    boxes_BN4: Tensor  # float32, left, top, right, bottom as a share of the picture
    classes_BN: Tensor  # int64 index into CLASSES, UNKNOWN = padding
    has_boxes_B: Tensor  # bool; False = nothing is known of boxes
    is_night_B: Tensor  # int64: 0 day, 1 night, UNKNOWN
    num_cars_B: Tensor  # int64, UNKNOWN

    def __len__(self) -> int:
        return len(self.is_night_B)

    @classmethod
    def unknown(cls, batch: int, device: torch.device | str = "cpu") -> DrivingConditions:
        """Nothing is known: the unconditional branch of classifier-free guidance."""
        return cls(
            boxes_BN4=torch.zeros(batch, 0, 4, device=device),
            classes_BN=torch.zeros(batch, 0, dtype=torch.int64, device=device),
            has_boxes_B=torch.zeros(batch, dtype=torch.bool, device=device),
            is_night_B=torch.full((batch,), UNKNOWN, device=device),
            num_cars_B=torch.full((batch,), UNKNOWN, device=device),
        )

    @classmethod
    def of_pictures(
        cls,
        boxes: Sequence[Boxes2D | None],
        size_hw: tuple[int, int],
        is_night: Sequence[bool | None],
        num_cars: Sequence[int | None],
    ) -> DrivingConditions:
        """Conditions from pixel boxes of pictures of `size_hw`; beyond 128 boxes the largest are kept."""
        conditions = cls.unknown(len(boxes))
        longest = min(MAX_BOXES, max((len(b) for b in boxes if b is not None), default=0))
        conditions.boxes_BN4 = torch.zeros(len(boxes), longest, 4)
        conditions.classes_BN = torch.full((len(boxes), longest), UNKNOWN)
        scale = torch.tensor([size_hw[1], size_hw[0], size_hw[1], size_hw[0]], dtype=torch.float32)
        for index, picture in enumerate(boxes):
            if picture is None:
                continue
            conditions.has_boxes_B[index] = True
            xyxy = torch.from_numpy(picture.xyxy_px).float() / scale
            area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
            keep = area.argsort(descending=True, stable=True)[:MAX_BOXES]
            conditions.boxes_BN4[index, : len(keep)] = xyxy[keep]
            conditions.classes_BN[index, : len(keep)] = torch.from_numpy(picture.class_ids)[keep]
        conditions.is_night_B = torch.tensor([UNKNOWN if night is None else int(night) for night in is_night])
        conditions.num_cars_B = torch.tensor([UNKNOWN if count is None else count for count in num_cars])
        return conditions

    def dropped(self, boxes_B: Tensor, night_B: Tensor, cars_B: Tensor) -> DrivingConditions:
        """The same conditions with some made unknown: each mask (B,) bool, True = unknown from here on."""
        unknown = torch.full_like(self.is_night_B, UNKNOWN)
        return DrivingConditions(
            boxes_BN4=self.boxes_BN4,
            classes_BN=self.classes_BN,
            has_boxes_B=self.has_boxes_B & ~boxes_B,
            is_night_B=torch.where(night_B, unknown, self.is_night_B),
            num_cars_B=torch.where(cars_B, unknown, self.num_cars_B),
        )

    def to(self, device: torch.device | str) -> DrivingConditions:
        """The same conditions on a device."""
        return DrivingConditions(
            boxes_BN4=self.boxes_BN4.to(device),
            classes_BN=self.classes_BN.to(device),
            has_boxes_B=self.has_boxes_B.to(device),
            is_night_B=self.is_night_B.to(device),
            num_cars_B=self.num_cars_B.to(device),
        )


@dataclass(kw_only=True, slots=True)
class ConditionerConfig:
    """Size of the conditioner; the width of its tokens is the backbone's."""

    num_layers: int = 2  # layers of the transformer that fuses boxes
    num_heads: int = 4  # its attention heads
    position_frequencies: int = 0  # octaves of the place that the backbone sees as channels; 0 = none, as the paper


def make_conditioner(config: ConditionerConfig, token_dim: int) -> DrivingConditioner:
    """A fresh conditioner whose tokens are `token_dim` wide."""
    return DrivingConditioner(
        dim=token_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        position_frequencies=config.position_frequencies,
    )


class DrivingConditioner(ModelMixin, ConfigMixin):
    """Conditions to tokens: one for the labels, one that says whether boxes are known, one a box.

    Coordinates go through Fourier features and a learned embedding, are added to a learned embedding
    of the class, and a transformer fuses all tokens, so that a box knows of the others.

    Args:
        dim: width of a token; the backbone's `cross_attention_dim`.
        num_layers: layers of the fusing transformer.
        num_heads: its attention heads.
        num_frequencies: Fourier frequencies a coordinate.
        max_cars: larger numbers of cars share one embedding.
        num_classes: object classes.
        position_frequencies: octaves of the place that `placed` appends to latents.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        num_frequencies: int = 6,
        max_cars: int = 16,
        num_classes: int = len(CLASSES),
        position_frequencies: int = 0,
    ):
        super().__init__()
        self.night = nn.Embedding(3, dim)
        self.cars = nn.Embedding(max_cars + 2, dim)
        self.boxes_known = nn.Embedding(2, dim)
        self.object_class = nn.Embedding(num_classes, dim)
        # centre, size, and the four borders: eight numbers a box
        self.coordinates = nn.Sequential(nn.Linear(8 * (2 * num_frequencies + 1), dim), nn.SiLU(), nn.Linear(dim, dim))
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, dim_feedforward=2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.fuse = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, conditions: DrivingConditions) -> tuple[Tensor, Tensor]:
        """Tokens (B, 2 + N, dim) and their mask (B, 2 + N), True = a token."""
        config = self.config
        night = self.night(conditions.is_night_B + 1)
        cars = self.cars(conditions.num_cars_B.clamp(UNKNOWN, config.max_cars) + 1)
        known = self.boxes_known(conditions.has_boxes_B.long())
        is_box = (conditions.classes_BN != UNKNOWN) & conditions.has_boxes_B[:, None]
        boxes = self.object_class(conditions.classes_BN.clamp(min=0)) + self.coordinates(
            self._fourier(conditions.boxes_BN4)
        )
        tokens = torch.cat([(night + cars)[:, None], known[:, None], boxes], dim=1)
        mask = torch.cat([is_box.new_ones(len(is_box), 2), is_box], dim=1)
        fused = self.fuse(tokens, src_key_padding_mask=~mask)
        return self.norm(fused) * mask[..., None], mask

    @property
    def num_channels(self) -> int:
        """Channels that `placed` appends."""
        return num_position_channels(self.config.position_frequencies)

    def placed(self, latents: Tensor) -> Tensor:
        """Latents (..., C, H, W) with their places as further channels: what the backbone takes."""
        return with_positions(latents, self.config.position_frequencies)

    def _fourier(self, boxes_BN4: Tensor) -> Tensor:
        left, top, right, bottom = boxes_BN4.unbind(-1)
        numbers = torch.stack(
            [left, top, right, bottom, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1
        )
        octaves = 2.0 ** torch.arange(self.config.num_frequencies, device=boxes_BN4.device)
        angles = (numbers[..., None] * octaves * torch.pi).flatten(-2)
        return torch.cat([numbers, angles.sin(), angles.cos()], dim=-1).to(self.dtype)
