"""Which frames make a clip, where clips start, and which drives belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# A wanted rate may be this much above the native one: recorders seldom keep exactly to theirs.
_RATE_TOLERANCE = 1.05
_EPSILON_S = 1e-4


def native_fps(timestamps_s: NDArray[np.float64]) -> float:
    """Frames per second from the median time between frames, which gaps do not move."""
    if len(timestamps_s) < 2:
        return 0.0
    return float(1.0 / np.median(np.diff(timestamps_s)))


def is_too_fast(fps: float, native: float) -> bool:
    """Whether a wanted rate would show native frames twice."""
    return fps > native * _RATE_TOLERANCE


def time_tolerance_s(fps: float, wanted_fps: float | None = None) -> float:
    """How far a frame may be from a wanted time.

    Three quarters of a native frame: half a frame is what regular sampling needs, the rest is for jitter. nuScenes
    cameras run at 12 Hz and skip single frames; 0.1 s lets one be skipped, not two. Where frames are wanted at a higher
    rate than 4 a second the picture beside the hole would stand still, so it is 0.4 of a wanted frame there.

    Args:
        fps: native.
        wanted_fps: None = at most 4.
    """
    return max(0.75 / fps, min(0.1, 0.4 / (wanted_fps or 4.0))) + _EPSILON_S


def nearest_frames(
    timestamps_s: NDArray[np.float64], wanted_s: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest frame of each wanted time.

    Args:
        timestamps_s: (N,) increasing, N >= 1.
        wanted_s: (T,).

    Returns:
        (T,) indices, and (T,) distances in seconds.
    """
    right = np.clip(np.searchsorted(timestamps_s, wanted_s), 1, max(1, len(timestamps_s) - 1))
    right = np.minimum(right, len(timestamps_s) - 1)
    left = np.maximum(right - 1, 0)
    # The earlier one wins a tie; the epsilon keeps float noise from deciding it.
    is_right = (timestamps_s[right] - wanted_s) + 1e-9 < (wanted_s - timestamps_s[left])
    index = np.where(is_right, right, left).astype(np.int64)
    return index, np.abs(timestamps_s[index] - wanted_s)


def choose_frames(
    drive: str, timestamps_s: NDArray[np.float64], *, start_s: float, num_frames: int, fps: float
) -> NDArray[np.int64]:
    """Indices (num_frames,) of the native frames that make a clip at `fps`.

    Raises:
        ValueError: a rate above the native one, or a wanted time without a frame near it.
    """
    if num_frames < 1 or not fps > 0:
        raise ValueError(f"drive {drive}: {num_frames} frames at {fps} fps; both must be above 0")
    native = native_fps(timestamps_s)
    if num_frames > 1 and is_too_fast(fps, native):
        raise ValueError(f"drive {drive}: {fps:g} fps wanted, recorded at {native:.3g}; ask for at most that")
    wanted_s = start_s + np.arange(num_frames) / fps
    index, distance_s = nearest_frames(timestamps_s, wanted_s)
    bad = distance_s > time_tolerance_s(native or fps, fps)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"drive {drive}: no frame at {wanted_s[first]:.3f} s; the nearest is {distance_s[first]:.3f} s away, "
            f"the drive lasts {timestamps_s[-1]:.3f} s"
        )
    return index


def frame_times(timestamps_s: NDArray[np.float64], fps: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """All times k / fps of a drive, and which of them have a frame; the others lie in a gap."""
    num = int(np.floor((timestamps_s[-1] + _EPSILON_S) * fps)) + 1
    wanted_s = np.arange(num) / fps
    _, distance_s = nearest_frames(timestamps_s, wanted_s)
    return wanted_s, distance_s <= time_tolerance_s(native_fps(timestamps_s) or fps, fps)


def hash_split(names: Iterable[str], val_share: float) -> dict[str, str]:
    """A split, train or val, of each name, that stays when names are added or removed.

    A name is in val when its hash lies below `val_share`. Where that leaves a split empty although
    there are two names or more, the name with the lowest hash is in val, or the one with the
    highest in train; a single name is in train.
    """
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share is {val_share}; must be in [0, 1)")
    place = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names}
    splits = {name: "val" if share < val_share else "train" for name, share in place.items()}
    by_place = sorted(place, key=lambda name: place[name])
    if val_share > 0 and len(place) > 1 and "val" not in splits.values():
        splits[by_place[0]] = "val"
    if by_place and "train" not in splits.values():
        splits[by_place[-1]] = "train"
    return splits
