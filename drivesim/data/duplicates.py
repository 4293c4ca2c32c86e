"""Finds frames that two splits share, by tiny grey pictures that survive re-encoding and resizing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from drivesim.core.picture import resize_area
from drivesim.data.source import Drive, Problem, ProblemKind

_GRID_HW = (8, 16)
# Root mean square difference in grey levels. Measured: a frame of driving-hills encoded again at crf 34
# is 0.3 to 1.3 away, the next frame of a moving car 1.6 and more, other toytown scenes 4.7 and more.
SAME_RMS = 1.4
_MIN_CONTRAST = 6.0  # standard deviation in grey levels; black and white frames all look alike
_SAMPLES = 24  # frames of a held-out drive that are looked up
_MIN_SHARE = 0.25  # of them found in one drive of the other split


def signatures(frames_THWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, 128) grey levels of frames (T, H, W, 3) shrunk to 8 x 16, less the frame's mean, which codecs shift."""
    grey = resize_area(frames_THWC, (_GRID_HW[0] * 4, _GRID_HW[1] * 4)).mean(axis=-1)
    blocks = grey.reshape(len(grey), _GRID_HW[0], 4, _GRID_HW[1], 4)
    levels = blocks.mean(axis=(2, 4)).reshape(len(grey), -1)
    return (levels - levels.mean(axis=1, keepdims=True)).astype(np.float32)


def rms_distances(a_MK: NDArray[np.float32], b_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M, N) root mean square difference between all pairs of signatures."""
    a, b = a_MK.astype(np.float64), b_NK.astype(np.float64)
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / a.shape[1]))


def shared_clips(drives: list[Drive], signatures_of: Mapping[str, NDArray[np.float32]]) -> list[Problem]:
    """One problem for each pair of drives in different splits that show the same frames.

    Args:
        drives: All drives.
        signatures_of: (T, 128) of each drive by name, at every frame: a copy may start anywhere.
    """
    problems = []
    order = {"train": 0, "val": 1, "test": 2}
    for held_out in drives:
        samples = _samples(signatures_of[held_out.name])
        for other in drives:
            if order[other.split] >= order[held_out.split] or not len(samples) or not len(signatures_of[other.name]):
                continue
            nearest = rms_distances(samples, signatures_of[other.name]).min(axis=1)
            found = int((nearest < SAME_RMS).sum())
            if found >= max(1, _MIN_SHARE * len(samples)):
                detail = f"{found} of {len(samples)} frames looked up are also in {other.split}/{other.name}"
                where = f"{held_out.split}/{held_out.name}"
                problems.append(Problem(where=where, kind=ProblemKind.SAME_CLIP, detail=detail))
    return problems


def _samples(signatures_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evenly spaced signatures with something to see in them."""
    clear = signatures_TK[signatures_TK.std(axis=1) >= _MIN_CONTRAST]
    if not len(clear):
        return clear
    return clear[np.unique(np.linspace(0, len(clear) - 1, _SAMPLES).round().astype(int))]
