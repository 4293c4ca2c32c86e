"""From latents to the frames of the video: decoded with their neighbours, upsampled in portions, in a stream.

Axes: T frames, C channels, h w latent pixels or pixels of small pictures, H W pixels of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.finite import check_finite
from drivesim.core.seeds import Key
from drivesim.families.memory import CHUNK, MemoryConfig
from drivesim.families.offload import Bring
from drivesim.families.portions import Pending, PortionMaker, upsample_next
from drivesim.families.upsample import UpsamplingModel, upsample_portion
from drivesim.models.autoencoder import Autoencoder, decode_pictures, downsampling, to_picture_range
from drivesim.models.upsampler import COLOURS
from drivesim.models.video_decoder import VideoDecoder
from drivesim.models.video_decoding import decode_chunks
from drivesim.nn.tiles import Grid

# In the names of what is pending.
_DECODE = "decode."
_UPSAMPLE = "upsample."


class Finishing:
    """What turns latents into the frames of a video.

    Args:
        autoencoder: decodes frame by frame where there is no video decoder.
        video_decoder: None = there is none.
        upsampling: of videos; None = frames stay as large as they are decoded.
        alone: of single pictures; None = they stay as large as they are decoded.
        fps: of the video, for messages.
        tile: side of the pieces, in latents, that the video decoder takes larger pictures in; None = whole ones.
        chunk: frames that it takes at once: memory does not depend on how many come.
        bring: is told when a stage is about to run: "pictures" (the autoencoder), "decode" (the video decoder),
            "upsample".
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        video_decoder: VideoDecoder | None,
        upsampling: PortionMaker | None,
        *,
        fps: float,
        alone: UpsamplingModel | None = None,
        tile: int | None = None,
        chunk: int = CHUNK,
        bring: Bring = lambda stage: None,
    ):
        self.autoencoder = autoencoder
        self.video_decoder = video_decoder
        self.upsampling, self.alone = upsampling, alone
        self.fps, self.tile, self.chunk, self.bring = fps, tile, chunk, bring

    @classmethod
    def of_driving(
        cls, parts: dict[str, Any], index: dict[str, Any], fps: float, memory: MemoryConfig, bring: Bring
    ) -> Finishing:
        """Of a driving model's parts and facts."""
        upsampling, alone = None, None
        if "upsampler" in index:
            upsampling = UpsamplingModel.from_parts(parts, index)
            alone = UpsamplingModel.from_parts(parts, index, frame_by_frame=True)
        return cls(
            parts["autoencoder"], parts.get("video_decoder"), upsampling, alone=alone, fps=fps,
            tile=memory.tile, chunk=memory.chunk, bring=bring,
        )  # fmt: skip

    @property
    def scale(self) -> int:
        """Pixels of the video to one of a decoded picture, a side."""
        return 1 if self.upsampling is None else self.upsampling.scale

    def still(self, latents_CHW: Tensor, key: tuple[Key, ...]) -> NDArray[np.uint8]:
        """A single picture (H, W, 3): the image decoder's, upsampled by itself."""
        self.bring("pictures")
        picture_1Chw = decode_pictures(self.autoencoder, latents_CHW[None])
        if self.alone is None:
            return to_picture_range(picture_1Chw)[0]
        self.bring("upsample")
        made_1CYX = upsample_portion(self.alone, picture_1Chw, first_frame=0, key=key)
        return self.alone.pictures(made_1CYX, first_frame=0)[0]

    def push(
        self,
        pending: Pending,
        latents_TCHW: Tensor,
        *,
        key: tuple[Key, ...],
        is_last: bool,
        conditions: Any = None,
    ) -> tuple[Pending, NDArray[np.uint8]]:
        """Frames that these latents complete; see `rollout.model.PredictionModel.finish`."""
        self.bring("pictures" if self.video_decoder is None else "decode")
        undecoded, small_TChw = self._decoded(_of(_DECODE, pending), latents_TCHW, is_last=is_last)
        if self.upsampling is None:
            return _named(_DECODE, undecoded), to_picture_range(small_TChw)
        self.bring("upsample")
        waiting = _of(_UPSAMPLE, pending)
        waiting, frames_THWC = upsample_next(
            self.upsampling, waiting, small_TChw, key=key, is_last=is_last, conditions=conditions
        )
        return _named(_DECODE, undecoded) | _named(_UPSAMPLE, waiting), frames_THWC

    def _decoded(self, waiting: Pending, latents_TCHW: Tensor, *, is_last: bool) -> tuple[Pending, Tensor]:
        """Small frames (T, 3, h, w) in [-1, 1] whose neighbours are all known, and the latents still needed."""
        latents = latents_TCHW.cpu()
        lead, number = 0, 0  # latents in front that are decoded already; number of the next frame
        if waiting:
            latents = torch.cat([waiting["latents"], latents])
            lead, number = waiting["counts"].tolist()
        radius = 0 if self.video_decoder is None else self.video_decoder.radius
        last = len(latents) if is_last else max(lead, len(latents) - radius)
        frames = torch.cat([self._none(latents), *self._chunks(latents, lead, last)])
        check_finite(frames, "decoding", number, self.fps)
        first_kept = max(0, last - radius)
        counts = torch.tensor([last - first_kept, number + last - lead])
        return {"latents": latents[first_kept:], "counts": counts}, frames

    def _chunks(self, latents_TCHW: Tensor, first: int, last: int) -> Iterator[Tensor]:
        if self.video_decoder is None:  # which takes one picture at a time
            return iter([decode_pictures(self.autoencoder, latents_TCHW[first:last])] if first < last else [])
        tiles = self.tiles(latents_TCHW.shape[-2:])
        return decode_chunks(self.video_decoder, latents_TCHW, first, last, frames_at_once=self.chunk, tiles=tiles)

    def tiles(self, latent_hw: Sequence[int]) -> Grid:
        """Rows and columns of pieces that the video decoder takes a frame of so many latents in."""
        if self.tile is None or self.video_decoder is None:
            return 1, 1
        height, width = latent_hw
        return -(-height // self.tile), -(-width // self.tile)

    def _none(self, latents_TCHW: Tensor) -> Tensor:
        height, width = (side * downsampling(self.autoencoder) for side in latents_TCHW.shape[-2:])
        decoder = self.autoencoder if self.video_decoder is None else self.video_decoder
        return torch.zeros(0, COLOURS, height, width, device=decoder.device, dtype=decoder.dtype)


def _of(stage: str, pending: Pending) -> Pending:
    return {name.removeprefix(stage): tensor for name, tensor in pending.items() if name.startswith(stage)}


def _named(stage: str, pending: Pending) -> Pending:
    return {stage + name: tensor for name, tensor in pending.items()}
