"""Where in cached drives a clip may begin, and how often each such place is chosen.

Axes: T frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.data.captions import Captions, words_of
from drivesim.data.conditions import Conditions

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class CaptionWeight:
    """How much more often clips come whose captions hold a word."""

    word: str  # in lower case, without punctuation
    weight: float = 1.0  # against clips whose captions hold no such word; of several words the largest counts

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"caption_weights: {self.word!r} has weight={self.weight}, expected a number above 0")
        if words_of(self.word) != [self.word]:
            raise ValueError(f"caption_weights: word={self.word!r}, expected one word in lower case")


class Windows:
    """All places in a cache where a clip of `num_frames` at `fps` fits without a missing frame."""

    def __init__(
        self,
        conditions: Mapping[str, Conditions],
        cache_fps: float,
        num_frames: int,
        fps: float | None,
        caption_weights: Sequence[CaptionWeight] = (),
    ) -> None:
        """Finds the places.

        Args:
            conditions: by drive.
            cache_fps: frames a second of the cache.
            num_frames: of a clip.
            fps: of a clip; None = the cache's.
            caption_weights: how often places come; () = all alike.

        Raises:
            ValueError: a rate that the cache does not hold, no place long enough, or a word that no caption holds.
        """
        self.stride = _stride(cache_fps, cache_fps if fps is None else fps)
        self.num_frames, self.fps = num_frames, cache_fps / self.stride
        self.drives = list(conditions)
        self.starts = [_starts(conditions[drive].valid_T, num_frames, self.stride) for drive in self.drives]
        self.ends = np.cumsum([len(starts) for starts in self.starts])
        if self.ends[-1] == 0:
            raise ValueError(f"no drive holds {num_frames} frames at {self.fps:g} fps without a gap")
        self._up_to = (
            self._weighted(conditions, {w.word: w.weight for w in caption_weights}) if caption_weights else None
        )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def choose(self, rng: np.random.Generator) -> tuple[str, NDArray[np.int64]]:
        """A drive and frame numbers (num_frames,); every place is as likely as its weight says."""
        if self._up_to is None:
            number = int(rng.integers(len(self)))
        else:
            number = int(np.searchsorted(self._up_to, rng.random() * self._up_to[-1], side="right"))
        place = int(np.searchsorted(self.ends, number, side="right"))
        start = self.starts[place][number - self.ends[place]]  # counted from the end: negative
        return self.drives[place], start + self.stride * np.arange(self.num_frames)

    def _weighted(
        self, conditions: Mapping[str, Conditions], caption_weights: Mapping[str, float]
    ) -> NDArray[np.float64]:
        """Sums of the places' weights up to each."""
        weights = []
        heard: set[str] = set()
        for drive, starts in zip(self.drives, self.starts, strict=True):
            if not len(starts):
                continue
            captions = conditions[drive].captions
            if captions is None:
                raise ValueError(f"caption_weights are given, but {drive} has no captions")
            texts = [captions.texts[choice] for choice in np.unique(captions.choices_TP[starts])]
            heard |= set(caption_weights) & {word for text in texts for word in words_of(text)}
            weights.append(caption_weights_of(captions, caption_weights)[starts])
        if unheard := sorted(set(caption_weights) - heard):
            raise ValueError(f"caption_weights: no caption of a clip holds {', '.join(map(repr, unheard))}")
        return np.cumsum(np.concatenate(weights))


def caption_weights_of(captions: Captions, caption_weights: Mapping[str, float]) -> NDArray[np.float64]:
    """(T,) weights of clips: the largest one of a word that any phrasing holds; 1 where none holds any."""
    heard = [[caption_weights[word] for word in words_of(text) if word in caption_weights] for text in captions.texts]
    largest_T = np.array([max(weights, default=0.0) for weights in heard])[captions.choices_TP].max(axis=1)
    return np.where(largest_T > 0, largest_T, 1.0)


def tell_left_out(windows: Sequence[Windows]) -> None:
    """Warns of drives in which no clip fits, at none of the rates: they are too short, or have too many gaps."""
    counts = np.array([[len(starts) for starts in of_rate.starts] for of_rate in windows]).sum(axis=0)
    empty = [drive for drive, count in zip(windows[0].drives, counts, strict=True) if not count]
    if empty:
        rates = " or ".join(f"{of_rate.fps:g}" for of_rate in windows)
        what = f"hold no {windows[0].num_frames} frames at {rates} fps without a gap and are left out"
        _log.warning("%d of %d drives %s, the first: %s", len(empty), len(counts), what, empty[0])


def _stride(cache_fps: float, fps: float) -> int:
    stride = round(cache_fps / fps)
    if stride < 1 or abs(cache_fps / fps - stride) > 1e-6:
        choices = ", ".join(f"{cache_fps / k:g}" for k in (1, 2, 3, 4, 5))
        raise ValueError(f"{fps:g} fps wanted of a cache at {cache_fps:g}; valid are {choices}, ...")
    return stride


def _starts(valid_T: NDArray[np.bool_], num_frames: int, stride: int) -> NDArray[np.int64]:
    last = len(valid_T) - (num_frames - 1) * stride
    starts = np.arange(max(0, last))
    frames = starts[:, None] + stride * np.arange(num_frames)
    return starts[valid_T[frames].all(axis=1)] if len(starts) else starts
