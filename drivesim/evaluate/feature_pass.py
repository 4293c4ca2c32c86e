"""One decode of a video: the clips of several protocols, and the features of all networks that want them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.clips import Clip, ClipCutter
from drivesim.evaluate.controls import Variant, varied_clip
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_store import ClipFeatures, Recipe
from drivesim.evaluate.videos import Video


@dataclass(kw_only=True, slots=True)
class Wanted:
    """Features that a store lacks."""

    path: Path  # where they will lie
    recipe: Recipe
    extractor: Extractor
    variant: Variant
    seed: int  # of what is random in the variant


@dataclass(kw_only=True, slots=True)
class Cut:
    """One way of cutting a video into clips, with all features that are made of these."""

    cutter: ClipCutter
    batch_clips: int  # clips that an extractor takes at once
    wanted: list[Wanted] = field(default_factory=list)
    error: Exception | None = None  # why there are no features
    _pending: list[NDArray[np.uint8]] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)  # first frames of all clips whose features are made
    _parts: dict[Path, list[NDArray[np.float32]]] = field(default_factory=dict)
    _pending_starts: list[int] = field(default_factory=list)

    def take(self, clips: Iterable[Clip], is_last: bool = False) -> None:
        """Adds clips; an error of this cut ends it and no other."""
        if self.error is not None:
            return
        try:
            for start, clip in clips:
                self._pending_starts.append(start)
                self._pending.append(clip)
                if len(self._pending) == self.batch_clips:
                    self._flush()
            if is_last and self._pending:
                self._flush()
        except (ValueError, OSError) as error:
            self.error = error
            self._pending.clear()

    def features(self) -> dict[Path, ClipFeatures]:
        """All features of the video; of one that broke off half-way there are none."""
        if self.error is not None:
            return {}
        config = self.cutter.config
        starts_s = np.array(self._starts) / (config.fps or config.untimed_fps or 1.0)
        return {
            path: ClipFeatures(features_CVD=np.concatenate(parts), starts_s=starts_s, source_hw=self.cutter.source_hw)
            for path, parts in self._parts.items()
        }

    def _flush(self) -> None:
        name = self.cutter.name
        for key in dict.fromkeys((wanted.variant, wanted.seed) for wanted in self.wanted):
            keyed = enumerate(self._pending, start=len(self._starts))
            clips_BTHWC = np.stack([varied_clip(clip, *key, name, index) for index, clip in keyed])
            for wanted in self.wanted:
                if (wanted.variant, wanted.seed) == key:
                    made = features_of(wanted.extractor, clips_BTHWC)
                    self._parts.setdefault(wanted.path, []).append(made)
        self._starts += self._pending_starts
        self._pending_starts.clear()
        self._pending.clear()


def read_once(video: Video, cuts: Sequence[Cut]) -> None:
    """Decodes a video once for all cuts, frame by frame; whatever goes wrong stands in their `error`."""
    try:
        pictures, has_times = video.stream()
        paces = [1.0 if has_times else cut.cutter.config.untimed_fps or cut.cutter.config.fps or 1.0 for cut in cuts]
        for time_s, picture in pictures:
            for cut, pace in zip(cuts, paces, strict=True):
                cut.take(cut.cutter.push(time_s / pace, picture))
            if all(cut.error is not None for cut in cuts):
                return
    except (ValueError, OSError) as error:
        for cut in cuts:
            cut.error = cut.error or error
    for cut in cuts:
        cut.take(cut.cutter.finish(), is_last=True)


def features_of(extractor: Extractor, clips_BTHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, V, D) of a batch of clips.

    Raises:
        ValueError: features of another shape than the extractor says, or values that are not finite.
    """
    features = extractor(clips_BTHWC).numpy()
    vectors = clips_BTHWC.shape[1] if extractor.kind is FeatureKind.FRAME else 1
    expected = (len(clips_BTHWC) * vectors, extractor.feature_dim)
    if features.shape != expected:
        raise ValueError(f"{extractor.name}: features of shape {features.shape}, expected {expected}")
    if not np.isfinite(features).all():
        raise ValueError(f"{extractor.name}: features hold NaN or infinite values; look at the frames and the weights")
    return np.asarray(features.reshape(len(clips_BTHWC), vectors, extractor.feature_dim))
