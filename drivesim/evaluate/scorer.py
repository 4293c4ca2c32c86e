"""One pass over each side of an evaluation: clips become features, features are stored, and are not made again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

from drivesim.core.files import append_row
from drivesim.core.wording import number_of
from drivesim.evaluate.clips import ClipCutter
from drivesim.evaluate.controls import ControlsConfig, Variant
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_pass import Cut, Wanted, read_once
from drivesim.evaluate.feature_store import ClipFeatures, FeatureSet, FeatureStore, Recipe, StoredVideo, make_recipe
from drivesim.evaluate.metric_kinds import MetricKind, kinds_of
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig, SetCard
from drivesim.evaluate.rollout_folder import start_of
from drivesim.evaluate.videos import Video


class Side(str, Enum):
    """The two sets of an evaluation."""

    GENERATED = "generated"
    REAL = "real"


Key = tuple[int, Variant]  # position of the extractor, and what is done to the clips


@dataclass(kw_only=True, slots=True)
class Reading:
    """What all protocols of an evaluation have in common."""

    controls: ControlsConfig
    rows: Path  # JSON lines, one a video and protocol
    store: FeatureStore
    drives: Mapping[str, str]  # pattern of video names -> drive; for videos that none fits see `Scorer.drive`
    batch_clips: int  # clips that an extractor takes at once
    num_kept: Mapping[Side, int]  # videos of each side that are kept for the report
    holds_frames: Mapping[Side, bool]  # whether frames in memory stay there: those of a list do, a generator's do not

    def __post_init__(self) -> None:
        """Refuses batches of nothing."""
        if self.batch_clips < 1:
            raise ValueError(f"batch_clips is {self.batch_clips}; it must be at least 1")


@dataclass(kw_only=True, slots=True)
class Scorer:
    """The sets of one protocol; memory holds the names of videos and the few that a report shows."""

    protocol: ProtocolConfig
    extractors: Sequence[Extractor]
    size_hw: tuple[int, int]  # of the clips' frames
    reading: Reading
    cards: dict[Side, SetCard] = field(default_factory=dict)
    causes: dict[Side, list[str]] = field(default_factory=lambda: {side: [] for side in Side})  # of videos left out
    kept: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})
    lasting: dict[Side, list[Video]] = field(default_factory=lambda: {side: [] for side in Side})  # can be read again
    num_untimed: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))  # videos without a rate
    digests: dict[Side, list[str]] = field(default_factory=lambda: {side: [] for side in Side})
    recipes: dict[Side, dict[Key, Recipe]] = field(default_factory=dict)
    sets: dict[Side, dict[Key, FeatureSet]] = field(default_factory=dict)

    def begin(self, side: Side, name: str) -> None:
        """Recipes and empty sets of all that is wanted of a side."""
        skip = self.skip_frames(side)
        self.cards[side] = SetCard(name=name)
        self.recipes[side] = {
            (index, variant): make_recipe(
                extractor, self.protocol, self.size_hw, skip, variant, truncates=self.truncates(side)
            )
            for index, extractor in enumerate(self.extractors)
            for variant in self._variants(side, extractor)
        }
        self.sets[side] = {}
        for index, variant in self.recipes[side]:
            network = self.extractors[index]
            empty = FeatureSet(kind=network.kind, feature_dim=network.feature_dim, videos=[])
            self.sets[side][index, variant] = empty

    def skip_frames(self, side: Side) -> int:
        """Given frames at the front of a side's videos that are not scored."""
        is_counted = side is Side.REAL or self.protocol.count_context
        return 0 if is_counted else self.protocol.context_frames

    def truncates(self, side: Side) -> bool:
        """Whether pixels of a side are lowered."""
        return side is Side.REAL and self.protocol.truncate_real

    def is_full(self, side: Side) -> bool:
        """Whether the protocol wants no more clips of a side."""
        return self.protocol.max_clips is not None and self.cards[side].num_clips >= self.protocol.max_clips

    def wanted(self, side: Side, video: Video, digest: str) -> dict[Key, Wanted]:
        """Everything that is made of a video, whether it is stored already or not."""
        by_name = self.protocol.clip_choice is ClipChoice.RANDOM
        return {
            key: Wanted(
                path=self.reading.store.path(
                    recipe.digest, digest, video.name if by_name or key[1].is_random else None
                ),
                recipe=recipe,
                extractor=self.extractors[key[0]],
                variant=key[1],
                seed=self.protocol.seed,
            )
            for key, recipe in self.recipes[side].items()
        }

    def add(self, side: Side, video: Video, digest: str, wanted: Mapping[Key, Wanted]) -> dict[str, object]:
        """Counts a video whose features are all stored; what a row says of it."""
        card = self.cards[side]
        drive = self.drive(side, video)
        num_clips = self.reading.store.num_clips(next(iter(wanted.values())).path)
        if self.protocol.max_clips is not None:
            num_clips = min(num_clips, self.protocol.max_clips - card.num_clips)
        for key, features in wanted.items():
            stored = StoredVideo(
                path=features.path,
                name=video.name,
                sha256=digest,
                drive=drive,
                clips=slice(0, num_clips),
                prompt=video.prompt,
            )
            self.sets[side][key].videos.append(stored)
        self.digests[side].append(digest)
        if len(self.kept[side]) < self.reading.num_kept[side]:
            self.kept[side].append(video)
        is_untimed = not video.is_timed and video.own_fps() is None
        self.num_untimed[side] += is_untimed
        if video.path is not None or self.reading.holds_frames[side]:
            fps = self.protocol.untimed_fps or self.protocol.fps
            self.lasting[side].append(replace(video, fps=fps) if is_untimed else video)
        card.num_videos += 1
        card.num_clips += num_clips
        return {"num_clips": num_clips, "drive": drive} | ({"prompt": video.prompt} if video.prompt else {})

    def leave_out(self, side: Side, cause: str) -> None:
        """Counts a video that cannot be scored."""
        self.cards[side].num_left_out += 1
        self.causes[side].append(cause)

    def left_out(self) -> str:
        """How many videos of each side were left out and the first causes, to go behind an error; "" = none were."""
        found = [
            f"{card.num_left_out} of {number_of(card.num_videos + card.num_left_out, f'{side.value} video')} left out: "
            f"{first_causes(self.causes[side])}"
            for side, card in self.cards.items()
            if card.num_left_out
        ]
        return "".join(f"; {text}" for text in found) + (f" ({self.reading.rows} has all)" if found else "")

    def end(self, side: Side) -> None:
        """Completes a side's card.

        Raises:
            ValueError: no video can be scored; the message holds the first causes.
        """
        card = self.cards[side]
        if card.num_videos == 0:
            causes = first_causes(self.causes[side])
            raise ValueError(f"protocol {self.protocol.name}: no {side.value} video can be scored: {causes}")
        prompts = [video.prompt for video in next(iter(self.sets[side].values())).videos]
        if any(prompts):
            card.prompts_sha256 = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
        card.sha256 = hashlib.sha256("".join(self.digests[side]).encode()).hexdigest()

    def drive(self, side: Side, video: Video) -> str:
        """What a video was recorded on or started from; each is its own drive unless something says otherwise.

        Futures of one start frame are of one drive: they say nothing of how other starts go on.
        """
        fitting = (drive for pattern, drive in self.reading.drives.items() if fnmatchcase(video.name, pattern))
        return video.drive or next(fitting, None) or start_of(video.path) or f"{side.value} {video.name}"

    def _variants(self, side: Side, extractor: Extractor) -> Iterator[Variant]:
        controls = self.reading.controls
        yield Variant.PLAIN
        if kinds_of(extractor) == (MetricKind.TEXT_SIMILARITY,):  # its control is another prompt
            return
        if controls.shuffled and extractor.kind is FeatureKind.CLIP:  # single frames have no order
            yield Variant.SHUFFLED
        if side is Side.REAL and controls.frozen:
            yield Variant.FROZEN
        if side is Side.REAL and controls.noisy:
            yield Variant.NOISY


