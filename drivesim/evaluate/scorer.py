"""One pass over each side of an evaluation: clips become features, features are stored, and are not made again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row
from drivesim.evaluate.clips import indexed_clips
from drivesim.evaluate.controls import ControlsConfig, Variant, varied_clip
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_store import ClipFeatures, FeatureSet, FeatureStore, Recipe, StoredVideo, make_recipe
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig, SetCard
from drivesim.evaluate.videos import Video


class Side(str, Enum):
    """The two sets of an evaluation."""

    GENERATED = "generated"
    REAL = "real"


Key = tuple[int, Variant]  # position of the extractor, and what is done to the clips
Batch = tuple[list[int], list[NDArray[np.uint8]]]  # numbers of the first frames, and the clips


@dataclass(kw_only=True, slots=True)
class Scorer:
    """Fills the store and the sets; memory holds one video's features and the few videos that a report shows."""

    protocol: ProtocolConfig
    controls: ControlsConfig
    extractors: list[Extractor]
    size_hw: tuple[int, int]  # of the clips' frames
    rows: Path  # JSON lines, one a video
    store: FeatureStore
    drives: Mapping[str, str]  # pattern of video names -> drive; videos that none fits are their own drives
    batch_clips: int  # clips that an extractor takes at once
    num_kept: dict[Side, int]  # videos of each side that are kept for the report
    kept: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})
    on_disk: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})
    digests: dict[Side, list[str]] = field(default_factory=lambda: {side: [] for side in Side})
    recipes: dict[Side, dict[Key, Recipe]] = field(default_factory=dict)
    sets: dict[Side, dict[Key, FeatureSet]] = field(default_factory=dict)

    def read(self, side: Side, name: str, videos: Iterable[Video]) -> SetCard:
        """One pass over a side; a video that cannot be scored is a row with its cause.

        Raises:
            ValueError: none can be scored; the message holds the first causes.
        """
        card = SetCard(name=name)
        causes = []
        self._prepare(side)
        for video in videos:
            if self.protocol.max_clips is not None and card.num_clips >= self.protocol.max_clips:
                break
            began = time.monotonic()
            row: dict[str, object] = {"set": side.value, "name": video.name}
            try:
                digest = video.sha256()
                paths = self._paths(side, video, digest)
                made = self._extract(side, video, [key for key, path in paths.items() if not self.store.has(path)])
            except (ValueError, OSError) as error:
                card.num_left_out += 1
                causes.append(str(error))
                row |= {"ok": False, "error": str(error)}
            else:
                row |= {"ok": True, "sha256": digest, "was_stored": not made}
                row |= self._add(side, video, digest, paths, made, card)
            append_row(self.rows, row | {"seconds": round(time.monotonic() - began, 3)})
        if card.num_videos == 0:
            raise ValueError(f"no {side.value} video can be scored: {first_causes(causes)}")
        card.sha256 = hashlib.sha256("".join(self.digests[side]).encode()).hexdigest()
        return card

    def _prepare(self, side: Side) -> None:
        """Recipes and empty sets of all that is wanted of a side."""
        skip = self._skip(side)
        self.recipes[side] = {
            (index, variant): make_recipe(extractor, self.protocol, self.size_hw, skip, variant)
            for index, extractor in enumerate(self.extractors)
            for variant in self._variants(side, extractor)
        }
        self.sets[side] = {}
        for index, variant in self.recipes[side]:
            network = self.extractors[index]
            empty = FeatureSet(kind=network.kind, feature_dim=network.feature_dim, videos=[])
            self.sets[side][index, variant] = empty

    def _skip(self, side: Side) -> int:
        is_counted = side is Side.REAL or self.protocol.count_context
        return 0 if is_counted else self.protocol.context_frames

    def _variants(self, side: Side, extractor: Extractor) -> Iterator[Variant]:
        yield Variant.PLAIN
        if self.controls.shuffled and extractor.kind is FeatureKind.CLIP:  # single frames have no order
            yield Variant.SHUFFLED
        if side is Side.REAL and self.controls.frozen:
            yield Variant.FROZEN
        if side is Side.REAL and self.controls.noisy:
            yield Variant.NOISY

    def _drive(self, side: Side, video: Video) -> str:
        fitting = (drive for pattern, drive in self.drives.items() if fnmatchcase(video.name, pattern))
        return video.drive or next(fitting, f"{side.value} {video.name}")

    def _paths(self, side: Side, video: Video, digest: str) -> dict[Key, Path]:
        """Where a video's features lie or will lie."""
        by_name = self.protocol.clip_choice is ClipChoice.RANDOM
        return {
            key: self.store.path(recipe.digest, digest, video.name if by_name or key[1].is_random else None)
            for key, recipe in self.recipes[side].items()
        }

    def _extract(self, side: Side, video: Video, missing: list[Key]) -> dict[Key, ClipFeatures]:
        """Decodes a video once for all that is missing; of a file that breaks off half-way nothing is left."""
        if not missing:
            return {}
        parts: dict[Key, list[NDArray[np.float32]]] = {key: [] for key in missing}
        starts: list[int] = []
        clips_of_video = indexed_clips(video, self.protocol, self.size_hw, self._skip(side))
        for numbers, clips in _batches(clips_of_video, self.batch_clips):
            for variant in dict.fromkeys(variant for _, variant in missing):
                keyed = enumerate(clips, start=len(starts))
                varied = [varied_clip(clip, variant, self.protocol.seed, video.name, index) for index, clip in keyed]
                clips_BTHWC = np.stack(varied)
                for key in missing:
                    if key[1] is variant:
                        parts[key].append(_features(self.extractors[key[0]], clips_BTHWC))
            starts += numbers
        starts_s = np.array(starts) / (self.protocol.fps or self.protocol.untimed_fps or 1.0)
        return {
            key: ClipFeatures(features_CVD=np.concatenate(features), starts_s=starts_s)
            for key, features in parts.items()
        }

    def _add(
        self,
        side: Side,
        video: Video,
        digest: str,
        paths: dict[Key, Path],
        made: dict[Key, ClipFeatures],
        card: SetCard,
    ) -> dict[str, object]:
        """Stores what is new and counts the video; what a row says of it."""
        drive = self._drive(side, video)
        for key, features in made.items():
            origin = {"name": video.name, "sha256": digest, "drive": drive}
            self.store.save(paths[key], self.recipes[side][key], features, origin)
        num_clips = self.store.num_clips(next(iter(paths.values())))
        if self.protocol.max_clips is not None:
            num_clips = min(num_clips, self.protocol.max_clips - card.num_clips)
        for key, path in paths.items():
            stored = StoredVideo(path=path, name=video.name, sha256=digest, drive=drive, clips=slice(0, num_clips))
            self.sets[side][key].videos.append(stored)
        self.digests[side].append(digest)
        if len(self.kept[side]) < self.num_kept[side]:
            self.kept[side].append(video)
        if video.is_timed:
            self.on_disk[side].append(video)
        card.num_videos += 1
        card.num_clips += num_clips
        return {"num_clips": num_clips, "drive": drive}


