"""One evaluation from end to end: two sets of videos in, scores with their card, rows and a report out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row, write_json
from drivesim.core.video import probe
from drivesim.evaluate.clips import iter_clips
from drivesim.evaluate.controls import ControlsConfig, frozen_clip, shuffled_clip
from drivesim.evaluate.diversity import Diversity, measure_diversity, same_starts
from drivesim.evaluate.extractors import Extractor, FeatureKind, make_extractor
from drivesim.evaluate.frechet import FrechetStatistics, frechet_distance
from drivesim.evaluate.protocol import ProtocolCard, ProtocolConfig, SetCard, make_card
from drivesim.evaluate.report import ReportConfig, write_report
from drivesim.evaluate.scores import Score, ScoreRow, Scores
from drivesim.evaluate.videos import Video, as_videos

Source = str | Path | Iterable[Any]


class _Part(str, Enum):
    """Statistics that one pass over a set fills."""

    GENERATED = "generated"
    REAL_EVEN = "real, even"  # videos 0, 2, 4, ...
    REAL_ODD = "real, odd"
    FIRST_EVEN = "first real video, clips 0, 2, 4, ..."
    FIRST_ODD = "first real video, clips 1, 3, 5, ..."
    FROZEN = "frozen"
    SHUFFLED = "shuffled"


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """What is scored, beside what, and what is written."""

    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    diversity: bool = True  # also measure how far futures of one start frame part
    batch_clips: int = 8  # clips that an extractor takes at once; does not change the scores


def evaluate(
    config: EvaluateConfig,
    generated: Source,
    real: Source,
    out_dir: str | Path,
    extractors: list[Extractor] | None = None,
) -> Scores:
    """Scores generated videos against real ones.

    Writes `scores.json`, `rows.jsonl` (a row a video) and `report.html` into `out_dir`. A video that
    cannot be scored is a row with its cause and is counted; it never ends the run.

    Args:
        config: Protocol, controls, report.
        generated: A folder, a file, or an iterable of `Video`s or arrays (T, H, W, 3).
        real: The same.
        out_dir: Made when needed.
        extractors: Loaded networks in place of `config.protocol.extractors`.

    Raises:
        ValueError: nothing to score on one side, naming the first causes.
    """
    out_dir = Path(out_dir)
    networks = extractors or [make_extractor(network) for network in config.protocol.extractors]
    generated_name, generated_videos = as_videos(generated)
    real_name, real_videos = as_videos(real)
    generated_videos = list(generated_videos)
    protocol, size_hw = resolve(config.protocol, generated_videos)
    rows = out_dir / "rows.jsonl"
    rows.unlink(missing_ok=True)
    scorer = _Scorer(replace(config, protocol=protocol), networks, size_hw, rows)
    generated_card = scorer.read_generated(generated_name, generated_videos)
    shown_real: list[Video] = []
    real_card = scorer.read_real(real_name, real_videos, shown_real, config.report.num_real)
    card = make_card(protocol, networks, size_hw, generated_card, real_card)
    diversity = _diversity(generated_videos, protocol, rows) if config.diversity else []
    scores = Scores(
        card=card,
        card_sha256=card.comparable_sha256(),
        scores=scorer.scores(),
        diversity=diversity,
        warnings=_warnings(card, scorer.digests),
    )
    write_json(out_dir / "scores.json", asdict(scores))
    scores.report = write_report(config.report, scores, generated_videos, shown_real, out_dir / "report.html")
    return scores


def resolve(config: ProtocolConfig, generated: list[Video]) -> tuple[ProtocolConfig, tuple[int, int]]:
    """The protocol with size and rate taken from the first readable generated video where it leaves them open.

    Raises:
        ValueError: no generated video can be read.
    """
    causes = []
    for video in generated:
        try:
            frame = next(iter(video.timed_frames(config.untimed_fps)))[1]
            fps = config.fps or _own_fps(video) or config.untimed_fps
        except StopIteration:
            causes.append(f"{video.name}: no frame in it")
        except (ValueError, OSError) as error:
            causes.append(str(error))
        else:
            return replace(config, fps=fps), config.size_hw or (frame.shape[0], frame.shape[1])
    raise ValueError("no generated video can be read: " + _first(causes))


def _own_fps(video: Video) -> float | None:
    if video.is_timed:
        assert video.path is not None
        return round(probe(video.path).fps, 3)
    return video.fps


class _Scorer:
    """Reads both sides once and keeps sums alone."""

    def __init__(
        self, config: EvaluateConfig, extractors: list[Extractor], size_hw: tuple[int, int], rows: Path
    ) -> None:
        self.config = config
        self.extractors = extractors
        self.size_hw = size_hw
        self.rows = rows
        self.sums: dict[tuple[int, _Part], FrechetStatistics] = {}
        self.digests: dict[str, list[str]] = {"generated": [], "real": []}

    def read_generated(self, name: str, videos: Iterable[Video]) -> SetCard:
        """One pass over the generated side."""
        protocol = self.config.protocol
        skip = 0 if protocol.count_context else protocol.context_frames
        return self._read(SetCard(name=name), "generated", videos, skip)

    def read_real(self, name: str, videos: Iterable[Video], shown: list[Video], num_shown: int) -> SetCard:
        """One pass over the real side; the first good videos go to `shown`."""
        return self._read(SetCard(name=name), "real", videos, 0, shown, num_shown)

    def _read(
        self,
        card: SetCard,
        side: str,
        videos: Iterable[Video],
        skip: int,
        shown: list[Video] | None = None,
        num_shown: int = 0,
    ) -> SetCard:
        causes = []
        limit = self.config.protocol.max_clips
        for video in videos:
            if limit is not None and card.num_clips >= limit:
                break
            began = time.monotonic()
            row: dict[str, Any] = {"set": side, "name": video.name}
            try:
                left = None if limit is None else limit - card.num_clips
                sums, num_clips = self._read_video(video, side, card.num_videos, skip, left)
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
                self.digests[side].append(digest)
                row |= {"ok": True, "num_clips": num_clips, "sha256": digest}
                if shown is not None and len(shown) < num_shown:
                    shown.append(video)
            append_row(self.rows, row | {"seconds": round(time.monotonic() - began, 3)})
        if card.num_videos == 0:
            raise ValueError(f"no {side} video can be scored: {_first(causes) or 'there are none'}")
        card.sha256 = hashlib.sha256("".join(self.digests[side]).encode()).hexdigest()
        return card

    def _read_video(
        self, video: Video, side: str, position: int, skip: int, limit: int | None
    ) -> tuple[dict[tuple[int, _Part], FrechetStatistics], int]:
        """Sums of one video, apart, so that a file that breaks off half-way leaves no trace."""
        sums: dict[tuple[int, _Part], FrechetStatistics] = {}
        num_clips = 0
        clips = iter_clips(video, self.config.protocol, self.size_hw, skip)
        for batch in _batches(clips, self.config.batch_clips, limit):
            for part, chosen in self._parts(batch, side, (video.name, position), num_clips):
                for index, extractor in enumerate(self.extractors):
                    if part is _Part.SHUFFLED and extractor.kind is FeatureKind.FRAME:
                        continue  # single frames have no order
                    features = extractor(chosen).numpy()
                    empty = FrechetStatistics.empty(extractor.feature_dim)
                    sums.setdefault((index, part), empty).update(features)
            num_clips += len(batch)
        return sums, num_clips

    def _parts(
        self, batch: list[NDArray[np.uint8]], side: str, video: tuple[str, int], first: int
    ) -> Iterator[tuple[_Part, NDArray[np.uint8]]]:
        """The statistics that a batch of clips takes part in, with the clips for each."""
        name, position = video
        if side == "generated":
            yield _Part.GENERATED, np.stack(batch)
            return
        for parity in (0, 1):
            chosen = [clip for index, clip in enumerate(batch, start=first) if index % 2 == parity]
            if chosen and position == 0:
                yield (_Part.FIRST_EVEN, _Part.FIRST_ODD)[parity], np.stack(chosen)
        if position > 0:
            yield (_Part.REAL_EVEN, _Part.REAL_ODD)[position % 2], np.stack(batch)
        if self.config.controls.frozen:
            yield _Part.FROZEN, np.stack([frozen_clip(clip) for clip in batch])
        if self.config.controls.shuffled:
            seed = self.config.protocol.seed
            shuffled = [shuffled_clip(clip, seed, name, index) for index, clip in enumerate(batch, start=first)]
            yield _Part.SHUFFLED, np.stack(shuffled)

    def _sum(self, key: tuple[int, _Part]) -> FrechetStatistics:
        return self.sums.setdefault(key, FrechetStatistics.empty(self.extractors[key[0]].feature_dim))

    def _joined(self, index: int, *parts: _Part) -> FrechetStatistics:
        total = FrechetStatistics.empty(self.extractors[index].feature_dim)
        for part in parts:
            total.merge(self._sum((index, part)))
        return total

    def scores(self) -> list[Score]:
        """All rows of the table."""
        result = []
        for index in range(len(self.extractors)):
            first = (_Part.FIRST_EVEN, _Part.FIRST_ODD)
            real = self._joined(index, *first, _Part.REAL_EVEN, _Part.REAL_ODD)
            pairs = [
                (ScoreRow.GENERATED, self._joined(index, _Part.GENERATED), real),
                (ScoreRow.FROZEN, self._joined(index, _Part.FROZEN), real),
                (ScoreRow.SHUFFLED, self._joined(index, _Part.SHUFFLED), real),
            ]
            if self.config.controls.floor:
                even = self._joined(index, *first, _Part.REAL_EVEN)
                odd = self._joined(index, _Part.REAL_ODD)
                if odd.count == 0:  # one real video: halves by clips
                    even, odd = (self._joined(index, part) for part in first)
                pairs.append((ScoreRow.FLOOR, even, odd))
            result += [score for row, a, b in pairs if (score := self._score(index, row, a, b))]
        return result

    def _score(self, index: int, row: ScoreRow, a: FrechetStatistics, b: FrechetStatistics) -> Score | None:
        """One row; None for a control that was not asked for, or has too little to say anything."""
        if row is not ScoreRow.GENERATED and (a.count < 2 or b.count < 2):
            return None
        extractor = self.extractors[index]
        return Score(
            extractor=extractor.name,
            metric=extractor.metric_name,
            row=row,
            value=frechet_distance(a, b, self.config.protocol.covariance),
            num_left=a.count,
            num_right=b.count,
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


def _diversity(videos: list[Video], protocol: ProtocolConfig, rows: Path) -> list[Diversity]:
    """The spread of every group of futures; a group that cannot be measured is a row."""
    found = []
    readable = [video for video in videos if video.is_timed and _readable(video)]
    for name, futures in same_starts(readable).items():
        try:
            found.append(measure_diversity(name, futures, protocol.fps or 4.0))
        except (ValueError, OSError) as error:
            append_row(rows, {"set": "diversity", "name": name, "ok": False, "error": str(error)})
    return found


def _readable(video: Video) -> bool:
    try:
        return next(iter(video.timed_frames(None)), None) is not None
    except (ValueError, OSError):  # it has its row already
        return False


def _warnings(card: ProtocolCard, digests: dict[str, list[str]]) -> list[str]:
    """What a reader of the scores has to know."""
    warnings = []
    same = len(set(digests["generated"]) & set(digests["real"]))
    if same:
        warnings.append(f"{same} generated videos are real videos, byte for byte: the same folder given twice?")
    for side in (card.generated, card.real):
        if side.num_left_out:
            warnings.append(f"{side.num_left_out} videos of {side.name} were left out; rows.jsonl says why")
    fewest = min(card.generated.num_clips, card.real.num_clips)
    for network in card.extractors:
        if network["kind"] == FeatureKind.CLIP.value and fewest <= network["feature_dim"]:
            warnings.append(
                f"{fewest} clips for {network['feature_dim']} features of {network['name']}: the distance is biased "
                "upwards; compare it with scores of equal counts alone"
            )
    return warnings


def _first(causes: list[str]) -> str:
    return "; ".join(causes[:3]) + (f"; and {len(causes) - 3} more" if len(causes) > 3 else "")
