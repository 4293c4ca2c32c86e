"""A given frame as the ego car sees it from further along its way: context for frames that are not given.

Temporal layers look at one place of the picture, and in a turn what they look for is elsewhere. Where the motion is
known, the held frame is brought to where its content will be: the road by the plane that it is, all that is higher
by a wall far away. What comes into view anew is zero.

Axes: B clips, T frames, C channels, H W latent pixels; 2 = speed in m/s, yaw rate in rad/s (`core.motion`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from drivesim.conditioning.given_frames import last_given
from drivesim.core.camera import FRONT_AHEAD_M, FRONT_HEIGHT_M

FAR_M = 40.0  # of the wall
_NEAREST_M = 0.3  # nearer things, or such behind the camera, are not seen


def poses(motion_BT2: Tensor, gap_s: float) -> Tensor:
    """(B, T, 3) x_m ahead, y_m to the left, yaw_rad of a front camera; its car begins in the origin, straight ahead.

    Args:
        motion_BT2: that leads to each frame; of an unknown one the car stands still.
        gap_s: from one frame to the next.
    """
    step_BT2 = motion_BT2.nan_to_num(0.0).double() * gap_s
    step_BT2[:, 0] = 0
    way_BT, turn_BT = step_BT2.unbind(-1)
    yaw_BT = turn_BT.cumsum(1)
    heading_BT = yaw_BT - turn_BT / 2
    x_BT, y_BT = (way_BT * heading_BT.cos()).cumsum(1), (way_BT * heading_BT.sin()).cumsum(1)
    ahead_BT, left_BT = FRONT_AHEAD_M * yaw_BT.cos(), FRONT_AHEAD_M * yaw_BT.sin()
    return torch.stack([x_BT + ahead_BT, y_BT + left_BT, yaw_BT], dim=-1)


def moved_along(context_BTCHW: Tensor, given_BT: Tensor, motion_BT2: Tensor, gap_s: float, fov_deg: float) -> Tensor:
    """Context in which every held frame is what the ego car sees of it at that time.

    Args:
        context_BTCHW: held latents and their mask, as `given_frames.context_of` makes them with `hold`.
        given_BT: bool, True = the frame is given; these stay as they are.
        motion_BT2: that leads to each frame; where it is unknown, the view stays.
        gap_s: from one frame to the next.
        fov_deg: the camera's horizontal field of view.
    """
    b, t, _, height, width = context_BTCHW.shape
    held_BTCHW, mask_BT1HW = context_BTCHW[:, :, :-1], context_BTCHW[:, :, -1:]
    pose_BT3 = poses(motion_BT2.cpu(), gap_s)  # in float64, which some devices do not know
    origin_BT3 = pose_BT3.gather(1, last_given(given_BT).cpu()[..., None].expand(-1, -1, 3))
    view_BT3 = _seen_from(origin_BT3, pose_BT3).float().to(context_BTCHW.device)
    places_NHW2, is_seen_NHW = _places(view_BT3.flatten(0, 1), (height, width), fov_deg)
    # Float32 whatever the networks compute in: 16 bits know a place in the picture to a few hundredths of its width.
    moved = F.grid_sample(held_BTCHW.flatten(0, 1).float(), places_NHW2, padding_mode="border", align_corners=False)
    moved = (moved * is_seen_NHW[:, None]).unflatten(0, (b, t)).to(held_BTCHW.dtype)
    is_moved_BT = view_BT3.abs().amax(-1) > 0  # exactly the held one where nothing is known to move
    return torch.cat([torch.where(is_moved_BT[..., None, None, None], moved, held_BTCHW), mask_BT1HW], dim=2)


def _seen_from(origin_BT3: Tensor, pose_BT3: Tensor) -> Tensor:
    """Poses in the system of other poses."""
    x, y, yaw = (pose_BT3 - origin_BT3).unbind(-1)
    cos, sin = origin_BT3[..., 2].cos(), origin_BT3[..., 2].sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x, yaw], dim=-1)


def _places(view_N3: Tensor, size_hw: tuple[int, int], fov_deg: float) -> tuple[Tensor, Tensor]:
    """Where the pixels of views from some poses lie in the picture from pose 0, (N, H, W, 2) in [-1, 1], and whether.

    The camera looks straight ahead from `FRONT_HEIGHT_M` above the road; y and x are those of `grid_sample`.
    """
    height, width = size_hw
    device = view_N3.device
    half_width = math.tan(math.radians(fov_deg) / 2)
    right_W = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1) * half_width
    down_H = ((torch.arange(height, device=device) + 0.5) / height * 2 - 1) * half_width * height / width
    ahead_H = torch.where(down_H > FRONT_HEIGHT_M / FAR_M, FRONT_HEIGHT_M / down_H.clamp(min=1e-6), FAR_M)
    ahead_HW = ahead_H[:, None].expand(height, width)
    left_HW, low_HW = -right_W[None] * ahead_HW, down_H[:, None] * ahead_HW
    x_N, y_N, yaw_N = (value[:, None, None] for value in view_N3.unbind(-1))
    ahead_NHW = yaw_N.cos() * ahead_HW - yaw_N.sin() * left_HW + x_N
    left_NHW = yaw_N.sin() * ahead_HW + yaw_N.cos() * left_HW + y_N
    depth_NHW = ahead_NHW.clamp(min=_NEAREST_M)
    across = -left_NHW / depth_NHW / half_width
    along = low_HW / depth_NHW / (half_width * height / width)
    is_seen = (ahead_NHW > _NEAREST_M) & (across.abs() <= 1) & (along.abs() <= 1)
    return torch.stack([across, along], dim=-1), is_seen