def _features(extractor: Extractor, clips_BTHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, V, D) of a batch of clips."""
    features = extractor(clips_BTHWC).numpy()
    vectors = clips_BTHWC.shape[1] if extractor.kind is FeatureKind.FRAME else 1
    expected = (len(clips_BTHWC) * vectors, extractor.feature_dim)
    if features.shape != expected:
        raise ValueError(f"{extractor.name}: features of shape {features.shape}, expected {expected}")
    if not np.isfinite(features).all():
        raise ValueError(f"{extractor.name}: features hold NaN or infinite values; look at the frames and the weights")
    return np.asarray(features.reshape(len(clips_BTHWC), vectors, extractor.feature_dim))


def _batches(clips: Iterator[tuple[int, NDArray[np.uint8]]], size: int) -> Iterator[Batch]:
    numbers: list[int] = []
    batch: list[NDArray[np.uint8]] = []
    for number, clip in clips:
        numbers.append(number)
        batch.append(clip)
        if len(batch) == size:
            yield numbers, batch
            numbers, batch = [], []
    if batch:
        yield numbers, batch


def first_causes(causes: list[str]) -> str:
    """The first three causes and the number of the others, for one message."""
    if not causes:
        return "there are none"
    return "; ".join(causes[:3]) + (f"; and {len(causes) - 3} more" if len(causes) > 3 else "")
