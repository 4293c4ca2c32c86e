"""From latents to the frames of the video: decoded with their neighbours, upsampled in portions, in a stream.

Axes: T frames, C channels, h w latent pixels or pixels of small pictures, H W pixels of the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.finite import check_finite
from drivesim.core.seeds import Key
from drivesim.families.upsample import UpsamplingModel, upsample_portion
from drivesim.models.autoencoder import Autoencoder, decode_pictures, to_picture_range
from drivesim.models.video_decoder import VideoDecoder
from drivesim.models.video_decoding import decode_clip

Pending: TypeAlias = dict[str, Tensor]

FRAMES_AT_ONCE = 16  # of the decoder; memory does not depend on how many frames come at once


class Finishing:
    """What turns latents into the frames of a video.

    Args:
        autoencoder: decodes frame by frame where there is no video decoder.
        video_decoder: decodes a frame with those around it; None = the autoencoder decodes.
        upsampling: makes decoded frames larger; None = they stay as they are.
        fps: of the video, for messages.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        video_decoder: VideoDecoder | None,
        upsampling: UpsamplingModel | None,
        fps: float,
    ):
        self.autoencoder, self.video_decoder, self.upsampling, self.fps = autoencoder, video_decoder, upsampling, fps

    @property
    def scale(self) -> int:
        """Pixels of the video to one of a decoded picture, a side."""
        return 1 if self.upsampling is None else self.upsampling.networks.scale

    def still(self, latents_CHW: Tensor, key: tuple[Key, ...]) -> NDArray[np.uint8]:
        """A single picture (H, W, 3): the image decoder's, upsampled by itself."""
        picture_1Chw = decode_pictures(self.autoencoder, latents_CHW[None])
        if self.upsampling is not None:
            alone = self.upsampling.frame_by_frame()
            picture_1Chw = upsample_portion(alone, picture_1Chw, first_frame=0, key=key)
        return to_picture_range(picture_1Chw)[0]

    def push(
        self, pending: Pending, latents_TCHW: Tensor, *, key: tuple[Key, ...], is_last: bool
    ) -> tuple[Pending, NDArray[np.uint8]]:
        """Frames that these latents complete; see `rollout.model.PredictionModel.finish`."""
        waiting = {name.removeprefix(_DECODE): tensor for name, tensor in pending.items() if name.startswith(_DECODE)}
        undecoded, small_TChw = self._decoded(waiting, latents_TCHW, is_last=is_last)
        after = {_DECODE + name: tensor for name, tensor in undecoded.items()}
        return after, to_picture_range(small_TChw)

    def _decoded(self, waiting: Pending, latents_TCHW: Tensor, *, is_last: bool) -> tuple[Pending, Tensor]:
        """Small frames (T, 3, h, w) in [-1, 1] whose neighbours are all known, and the latents still needed."""
        latents = latents_TCHW.cpu()
        lead, number = 0, 0  # latents in front that are decoded already; number of the next frame
        if waiting:
            latents = torch.cat([waiting["latents"], latents])
            lead, number = waiting["counts"].tolist()
        radius = 0 if self.video_decoder is None else self.video_decoder.radius
        last = len(latents) if is_last else max(lead, len(latents) - radius)
        frames = torch.cat([torch.zeros(0), *self._chunks(latents, lead, last)]) if last == lead else None
        if frames is None:
            frames = torch.cat(list(self._chunks(latents, lead, last)))
            check_finite(frames, "decoder", number, self.fps)
        first_kept = max(0, last - radius)
        counts = torch.tensor([last - first_kept, number + last - lead])
        return {"latents": latents[first_kept:], "counts": counts}, frames

    def _chunks(self, latents_TCHW: Tensor, first: int, last: int) -> Iterator[Tensor]:
        for start in range(first, last, FRAMES_AT_ONCE):
            end = min(last, start + FRAMES_AT_ONCE)
            if self.video_decoder is None:
                yield decode_pictures(self.autoencoder, latents_TCHW[start:end])
            else:
                yield decode_clip(self.video_decoder, latents_TCHW, start, end)


_DECODE = "decode."  # in the names of what is pending
