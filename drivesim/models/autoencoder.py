"""Frames to scaled latents and back, in small batches."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL as AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

# Frames that go through the network at once: the decoder's memory, not the caller's, sets the limit.
FRAMES_AT_ONCE = 8


def to_model_range(frames_THWC: NDArray[np.uint8]) -> Tensor:
    """uint8 (T, H, W, 3) to float32 (T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_picture_range(frames_TCHW: Tensor) -> NDArray[np.uint8]:
    """Float (T, 3, H, W) in [-1, 1] to uint8 (T, H, W, 3), rounded."""
    levels = ((frames_TCHW.float() + 1.0) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def downsampling(autoencoder: AutoencoderKL) -> int:
    """Pixels of one latent's side: f."""
    return 2 ** (len(autoencoder.config.block_out_channels) - 1)


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, frames_THWC: NDArray[np.uint8]) -> Tensor:
    """Scaled latents (T, C, h, w) of uint8 frames (T, H, W, 3): the posterior's mode, frame by frame.

    Raises:
        ValueError: a size that the autoencoder does not divide.
    """
    f = downsampling(autoencoder)
    height, width = frames_THWC.shape[1:3]
    if height % f or width % f:
        raise ValueError(f"frames of {height} x {width} do not divide by {f}")
    config = autoencoder.config
    parts = [
        autoencoder.encode(part.to(autoencoder.device, autoencoder.dtype)).latent_dist.mode()
        for part in to_model_range(frames_THWC).split(FRAMES_AT_ONCE)
    ]
    return (torch.cat(parts) - (config.shift_factor or 0.0)) * config.scaling_factor


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents_TCHW: Tensor) -> NDArray[np.uint8]:
    """uint8 frames (T, H, W, 3) of scaled latents (T, C, h, w), each frame by itself.

    One frame goes through the network at a time, so that a frame's bytes do not depend on its neighbours.
    """
    config = autoencoder.config
    latents = latents_TCHW.to(autoencoder.device, autoencoder.dtype) / config.scaling_factor
    latents = latents + (config.shift_factor or 0.0)
    return np.concatenate([to_picture_range(autoencoder.decode(latent).sample) for latent in latents.split(1)])


@torch.no_grad()
def measure_scale(autoencoder: AutoencoderKL, frames_THWC: NDArray[np.uint8]) -> tuple[float, float]:
    """Sets the autoencoder's shift and scale so that latents of these frames have mean 0 and deviation 1.

    Returns:
        (shift_factor, scaling_factor)
    """
    autoencoder.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    latents = encode(autoencoder, frames_THWC).double()
    shift, scale = latents.mean().item(), 1.0 / latents.std().item()
    autoencoder.register_to_config(scaling_factor=scale, shift_factor=shift)
    return shift, scale
