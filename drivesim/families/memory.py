"""What a rollout may do to need less memory; light to import, unlike the networks themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass

_log = logging.getLogger(__name__)
CHUNK = 16  # frames that a video decoder takes at once, where nothing else is said


@dataclass(kw_only=True, slots=True)
class MemoryConfig:
    """Smaller pieces of decoding, which change the last bits of frames, and networks that wait off the GPU."""

    tile: int | None = None  # side, in latents, of pieces of a frame in the video decoder; None = the family's
    chunk: int = CHUNK  # frames that the video decoder takes at once, beside their neighbours
    offload: bool = False  # on a GPU: networks of stages that do not run wait in the machine's own memory

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that make no pieces."""
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"memory.tile={self.tile}; valid: 1 latent or more, or null, the family's own")
        if self.chunk < 1:
            raise ValueError(f"memory.chunk={self.chunk}; valid: 1 frame or more")

    @property
    def other_chunk(self) -> int | None:
        """The chunk where it is not that of runs that say nothing of it; else None."""
        return None if self.chunk == CHUNK else self.chunk

    def say_unread(self, model: str) -> None:
        """Tells a person whose model has no video decoder that pieces were asked for in vain."""
        if self.tile is not None or self.other_chunk is not None:
            _log.warning(
                "memory.tile and memory.chunk change nothing: model %r runs without a video decoder, and the image "
                "decoder takes single frames, large ones in pieces of its own",
                model,
            )

    def check_offload(self, device: str) -> None:
        """Raises ValueError where networks would wait in the memory that they run in."""
        if self.offload and not device.startswith("cuda"):
            raise ValueError(
                f"memory.offload=true with device={device}, whose memory is the machine's own: it is for GPUs, "
                "device=cuda; leave it out here"
            )
