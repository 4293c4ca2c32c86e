"""One pass over each side of an evaluation: clips become features, features become sums, controls on the way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row
from drivesim.evaluate.clips import iter_clips
from drivesim.evaluate.controls import ControlsConfig, frozen_clip, shuffled_clip
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.frechet import FrechetStatistics, frechet_distance
from drivesim.evaluate.protocol import ProtocolConfig, SetCard
from drivesim.evaluate.scores import Score, ScoreRow
from drivesim.evaluate.videos import Video


class Side(str, Enum):
    """The two sets of an evaluation."""

    GENERATED = "generated"
    REAL = "real"


class Part(str, Enum):
    """Statistics that the passes fill."""

    GENERATED = "generated"
    REAL_EVEN = "real videos 2, 4, 6, ..."
    REAL_ODD = "real videos 1, 3, 5, ..."
    FIRST_EVEN = "real video 0, clips 0, 2, 4, ..."
    FIRST_ODD = "real video 0, clips 1, 3, 5, ..."
    FROZEN = "frozen"
    SHUFFLED = "shuffled"


Sums = dict[tuple[int, Part], FrechetStatistics]  # by position of the extractor


@dataclass(kw_only=True, slots=True)
class Scorer:
    """Reads both sides once; memory holds sums, and the few videos that a report shows."""

    protocol: ProtocolConfig
    controls: ControlsConfig
    extractors: list[Extractor]
    size_hw: tuple[int, int]  # of the clips' frames
    rows: Path  # JSON lines, one a video
    batch_clips: int  # clips that an extractor takes at once
    num_kept: dict[Side, int]  # videos of each side that are kept for the report
    kept: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})
    on_disk: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})
    digests: dict[Side, list[str]] = field(default_factory=lambda: {side: [] for side in Side})
    sums: Sums = field(default_factory=dict)

    def read(self, side: Side, name: str, videos: Iterable[Video]) -> SetCard:
        """One pass over a side; a video that cannot be scored is a row with its cause.

        Raises:
            ValueError: none can be scored; the message holds the first causes.
        """
        card = SetCard(name=name)
        causes = []
        for video in videos:
            if self.protocol.max_clips is not None and card.num_clips >= self.protocol.max_clips:
                break
            began = time.monotonic()
            row: dict[str, object] = {"set": side.value, "name": video.name}
            try:
                sums, num_clips = self._read_video(side, video, card)
                digest = video.sha256()
            except (ValueError, OSError) as error:
                card.num_left_out += 1
                causes.append(str(error))
                row |= {"ok": False, "error": str(error)}
            else:
                for key, statistics in sums.items():
                    self._sum(key).merge(statistics)
                card.num_videos += 1
                card.num_clips += num_clips
                self._keep(side, video, digest)
                row |= {"ok": True, "num_clips": num_clips, "sha256": digest}
            append_row(self.rows, row | {"seconds": round(time.monotonic() - began, 3)})
        if card.num_videos == 0:
            raise ValueError(f"no {side.value} video can be scored: {first_causes(causes)}")
        card.sha256 = hashlib.sha256("".join(self.digests[side]).encode()).hexdigest()
        return card

    def _keep(self, side: Side, video: Video, digest: str) -> None:
        self.digests[side].append(digest)
        if len(self.kept[side]) < self.num_kept[side]:
            self.kept[side].append(video)
        if video.is_timed:
            self.on_disk[side].append(video)

    def _read_video(self, side: Side, video: Video, card: SetCard) -> tuple[Sums, int]:
        """Sums of one video, apart, so that a file that breaks off half-way leaves no trace."""
        sums: Sums = {}
        num_clips = 0
        generated = side is Side.GENERATED
        skip = self.protocol.context_frames if generated and not self.protocol.count_context else 0
        limit = None if self.protocol.max_clips is None else self.protocol.max_clips - card.num_clips
        for batch in _batches(iter_clips(video, self.protocol, self.size_hw, skip), self.batch_clips, limit):
            parts = (
                [(Part.GENERATED, batch)]
                if generated
                else self._real_parts(batch, video.name, card.num_videos, num_clips)
            )
            for part, clips in parts:
                self._add(sums, part, np.stack(clips))
            num_clips += len(batch)
        return sums, num_clips

    def _add(self, sums: Sums, part: Part, clips_BTHWC: NDArray[np.uint8]) -> None:
        for index, extractor in enumerate(self.extractors):
            if part is Part.SHUFFLED and extractor.kind is FeatureKind.FRAME:
                continue  # single frames have no order
            empty = FrechetStatistics.empty(extractor.feature_dim)
            sums.setdefault((index, part), empty).update(extractor(clips_BTHWC).numpy())

    def _real_parts(
        self, batch: list[NDArray[np.uint8]], name: str, position: int, first_clip: int
    ) -> Iterator[tuple[Part, list[NDArray[np.uint8]]]]:
        """What a batch of real clips counts for: real video itself, in halves, and the controls."""
        numbered = list(enumerate(batch, start=first_clip))
        if position > 0:
            yield (Part.REAL_EVEN, Part.REAL_ODD)[position % 2], batch
        else:
            for parity, part in enumerate((Part.FIRST_EVEN, Part.FIRST_ODD)):
                if chosen := [clip for index, clip in numbered if index % 2 == parity]:
                    yield part, chosen
        if self.controls.frozen:
            yield Part.FROZEN, [frozen_clip(clip) for clip in batch]
        if self.controls.shuffled:
            yield Part.SHUFFLED, [shuffled_clip(clip, self.protocol.seed, name, index) for index, clip in numbered]

    def _sum(self, key: tuple[int, Part]) -> FrechetStatistics:
        return self.sums.setdefault(key, FrechetStatistics.empty(self.extractors[key[0]].feature_dim))

    def _joined(self, index: int, *parts: Part) -> FrechetStatistics:
        total = FrechetStatistics.empty(self.extractors[index].feature_dim)
        for part in parts:
            total.merge(self._sum((index, part)))
        return total

    def scores(self) -> list[Score]:
        """All rows of the table; a control that was not asked for, or has one vector alone, is no row.

        Raises:
            ValueError: fewer than two generated or real vectors.
        """
        result = []
        for index in range(len(self.extractors)):
            for row, (left, right) in self._pairs(index).items():
                if row is ScoreRow.GENERATED or (left.count >= 2 and right.count >= 2):
                    result.append(self._score(index, row, left, right))
        return result

    def _pairs(self, index: int) -> dict[ScoreRow, tuple[FrechetStatistics, FrechetStatistics]]:
        first = (Part.FIRST_EVEN, Part.FIRST_ODD)
        even = self._joined(index, *first, Part.REAL_EVEN)
        odd = self._joined(index, Part.REAL_ODD)
        real = self._joined(index, *first, Part.REAL_EVEN, Part.REAL_ODD)
        if odd.count == 0:  # one real video: halves by clips
            even, odd = (self._joined(index, part) for part in first)
        pairs = {
            ScoreRow.GENERATED: (self._joined(index, Part.GENERATED), real),
            ScoreRow.FROZEN: (self._joined(index, Part.FROZEN), real),
            ScoreRow.SHUFFLED: (self._joined(index, Part.SHUFFLED), real),
        }
        return pairs | ({ScoreRow.FLOOR: (even, odd)} if self.controls.floor else {})

    def _score(self, index: int, row: ScoreRow, left: FrechetStatistics, right: FrechetStatistics) -> Score:
        return Score(
            extractor=self.extractors[index].name,
            metric=self.extractors[index].metric_name,
            row=row,
            value=frechet_distance(left, right, self.protocol.covariance),
            num_left=left.count,
            num_right=right.count,
        )


def _batches(clips: Iterator[NDArray[np.uint8]], size: int, limit: int | None) -> Iterator[list[NDArray[np.uint8]]]:
    batch: list[NDArray[np.uint8]] = []
    for index, clip in enumerate(clips):
        if limit is not None and index >= limit:
            continue  # read on: a file that breaks later is still a broken file
        batch.append(clip)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def first_causes(causes: list[str]) -> str:
    """The first three causes and the number of the others, for one message."""
    if not causes:
        return "there are none"
    return "; ".join(causes[:3]) + (f"; and {len(causes) - 3} more" if len(causes) > 3 else "")
