"""What a training stage is made of: the parts it begins with and makes, and what it learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivesim.families.facts import LATENT_SCALE
from drivesim.models.autoencoder import downsampling, latent_scale
from drivesim.train.config import TrainConfig
from drivesim.train.folders import DRIVING_FOLDERS, ModelFolders, Parts
from drivesim.train.stage import Stage

EXAMPLE_TEXT = 40  # bytes of a caption
EXAMPLE_BOXES = 24  # of a busy frame


@dataclass(kw_only=True, slots=True, frozen=True)
class Recipe:
    """One stage."""

    needs: tuple[str, ...]  # parts that come from `init`, as they are
    trains: tuple[str, ...]  # parts that it makes and trains; what `warm_start` may hold
    make: Callable[[TrainConfig, Parts], Parts]  # fresh parts, given those of `init`
    stage: Callable[[TrainConfig, Parts], Stage]
    num_frames: Callable[[TrainConfig], int]  # of a training clip
    rates: Callable[[TrainConfig], list[float]]  # frame rates of training clips
    index: Callable[[TrainConfig], dict[str, Any]]  # facts that its settings give the exported model's index
    scale: Callable[[TrainConfig], int] = lambda _: 1  # pixels of its pictures to one of `size_hw`, a side
    align_px: Callable[[TrainConfig, Parts], int] = lambda *_: 1  # grid on which pieces of its pictures lie
    learns_from_pictures: bool = False  # or from pieces of them; False = from the latents of whole ones
    replaces: tuple[str, ...] = ()  # parts of `init` that it makes anew without training them
    learns_from_captions: bool = False  # beside the pictures
    folders: ModelFolders = DRIVING_FOLDERS  # how the folders of its model family are read and written

    def facts(self, config: TrainConfig, parts: Parts) -> dict[str, Any]:
        """What the exported model's index gets; from latents, also their shift and scale.

        Args:
            config: the stage and its settings.
            parts: those of `init` and those that the stage makes.
        """
        if self.learns_from_pictures or self.folders is not DRIVING_FOLDERS:
            return self.index(config)
        return self.index(config) | {LATENT_SCALE: list(latent_scale(parts["autoencoder"]))}

    def example_batch(self, config: TrainConfig, parts: Parts, *, is_training: bool) -> dict[str, Tensor]:
        """A batch of the shapes and types that `data.batches.collate` gives, made on torch's default device.

        Args:
            config: the stage and its settings.
            parts: those of `init` and those that the stage makes.
            is_training: False = a batch of the validation, whose pictures are whole.
        """
        b, t = config.loader.batch_size, self.num_frames(config)
        height, width = config.size_hw
        if not is_training:
            b = min(b, config.loader.num_val_items)
        if self.learns_from_pictures:
            whole_hw = [side * self.scale(config) for side in config.size_hw]
            piece_hw = config.crop.size_hw if is_training and config.crop.size_hw else whole_hw
            clip = {"frames_BTCHW": torch.zeros(b, t, 3, *piece_hw)}
        else:
            f = downsampling(parts["autoencoder"])
            channels = parts["autoencoder"].config.latent_channels
            clip = {"latents_BTCHW": torch.zeros(b, t, channels, height // f, width // f)}
            clip["rate_B"] = torch.zeros(b, dtype=torch.int64)
            clip["motion_BT2"] = torch.zeros(b, t, 2)
        if self.learns_from_captions:
            clip["caption_BL"] = torch.zeros(b, EXAMPLE_TEXT, dtype=torch.uint8)
        return {
            **clip,
            "boxes_BTN4": torch.zeros(b, t, EXAMPLE_BOXES, 4),
            "classes_BTN": torch.zeros(b, t, EXAMPLE_BOXES, dtype=torch.int64),
            "num_cars_BT": torch.zeros(b, t, dtype=torch.int64),
            "is_night_B": torch.zeros(b, dtype=torch.int64),
            "has_boxes_B": torch.ones(b, dtype=torch.bool),
        }
