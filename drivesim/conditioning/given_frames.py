"""Given frames as context channels: c_S = (m * z, m), the paper's prediction conditioning (§3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from drivesim.diffusion.objective import add_noise
from drivesim.diffusion.schedule import DDIMScheduler


def context_of(latents_BTCHW: Tensor, given_BT: Tensor, *, hold: bool = False) -> Tensor:
    """Context channels of clips in which some frames are given.

    Args:
        latents_BTCHW: latents of all frames; those that are not given are not looked at.
        given_BT: bool, True = the frame is given.
        hold: show given frames to the others as well: the last one before, as Stable Video Diffusion shows its start
            frame, or between two of them both, mixed by how near they are in time. False = zeros, as in the paper.
            Frames before any given one see zeros.

    Returns:
        (B, T, C + 1, H, W): the given latents, zero or what is held elsewhere, and the mask.
    """
    mask = given_BT[:, :, None, None, None].to(latents_BTCHW.dtype)
    shape = (*latents_BTCHW.shape[:2], 1, *latents_BTCHW.shape[3:])
    # where, not a product: frames that are not given may hold anything, also NaN
    given = torch.where(mask > 0, latents_BTCHW, torch.zeros_like(latents_BTCHW))
    if hold:
        given = _held(given, given_BT)
    return torch.cat([given, mask.expand(shape)], dim=2)


def last_given(given_BT: Tensor) -> Tensor:
    """(B, T) index of the last frame up to each that is given, itself included; 0 where none is."""
    frame = torch.arange(given_BT.shape[1], device=given_BT.device)
    return torch.where(given_BT, frame, 0).cummax(dim=1).values


def _held(given_BTCHW: Tensor, given_BT: Tensor) -> Tensor:
    """Given frames, zeros elsewhere, with what is held in place of the zeros."""
    num_frames = given_BT.shape[1]
    frame = torch.arange(num_frames, device=given_BT.device)
    before = last_given(given_BT)  # frame 0 holds zeros where it is not given
    after = torch.where(given_BT, frame, num_frames).flip(1).cummin(dim=1).values.flip(1)
    is_between = given_BT.gather(1, before) & (after < num_frames)
    share_BT = torch.where(is_between, (frame - before) / (after - before).clamp(min=1), 0.0)
    clip = torch.arange(len(given_BT), device=given_BT.device)[:, None]
    share = share_BT[:, :, None, None, None].to(given_BTCHW.dtype)
    return torch.lerp(given_BTCHW[clip, before], given_BTCHW[clip, after.clamp(max=num_frames - 1)], share)


def kept_still(made_BTCHW: Tensor, held_BTCHW: Tensor, below: float) -> Tensor:
    """Frames between two given ones, drawn to the mix of both where these hardly differ.

    Nothing moves there, and a network's small errors would flicker. Of the network's frames a share d2 / (d2 + below^2)
    stays, d2 the mean square difference of the given latents at that place: half where they are `below` apart.

    Args:
        made_BTCHW: latents of the clips from the first given frame to the last.
        held_BTCHW: both given frames and, between them, their mix: what `context_of` holds.
        below: in standard deviations of latents; 0 = the network's frames as they are.
    """
    if not below:
        return made_BTCHW
    apart_B1CHW = (held_BTCHW[:, -1:] - held_BTCHW[:, :1]).float()  # 16 bits would be 0 too soon
    square_B11HW = apart_B1CHW.square().mean(dim=2, keepdim=True)
    share_B11HW = square_B11HW / (square_B11HW + below**2)
    return torch.lerp(held_BTCHW, made_BTCHW, share_B11HW.to(made_BTCHW))


def noised(latents_BTCHW: Tensor, level_B: Tensor, noise_BTCHW: Tensor, schedule: DDIMScheduler) -> Tensor:
    """Latents with noise of a diffusion step, as the given frames of a model that is told the step.

    Args:
        latents_BTCHW: clean latents.
        level_B: int64 step of each clip; a clip at step 0 stays as it is.
        noise_BTCHW: standard normal noise.
        schedule: the model's noise schedule.
    """
    noisy, _ = add_noise(latents_BTCHW, noise_BTCHW, level_B, schedule)
    return torch.where((level_B > 0).view(-1, 1, 1, 1, 1), noisy, latents_BTCHW)


def no_context(latents_BTCHW: Tensor) -> Tensor:
    """Context channels with no frame given (S = 0): the unconditional branch of context guidance."""
    b, t = latents_BTCHW.shape[:2]
    return context_of(latents_BTCHW, torch.zeros(b, t, dtype=torch.bool, device=latents_BTCHW.device))


def ends_given(num_frames: int, device: torch.device | str = "cpu") -> Tensor:
    """(1, T) bool: the first and the last frame are given, as in interpolation."""
    frame = torch.arange(num_frames, device=device)[None]
    return (frame == 0) | (frame == num_frames - 1)


def first_frames_given(num_given_B: Tensor, num_frames: int) -> Tensor:
    """(B, T) bool: the first `num_given_B[b]` of T frames are given."""
    return torch.arange(num_frames, device=num_given_B.device)[None] < num_given_B[:, None]
