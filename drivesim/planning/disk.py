"""What a rollout writes: its videos."""

from __future__ import annotations

from drivesim.planning.plan import DiskRow
from drivesim.rollout.run import RolloutConfig

# Bits a pixel of our x264 at crf 17; every 6 more halve it. Toytown's futures of 20 s take 0.43 (256 x 512 pixels at 30
# frames a second); made small again to 64 x 128, 1.0, and of these the frames at 10/3 a second 2.4.
_BITS_A_PIXEL = 2.4
_AT_CRF = 17


def rollout_disk(config: RolloutConfig, size_hw: tuple[int, int], num_frames: int) -> list[DiskRow]:
    """Bytes of a rollout's videos; segments are there beside their video until it is whole."""
    bits = _BITS_A_PIXEL * 2 ** ((_AT_CRF - config.crf) / 6)
    each = size_hw[0] * size_hw[1] * num_frames * bits / 8
    note = f"an estimate: {bits:.2g} bits a pixel at crf {config.crf}"
    return [
        DiskRow(name="videos", value=config.futures * each, note=note),
        DiskRow(name="segments of an unfinished video", value=each, note="deleted with its row"),
    ]
