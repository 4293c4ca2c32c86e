"""Key frames to the frames of the video: passes of interpolation, chunk by chunk, in latents.

Axes: K frames before and N frames after a pass, B windows, C channels, h w latent pixels.
"""

from __future__ import annotations

import torch

from drivesim.core.seeds import Key, torch_generator
from drivesim.rollout.model import Conditions, PredictionModel

WINDOWS_AT_ONCE = 8  # of one call; part of what fixes a video's bytes, because batched sums round differently


def fill_in(
    model: PredictionModel,
    keys_KCHW: torch.Tensor,
    conditions: Conditions,
    key: tuple[Key, ...],
    *,
    first_s: float = 0.0,
) -> torch.Tensor:
    """All frames from the first key frame to the last one.

    Args:
        model: fills the gaps; one without passes leaves the key frames as they are.
        keys_KCHW: latents of K key frames in a row.
        conditions: of the video.
        key: of the noise: (run seed, start, future, chunk).
        first_s: when in the video the first key frame is shown.

    Returns:
        Latents ((K - 1) * model.frames_per_gap + 1, C, h, w); every key frame is in them, unchanged.
    """
    frames = keys_KCHW
    duration_s = (len(keys_KCHW) - 1) * model.frames_per_gap / model.fps
    for number in range(model.num_passes):
        gaps = len(frames) - 1
        starts_s = [first_s + duration_s * gap / gaps for gap in range(gaps)]
        frames = _one_pass(model, frames, number, conditions, starts_s, key)
    return frames


def _one_pass(
    model: PredictionModel,
    frames_KCHW: torch.Tensor,
    number: int,
    conditions: Conditions,
    starts_s: list[float],
    key: tuple[Key, ...],
) -> torch.Tensor:
    ends_B2CHW = torch.stack([frames_KCHW[:-1], frames_KCHW[1:]], dim=1)
    generators = [torch_generator(*key, "interpolate", number, window) for window in range(len(ends_B2CHW))]
    filled = []
    for first in range(0, len(ends_B2CHW), WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        clips_BTCHW = model.interpolate(
            ends_B2CHW[part],
            number,
            generators=generators[part],
            conditions=[conditions] * len(generators[part]),
            starts_s=starts_s[part],
        )
        filled.append(clips_BTCHW[:, :-1].flatten(0, 1).to(frames_KCHW.device))
    return torch.cat([*filled, frames_KCHW[-1:]])
