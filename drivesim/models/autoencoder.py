"""Frames to scaled latents and back, in small batches."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL as AutoencoderKL
from diffusers import VQModel as VQModel
from numpy.typing import NDArray
from torch import Tensor

from drivesim.models.picture_decoding import WHOLE, decode_in_bands
from drivesim.nn.frame_groups import standing_for

Autoencoder: TypeAlias = AutoencoderKL | VQModel

# What goes through the encoder at once: its memory, not the caller's, sets the limit.
_FRAMES_AT_ONCE = 8
_PIXELS_AT_ONCE = _FRAMES_AT_ONCE * 320 * 512  # frames of the text family's size; of 1280 x 2048, one


def to_model_range(frames_THWC: NDArray[np.uint8]) -> Tensor:
    """uint8 (T, H, W, 3) to float32 (T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_picture_range(frames_TCHW: Tensor) -> NDArray[np.uint8]:
    """Float (T, 3, H, W) in [-1, 1] to uint8 (T, H, W, 3), rounded."""
    return to_levels(frames_TCHW).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_levels(frames_NCHW: Tensor) -> Tensor:
    """Float (N, C, H, W) in [-1, 1] to uint8, rounded."""
    levels = torch.empty(frames_NCHW.shape, dtype=torch.uint8, device=frames_NCHW.device)
    for frame, of_frame in zip(frames_NCHW, levels, strict=True):  # one by one they stay in a CPU's cache
        of_frame.copy_((127.5 * frame.float()).add_(128.0).clamp_(0, 255))  # rounded: integers are cut
    return levels


def downsampling(autoencoder: Autoencoder) -> int:
    """Pixels of one latent's side: f."""
    return 2 ** (len(autoencoder.config.block_out_channels) - 1)


def frames_at_once(height: int, width: int) -> int:
    """Frames of so many pixels that are encoded together; larger ones are fewer."""
    return max(1, min(_FRAMES_AT_ONCE, _PIXELS_AT_ONCE // (height * width)))


def keep_from_overflow(autoencoder: Autoencoder) -> None:
    """Leaves one in float32 whose config says that its activations overflow in float16."""
    if autoencoder.dtype is torch.float16 and autoencoder.config.get("force_upcast"):
        autoencoder.float()


@torch.no_grad()
def encode(autoencoder: Autoencoder, frames_THWC: NDArray[np.uint8]) -> Tensor:
    """Scaled latents (T, C, h, w) of uint8 frames (T, H, W, 3), frame by frame.

    Of a KL autoencoder the posterior's mode; of a VQ autoencoder what is about to be quantised, which the decoder
    does.

    Raises:
        ValueError: a size that the autoencoder does not divide.
    """
    return encode_pictures(autoencoder, to_model_range(frames_THWC))


@torch.no_grad()
def encode_pictures(autoencoder: Autoencoder, frames_TCHW: Tensor) -> Tensor:
    """As `encode`, of float frames (T, 3, H, W) in [-1, 1]."""
    f = downsampling(autoencoder)
    height, width = frames_TCHW.shape[2:]
    if height % f or width % f:
        raise ValueError(f"frames of {height} x {width} do not divide by {f}")
    parts = [
        _latents(autoencoder, part.to(autoencoder.device, autoencoder.dtype))
        for part in frames_TCHW.split(frames_at_once(height, width))
    ]
    return (torch.cat(parts) - _shift(autoencoder)) * autoencoder.config.scaling_factor


def _latents(autoencoder: Autoencoder, frames_BCHW: Tensor) -> Tensor:
    if isinstance(autoencoder, VQModel):
        return autoencoder.encode(frames_BCHW).latents  # type: ignore[no-any-return]
    return autoencoder.encode(frames_BCHW).latent_dist.mode()  # type: ignore[no-any-return]


def _shift(autoencoder: Autoencoder) -> float:
    return autoencoder.config.get("shift_factor") or 0.0  # VQModel has none


def latent_scale(autoencoder: Autoencoder) -> tuple[float, float]:
    """What is taken off its latents, and what they are multiplied by then."""
    return float(_shift(autoencoder)), float(autoencoder.config.scaling_factor)


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents_TCHW: Tensor) -> NDArray[np.uint8]:
    """uint8 frames (T, H, W, 3) of scaled latents (T, C, h, w), each frame by itself."""
    return to_picture_range(decode_pictures(autoencoder, latents_TCHW))


@torch.no_grad()
def decode_pictures(autoencoder: Autoencoder, latents_TCHW: Tensor) -> Tensor:
    """As `decode`, to float frames (T, 3, H, W) in [-1, 1] on the autoencoder's device.

    One frame goes through the network at a time, so that a frame's bytes do not depend on its neighbours; a frame of
    more than `picture_decoding.WHOLE` latents in bands.
    """
    made: Tensor | None = None
    for index, latent in enumerate(latents_TCHW.split(1)):
        if latent.is_meta and index > 0:
            break  # the first stands for it
        with standing_for(len(latents_TCHW) if latent.is_meta else 1):
            frame = _decoded(autoencoder, latent.to(autoencoder.device, autoencoder.dtype)).clamp_(-1, 1)
            if len(latents_TCHW) == 1:
                return frame
            if made is None:
                made = frame.new_empty(len(latents_TCHW), *frame.shape[1:])
            made[index] = frame[0]
    assert made is not None
    return made


def _decoded(autoencoder: Autoencoder, scaled_1CHW: Tensor) -> Tensor:
    height, width = scaled_1CHW.shape[2:]
    if height * width <= WHOLE or autoencoder.config.get("norm_type", "group") != "group":
        return autoencoder.decode(_unscaled(autoencoder, scaled_1CHW)).sample  # type: ignore[no-any-return]
    return decode_in_bands(autoencoder.decoder, scaled_1CHW, partial(_for_decoder, autoencoder))


def _unscaled(autoencoder: Autoencoder, scaled_NCHW: Tensor) -> Tensor:
    return scaled_NCHW / autoencoder.config.scaling_factor + _shift(autoencoder)  # type: ignore[no-any-return]


def _for_decoder(autoencoder: Autoencoder, scaled_NCHW: Tensor) -> Tensor:
    """What the decoder itself takes: unscaled, and the nearest entries of a codebook."""
    latents = _unscaled(autoencoder, scaled_NCHW)
    if isinstance(autoencoder, VQModel):
        latents = autoencoder.quantize(latents)[0]
    conv = autoencoder.post_quant_conv
    return latents if conv is None else conv(latents)  # type: ignore[no-any-return]


@torch.no_grad()
def measure_scale(autoencoder: Autoencoder, frames_THWC: NDArray[np.uint8]) -> tuple[float, float]:
    """Sets the autoencoder's scale so that latents of these frames have deviation 1, and its shift for mean 0.

    A VQ autoencoder keeps no shift; its latents have a root mean square of 1 instead.

    Returns:
        (shift_factor, scaling_factor)
    """
    shifts = {} if isinstance(autoencoder, VQModel) else {"shift_factor": 0.0}
    autoencoder.register_to_config(scaling_factor=1.0, **shifts)
    latents = encode(autoencoder, frames_THWC).cpu().double()  # Apple's GPUs have no float64
    shift = latents.mean().item() if shifts else 0.0
    scale = 1.0 / (latents - shift).square().mean().sqrt().item()
    autoencoder.register_to_config(scaling_factor=scale, **dict.fromkeys(shifts, shift))
    return shift, scale
