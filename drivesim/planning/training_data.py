"""What is known of a training's data, which need not be there yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivesim.data import ClipSource, PictureFolder, PictureFolderConfig


@dataclass(kw_only=True, slots=True, frozen=True)
class KnownData:
    """How much there is to be cached and validated on."""

    num_cached: int | None  # frames of all drives at the cache's rate; None = the data are not there yet
    are_pictures: bool  # whether each drive is a picture
    holds_out: bool  # whether there are drives to validate on; of data that are not there yet, whether their kind has


def known_data(source: ClipSource | None, data: Any, cache_fps: float) -> KnownData:
    """What a source, or the config of one, tells.

    Args:
        source: of the clips; None = not there yet.
        data: config of the source; None = nothing is known but the source.
        cache_fps: rate at which it is cached.
    """
    if source is None:
        are_pictures = isinstance(data, PictureFolderConfig)
        return KnownData(num_cached=None, are_pictures=are_pictures, holds_out=not are_pictures)
    drives = {split: source.drives(split) for split in ("train", "val")}
    return KnownData(
        num_cached=sum(max(1, round(drive.duration_s * cache_fps)) for split in drives.values() for drive in split),
        are_pictures=isinstance(source, PictureFolder),
        holds_out=bool(drives["val"]),
    )