def read_side(scorers: Sequence[Scorer], side: Side, name: str, videos: Iterable[Video]) -> None:
    """One pass over a side for all protocols; a video that one of them cannot score is a row with its cause.

    Raises:
        ValueError: a protocol can score none.
    """
    for scorer in scorers:
        scorer.begin(side, name)
    for video in videos:
        open_ones = [scorer for scorer in scorers if not scorer.is_full(side)]
        if not open_ones:
            break
        _read_video(open_ones, side, video)
    for scorer in scorers:
        scorer.end(side)


def _read_video(scorers: Sequence[Scorer], side: Side, video: Video) -> None:
    reading = scorers[0].reading
    began = time.monotonic()
    made: dict[Path, ClipFeatures] = {}
    try:
        digest, codec = video.sha256(), video.codec()
    except (ValueError, OSError) as error:
        outcomes: list[dict[str, object]] = [_left_out(scorer, side, error) for scorer in scorers]
    else:
        wanted = [scorer.wanted(side, video, digest) for scorer in scorers]
        cuts = _missing_cuts(scorers, wanted, side, video)
        if cuts:
            read_once(video, list(cuts.values()))
        for cut in cuts.values():
            made |= _store(cut, reading.store, scorers[0].drive(side, video), digest)
        outcomes = []
        for scorer, own in zip(scorers, wanted, strict=True):
            problem = _problem(own, cuts)
            if problem is not None:
                outcomes.append(_left_out(scorer, side, problem))
                continue
            was_stored = not any(features.path in made for features in own.values())
            row: dict[str, object] = {"ok": True, "sha256": digest, "was_stored": was_stored}
            outcomes.append(row | scorer.add(side, video, digest, own))
            codecs = scorer.cards[side].codecs
            codecs[codec] = codecs.get(codec, 0) + 1
    seconds = round(time.monotonic() - began, 3)
    for scorer, outcome in zip(scorers, outcomes, strict=True):
        head = {"set": side.value, "name": video.name, "protocol": scorer.protocol.name}
        append_row(reading.rows, head | outcome | {"seconds": seconds})


