"""What a rollout writes: its videos."""

from __future__ import annotations

from drivesim.planning.plan import DiskRow
from drivesim.rollout.run import RolloutConfig

# Bits a pixel of x264 at crf 18; every 6 more halve it. Futures of 64 x 128 pixels at 4 frames a second take 1.4
# (hills) to 2.1 (toytown, 6 s); larger pictures and higher rates take less.
_BITS_A_PIXEL = 1.8


def rollout_disk(config: RolloutConfig, size_hw: tuple[int, int], num_frames: int) -> list[DiskRow]:
    """Bytes of a rollout's videos; segments are there beside their video until it is whole."""
    bits = _BITS_A_PIXEL * 2 ** ((18 - config.crf) / 6)
    each = size_hw[0] * size_hw[1] * num_frames * bits / 8
    note = f"an estimate: {bits:.2g} bits a pixel at crf {config.crf}"
    return [
        DiskRow(name="videos", value=config.futures * each, note=note),
        DiskRow(name="segments of an unfinished video", value=each, note="deleted with its row"),
    ]
