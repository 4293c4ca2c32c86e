"""What a run writes: caches, checkpoints and weights of a training, videos of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from drivesim.data.source import ClipSource
from drivesim.models.autoencoder import downsampling
from drivesim.planning.demand import Demand
from drivesim.planning.plan import Row
from drivesim.rollout.run import RolloutConfig

if TYPE_CHECKING:
    from drivesim.train.config import TrainConfig

# Bits a pixel of x264 at crf 18; every 6 more halve it. Futures of 64 x 128 pixels at 4 frames a second take 1.4
# (hills) to 2.1 (toytown, 6 s); larger pictures and higher rates take less.
_BITS_A_PIXEL = 1.8
_CHECKPOINTS = 3  # the last one, the newest numbered one, and the one that is being written


def cached_frames(source: ClipSource | None, fps: float) -> int | None:
    """Frames that a source's cache will hold; None = no source."""
    if source is None:
        return None
    drives = [drive for split in ("train", "val") for drive in source.drives(split)]
    return sum(max(1, round(drive.duration_s * fps)) for drive in drives)


def training_disk(
    config: TrainConfig, demand: Demand, num_cached: int | None, *, autoencoder: Any, scale: int
) -> list[Row]:
    """Bytes of a training run.

    Args:
        config: the stage and its settings.
        demand: what was counted of it.
        num_cached: frames of the source at the cache's rate; None = unknown, so the caches of an hour of video.
        autoencoder: whose latents are cached; None = none are.
        scale: pixels of a cached picture to one of `size_hw`, a side.
    """
    frames = 3600 * config.cache_fps if num_cached is None else num_cached
    note = "an hour of video" if num_cached is None else f"{num_cached:,} frames"
    height, width = config.size_hw
    rows = [Row(name="cache of frames", value=frames * height * width * scale**2 * 3, note=note)]
    if autoencoder is not None:
        cells = (height // downsampling(autoencoder)) * (width // downsampling(autoencoder))
        latent_bytes = autoencoder.config.latent_channels * cells * 2
        rows.append(Row(name="cache of latents", value=frames * latent_bytes, note=f"{note}, float16"))
    kept = sum(demand.resident[name] for name in ("trained weights", "averaged weights", "optimizer state"))
    rows.append(Row(name="checkpoints", value=_CHECKPOINTS * kept, note=f"up to {_CHECKPOINTS}, float32"))
    exported = sum(part.num_parameters for part in demand.parts)
    size = getattr(torch, config.weights).itemsize
    return [*rows, Row(name="exported weights", value=exported * size, note=config.weights)]


def rollout_disk(config: RolloutConfig, size_hw: tuple[int, int], num_frames: int) -> list[Row]:
    """Bytes of a rollout's videos; segments are there beside their video until it is whole."""
    bits = _BITS_A_PIXEL * 2 ** ((18 - config.crf) / 6)
    each = size_hw[0] * size_hw[1] * num_frames * bits / 8
    note = f"an estimate: {bits:.2g} bits a pixel at crf {config.crf}"
    return [
        Row(name="videos", value=config.futures * each, note=note),
        Row(name="segments of an unfinished video", value=each, note="deleted with its row"),
    ]
