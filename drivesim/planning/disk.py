"""What a rollout writes: its videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from drivesim.families.driving import DrivingModel
from drivesim.planning.plan import DiskRow
from drivesim.rollout.run import RolloutConfig

if TYPE_CHECKING:
    from drivesim.families.text import TextModel

# Bits a pixel of our x264 at crf 17; every 6 more halve it. Toytown's futures of 20 s take 0.43 (256 x 512 pixels at 30
# frames a second); made small again to 64 x 128, 1.0, and of these the frames at 10/3 a second 2.4.
_BITS_A_PIXEL = 2.4
_AT_CRF = 17


def rollout_disk(config: RolloutConfig, model: DrivingModel | TextModel) -> list[DiskRow]:
    """Bytes of a rollout's videos; segments are there beside their video until it is whole."""
    bits = _BITS_A_PIXEL * 2 ** ((_AT_CRF - config.crf) / 6)
    each = model.size_hw[0] * model.size_hw[1] * config.num_frames(model) * bits / 8
    note = f"an estimate: {bits:.2g} bits a pixel at crf {config.crf}"
    return [
        DiskRow(name="videos", value=config.futures * each, note=note),
        DiskRow(name="segments of an unfinished video", value=each, note="deleted with its row"),
        *([_ends(config.futures, model)] if isinstance(model, DrivingModel) else []),
    ]


def _ends(futures: int, model: DrivingModel) -> DiskRow:
    """States before the last segments: key frames, what the decoder waits with, small and large frames of portions."""
    decoder, maker = model.finishing.video_decoder, model.finishing.upsampling
    latents = model.num_given + (0 if decoder is None else 2 * decoder.radius)
    numbers = latents * model.autoencoder.config.latent_channels * model.latent_hw[0] * model.latent_hw[1]
    if maker is not None:
        small = torch.empty(1, 3, *model.small_hw, device="meta")
        numbers += (2 * maker.portion - 1) * small.numel() + maker.overlap * maker.none(small).shape[1:].numel()
    return DiskRow(name="states that longer futures go on from", value=4 * futures * numbers, note="at most")
