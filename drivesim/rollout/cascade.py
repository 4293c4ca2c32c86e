"""Key frames to the frames of the video: passes of interpolation, chunk by chunk, in latents.

Axes: K frames before and N frames after a pass, B windows, C channels, h w latent pixels.
"""

from __future__ import annotations

import torch

from drivesim.core.seeds import Key, torch_generator
from drivesim.rollout.model import PredictionModel

WINDOWS_AT_ONCE = 8  # of one call; part of what fixes a video's bytes, because batched sums round differently


def fill_in(
    model: PredictionModel, keys_KCHW: torch.Tensor, is_night: bool | None, key: tuple[Key, ...]
) -> torch.Tensor:
    """All frames from the first key frame to the last one.

    Args:
        model: fills the gaps; one without passes leaves the key frames as they are.
        keys_KCHW: latents of K key frames in a row.
        is_night: None = unknown.
        key: of the noise: (run seed, start, future, chunk).

    Returns:
        Latents ((K - 1) * model.frames_per_gap + 1, C, h, w); every key frame is in them, unchanged.
    """
    frames = keys_KCHW
    for number in range(model.num_passes):
        frames = _one_pass(model, frames, number, is_night, key)
    return frames


def _one_pass(
    model: PredictionModel, frames_KCHW: torch.Tensor, number: int, is_night: bool | None, key: tuple[Key, ...]
) -> torch.Tensor:
    ends_B2CHW = torch.stack([frames_KCHW[:-1], frames_KCHW[1:]], dim=1)
    generators = [torch_generator(*key, "interpolate", number, window) for window in range(len(ends_B2CHW))]
    filled = []
    for first in range(0, len(ends_B2CHW), WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        night = [is_night] * len(generators[part])
        clips_BTCHW = model.interpolate(ends_B2CHW[part], number, generators=generators[part], is_night=night)
        filled.append(clips_BTCHW[:, :-1].flatten(0, 1).to(frames_KCHW.device))
    return torch.cat([*filled, frames_KCHW[-1:]])
