"""Cache of latents: what the frozen autoencoder makes of the cached frames, in half precision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from drivesim.core.files import atomic_path, read_json, wait_for, write_json
from drivesim.data.conditions import Conditions
from drivesim.data.frames import FrameCache, file_stem

# frames uint8 (T, H, W, 3) -> latents (T, C, h, w)
Encode = Callable[[NDArray[np.uint8]], Tensor]

_FORMAT = 2  # of the files; part of the key
_INDEX = "index.json"


class LatentCache:
    """Latents and conditions by drive and frame number; holds no latent in memory."""

    def __init__(self, folder: Path) -> None:
        """Opens a finished cache.

        Raises:
            FileNotFoundError: there is none, or it was not finished.
        """
        self.folder = folder
        index = read_json(folder / _INDEX)
        self.fps: float = index["fps"]
        self.shape_CHW: tuple[int, int, int] = (index["shape"][0], index["shape"][1], index["shape"][2])
        self.fingerprint: str = index["key"]
        self.conditions: dict[str, Conditions] = {}
        for name in index["drives"]:
            with safe_open(_path(folder, name), framework="numpy") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys() if key != "latents"}  # noqa: SIM118
            self.conditions[name] = Conditions.from_arrays(arrays)

    def read(self, drive: str, frames: NDArray[np.int64]) -> Tensor:
        """Latents float32 (T, C, h, w) of increasing frame numbers (T,)."""
        first, last = int(frames[0]), int(frames[-1])
        with safe_open(_path(self.folder, drive), framework="pt") as file:
            latents: Tensor = file.get_slice("latents")[first : last + 1]
        return latents[torch.from_numpy(frames - first)].float()


def cache_latents(
    frame_cache: FrameCache,
    encode: Encode,
    encoder_fingerprint: str,
    out_dir: Path,
    batch: int = 32,
    *,
    builds: bool = True,
) -> LatentCache:
    """Encodes all cached frames, or goes on where an earlier call stopped.

    Args:
        frame_cache: The frames.
        encode: uint8 (T, H, W, 3) -> latents (T, C, h, w), scaled as the model wants them. Must treat
            frames one by one: a resumed cache has to equal an uninterrupted one, on the same device.
        encoder_fingerprint: Changes when the encoder's weights or scale do.
        out_dir: Folder of caches; this one gets its own folder there.
        batch: Frames a call of `encode`.
        builds: False = another process encodes them; this one waits until it has.

    Raises:
        ValueError: a latent that float16 cannot hold.
    """
    spec = {"frames": frame_cache.fingerprint, "encoder": encoder_fingerprint, "format": _FORMAT}
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    folder = Path(out_dir) / f"latents-{key[:16]}"
    if not builds:
        wait_for(folder / _INDEX)
    if (folder / _INDEX).is_file():
        return LatentCache(folder)
    for drive, conditions in frame_cache.conditions.items():
        path = _path(folder, drive)
        if not path.is_file():
            latents = _encode_drive(frame_cache, drive, encode, batch)
            arrays = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in conditions.to_arrays().items()}
            with atomic_path(path) as temporary:
                save_file({"latents": latents, **arrays}, temporary)
    drives = list(frame_cache.conditions)
    with safe_open(_path(folder, drives[0]), framework="pt") as file:
        shape = file.get_slice("latents").get_shape()[1:]
    write_json(folder / _INDEX, {**spec, "key": key, "fps": frame_cache.fps, "shape": shape, "drives": drives})
    return LatentCache(folder)


def _encode_drive(frame_cache: FrameCache, drive: str, encode: Encode, batch: int) -> Tensor:
    num = len(frame_cache.conditions[drive])
    pieces = []
    for first in range(0, num, batch):
        frames = frame_cache.read(drive, np.arange(first, min(first + batch, num)))
        with torch.no_grad():
            pieces.append(encode(frames).detach().to("cpu", torch.float16))
    latents = torch.cat(pieces).contiguous()
    if not bool(latents.isfinite().all()):
        raise ValueError(f"drive {drive}: the encoder made a latent that is not finite in float16")
    return latents


def _path(folder: Path, drive: str) -> Path:
    return folder / f"{file_stem(drive)}.safetensors"