def _left_out(scorer: Scorer, side: Side, error: Exception) -> dict[str, object]:
    scorer.leave_out(side, str(error))
    return {"ok": False, "error": str(error)}


def _cut_key(recipe: Recipe) -> str:
    """Equal for all features that are made of the same clips."""
    return json.dumps([recipe.clips, recipe.pictures], sort_keys=True)


def _missing_cuts(
    scorers: Sequence[Scorer], wanted: Sequence[Mapping[Key, Wanted]], side: Side, video: Video
) -> dict[str, Cut]:
    """What has to be made, each once, however many protocols want it; grouped by the clips that it is made of."""
    cuts: dict[str, Cut] = {}
    seen: set[Path] = set()
    for scorer, own in zip(scorers, wanted, strict=True):
        for features in own.values():
            if features.path in seen or scorer.reading.store.has(features.path):
                continue
            seen.add(features.path)
            key = _cut_key(features.recipe)
            if key not in cuts:
                cutter = ClipCutter(
                    scorer.protocol,
                    scorer.size_hw,
                    video.name,
                    skip_frames=scorer.skip_frames(side),
                    truncates=scorer.truncates(side),
                )
                cuts[key] = Cut(cutter=cutter, batch_clips=scorer.reading.batch_clips)
            cuts[key].wanted.append(features)
    return cuts


def _problem(wanted: Mapping[Key, Wanted], cuts: Mapping[str, Cut]) -> Exception | None:
    """Why a protocol cannot score a video; None = it can."""
    keys = {_cut_key(features.recipe) for features in wanted.values()}
    return next((cuts[key].error for key in keys if key in cuts and cuts[key].error is not None), None)


def _store(cut: Cut, store: FeatureStore, drive: str, digest: str) -> dict[Path, ClipFeatures]:
    made = cut.features()
    recipes = {wanted.path: wanted.recipe for wanted in cut.wanted}
    for path, features in made.items():
        store.save(path, recipes[path], features, {"name": cut.cutter.name, "sha256": digest, "drive": drive})
    return made


def first_causes(causes: list[str]) -> str:
    """The first three causes and the number of the others, for one message."""
    if not causes:
        return "there are none"
    return "; ".join(causes[:3]) + (f"; and {len(causes) - 3} more" if len(causes) > 3 else "")
