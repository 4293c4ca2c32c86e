"""Rough pictures of latents while they are sampled: colours alone, without decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.models.autoencoder import Autoencoder, decode_pictures, to_picture_range

_PATCH = 8  # side of the patches, in latents, that colours are measured on


class LatentColours:
    """A linear map from latents to colours, measured on an autoencoder: a patch of each channel, decoded."""

    def __init__(self, autoencoder: Autoencoder):
        channels = autoencoder.config.latent_channels
        steps = torch.cat([torch.zeros(1, channels), torch.eye(channels), -torch.eye(channels)])
        patches = steps[:, :, None, None].expand(-1, -1, _PATCH, _PATCH)
        colours_N3 = decode_pictures(autoencoder, patches).float().cpu().mean(dim=(2, 3))
        self.offset_3 = colours_N3[0]
        self.slope_C3 = (colours_N3[1 : channels + 1] - colours_N3[channels + 1 :]) / 2

    def pictures(self, latents_NCHW: Tensor) -> NDArray[np.uint8]:
        """uint8 RGB (N, h, w, 3), one pixel a latent."""
        colours = torch.einsum("nchw,cr->nrhw", latents_NCHW.float().cpu(), self.slope_C3)
        return to_picture_range(colours + self.offset_3[:, None, None])


@dataclass(kw_only=True, slots=True)
class SamplingStep:
    """What a listener is told after each step of sampling."""

    stage: str  # such as "key frames"
    step: int  # steps done
    num_steps: int  # of this call of the network; a stage may have many calls
    latents: Tensor  # (..., C, h, w) what they will be, as far as can be told; on the networks' device
    colours: Callable[[], LatentColours]

    def preview(self) -> NDArray[np.uint8]:
        """A rough picture of each frame, uint8 RGB (N, h, w, 3), one pixel a latent."""
        return self.colours().pictures(self.latents.reshape(-1, *self.latents.shape[-3:]))
