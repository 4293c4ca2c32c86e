"""One evaluation from end to end: two sets of videos in, scores with their card, rows and a report out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.core.files import append_row, read_json, write_json
from drivesim.core.run_folder import ROWS_FILE
from drivesim.evaluate.captions import with_captions
from drivesim.evaluate.controls import Variant
from drivesim.evaluate.copies import real_neighbours
from drivesim.evaluate.diversity import Diversity, measure_diversity, same_starts
from drivesim.evaluate.drift import Drift, measure_drift
from drivesim.evaluate.drift_report import plain
from drivesim.evaluate.extractors import Extractor, ExtractorMaker
from drivesim.evaluate.feature_store import FeatureStore
from drivesim.evaluate.futures import measure_futures
from drivesim.evaluate.metric_rows import Table
from drivesim.evaluate.networks import load_networks, network_configs
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig, make_card
from drivesim.evaluate.published import published_beside, published_folder
from drivesim.evaluate.report import write_report
from drivesim.evaluate.score_rows import RowsOfExtractor
from drivesim.evaluate.scorer import Reading, Scorer, Side, first_causes, read_side
from drivesim.evaluate.scores import Scores, StoredFeatures, StoredSet
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video, as_videos, find_videos

SCORES_FILE = "scores.json"
_UNEVEN = 2  # times as many clips of one video as of another are worth a word

Source = str | Path | Iterable[Any]
DrawDrift = Callable[[Drift, Path], None]


def evaluate(
    config: EvaluateConfig,
    generated: Source,
    real: Source,
    out_dir: str | Path,
    extractors: list[Extractor] | None = None,
    draw_drift: DrawDrift | None = None,
) -> Scores:
    """Scores generated videos against real ones under `config.protocol`; see `evaluate_protocols`.

    Args:
        config: Protocol, controls, intervals, report.
        generated: A folder, a file, or an iterable of `Video`s or arrays (T, H, W, 3).
        real: The same.
        out_dir: Made when needed.
        extractors: Loaded networks in place of `config.protocol.extractors`.
        draw_drift: Writes the curves as a PNG, for the report; None = the report has no picture of them.
    """
    networks = None if extractors is None else [extractors]
    (scores,) = evaluate_protocols(
        config, [config.protocol], generated, real, out_dir, extractors=networks, draw_drift=draw_drift
    )
    return scores


def evaluate_protocols(
    config: EvaluateConfig,
    protocols: Sequence[ProtocolConfig],
    generated: Source,
    real: Source,
    out_dir: str | Path,
    *,
    extractors: Sequence[Sequence[Extractor]] | None = None,
    makers: Mapping[str, ExtractorMaker] | None = None,
    draw_drift: DrawDrift | None = None,
) -> list[Scores]:
    """Scores generated videos against real ones under several protocols; each video is decoded once for all of them.

    Writes `scores.json`, `drift.json`, `rows.jsonl` (a row a video and protocol) and `report.html` into `out_dir`.
    A video that cannot be scored is a row with its cause and is counted; it never ends the run. Features are stored
    as soon as a video is read: after a stop, the same call reads the others alone. What is measured of videos as a
    whole (diversity, drift) is measured once, at the first protocol's rate and size.

    Args:
        config: Controls, intervals, report; its own protocol is not used.
        protocols: At least one; their names tell them apart.
        generated: A folder, a file, or an iterable of `Video`s or arrays (T, H, W, 3).
        real: The same.
        out_dir: Made when needed.
        extractors: Loaded networks of each protocol in place of its own.
        makers: Of networks that evaluation itself does not know, by their names.
        draw_drift: Writes the curves as a PNG, for the report; None = the report has no picture of them.

    Returns:
        The scores of each protocol.

    Raises:
        FileNotFoundError: a folder or a weight file that is not there.
        ValueError: nothing to score on one side, naming the first causes; or two protocols of one name.
    """
    out_dir = Path(out_dir)
    names = [protocol.name for protocol in protocols]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"protocols are {', '.join(names) or 'none'}; give at least one, each once")
    if config.drift.reference is not None:
        find_videos(config.drift.reference)  # a folder that is not there is told before anything is read
    generated_name, generated_videos = _set_of(generated)
    real_name, real_videos = _set_of(real)
    if extractors is None:
        extractors = load_networks(network_configs(protocols, config.networks), makers)
    resolved, generated_videos = resolve(protocols, generated_videos)
    reading = _reading(config, out_dir, {Side.GENERATED: _is_held(generated), Side.REAL: _is_held(real)})
    scorers = [
        Scorer(protocol=protocol, extractors=networks, size_hw=size_hw, reading=reading)
        for (protocol, size_hw), networks in zip(resolved, extractors, strict=True)
    ]
    read_side(scorers, Side.GENERATED, generated_name, generated_videos)
    read_side(scorers, Side.REAL, real_name, real_videos)
    found = [_scores(config, scorer, out_dir) for scorer in scorers]
    _add_courses(found[0], config, scorers[0], draw_drift)
    written = [asdict(replace(scores, drift=None)) | {"report": "report.html"} for scores in found]
    write_json(out_dir / SCORES_FILE, written[0] if len(written) == 1 else {"protocols": written})
    write_report(config.report, found, scorers[0].kept, out_dir / "report.html")
    return found


def _is_held(source: Source) -> bool:
    """Whether all of a source is in memory anyway."""
    return isinstance(source, (Sequence, np.ndarray))


def _reading(config: EvaluateConfig, out_dir: Path, holds_frames: Mapping[Side, bool]) -> Reading:
    """What all protocols have in common, with no rows yet."""
    reading = Reading(
        controls=config.controls,
        rows=out_dir / ROWS_FILE,
        store=FeatureStore(out_dir / "features" if config.features is None else Path(config.features)),
        drives={} if config.drives is None else load_drives(Path(config.drives)),
        batch_clips=config.batch_clips,
        num_kept={Side.GENERATED: config.report.num_generated, Side.REAL: config.report.num_real},
        holds_frames=holds_frames,
    )
    reading.rows.unlink(missing_ok=True)
    return reading


def _set_of(source: Source) -> tuple[str, Iterable[Video]]:
    """A set's name and its videos, with the prompts that lie beside them."""
    name, videos = as_videos(source)
    return name, with_captions(videos, Path(source)) if isinstance(source, (str, Path)) else videos


def load_drives(path: Path) -> dict[str, str]:
    """Patterns of video names (`fnmatch`'s) and the drives of the videos that they fit; the first that fits counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything but names for patterns.
    """
    drives = read_json(path)
    if not isinstance(drives, dict) or not all(isinstance(drive, str) for drive in drives.values()):
        raise ValueError(f'{path}: expected an object of names, as in {{"start_a/*": "drive 1"}}')
    return drives


def _scores(config: EvaluateConfig, scorer: Scorer, out_dir: Path) -> Scores:
    """Everything that follows from the stored features."""
    card = make_card(
        scorer.protocol, list(scorer.extractors), scorer.size_hw, scorer.cards[Side.GENERATED], scorer.cards[Side.REAL]
    )
    tables = [
        Table(
            index=index,
            extractor=network,
            sets=scorer.sets,
            store=scorer.reading.store.folder,
            floor=config.controls.floor,
            config=config.uncertainty,
            covariance=scorer.protocol.covariance,
            root_eps=scorer.protocol.root_eps,
        )
        for index, network in enumerate(scorer.extractors)
    ]
    try:
        found = [table.rows() for table in tables]
    except ValueError as error:  # often for want of the videos that were left out
        raise ValueError(f"{error}{scorer.left_out()}") from error
    published, not_shown = published_beside(card, published_folder())
    neighbours, no_neighbours = real_neighbours(scorer.sets, scorer.extractors)
    return Scores(
        card=card,
        card_sha256=card.comparable_sha256(),
        scores=[score for rows in found for score in rows.scores],
        content_bias=[rows.content_bias for rows in found if rows.content_bias is not None],
        published=published,
        diversity=[],
        warnings=_warnings(scorer, found) + not_shown + no_neighbours,
        features=_stored(scorer, out_dir),
        report=out_dir / "report.html",
        neighbours=neighbours,
    )


def _stored(scorer: Scorer, out_dir: Path) -> StoredFeatures:
    folder = scorer.reading.store.folder.resolve()
    is_inside = folder.is_relative_to(out_dir.resolve())
    by_name = scorer.protocol.clip_choice is ClipChoice.RANDOM
    sets = [
        StoredSet(
            set=side.value,
            extractor=scorer.extractors[index].name,
            variant=variant.value,
            recipe=recipe.digest,
            by_name=by_name or variant.is_random,
        )
        for side, recipes in scorer.recipes.items()
        for (index, variant), recipe in recipes.items()
    ]
    return StoredFeatures(
        folder=folder.relative_to(out_dir.resolve()).as_posix() if is_inside else str(folder), sets=sets
    )


def resolve(
    protocols: Sequence[ProtocolConfig], generated: Iterable[Video]
) -> tuple[list[tuple[ProtocolConfig, tuple[int, int]]], Iterator[Video]]:
    """Takes size and rate from the first readable generated video where protocols leave them open.

    Returns:
        Each protocol with its rate, and the size of its frames; and all the videos again.

    Raises:
        ValueError: no generated video can be read.
    """
    seen, causes = [], []
    videos = iter(generated)
    for video in videos:
        seen.append(video)
        try:
            frame = next(iter(video.timed_frames(None)))[1]
            own_fps = video.own_fps()
        except StopIteration:
            causes.append(f"{video.name}: no frame in it")
        except (ValueError, OSError) as error:
            causes.append(str(error))
        else:
            own_hw = (frame.shape[0], frame.shape[1])
            resolved = [
                (replace(config, fps=config.fps or own_fps or config.untimed_fps), config.size_hw or own_hw)
                for config in protocols
            ]
            return resolved, chain(seen, videos)
    raise ValueError("no generated video can be read: " + first_causes(causes))


def _diversity(videos: list[Video], protocol: ProtocolConfig, rows: Path) -> list[Diversity]:
    """The spread of every group of futures; a group that cannot be measured is a row."""
    found = []
    for name, futures in same_starts(videos).items():
        try:
            found.append(measure_diversity(name, futures, protocol.fps or 4.0))
        except (ValueError, OSError) as error:
            append_row(rows, {"set": "diversity", "name": name, "ok": False, "error": str(error)})
    return found


def _add_courses(scores: Scores, config: EvaluateConfig, scorer: Scorer, draw_drift: DrawDrift | None) -> None:
    """Adds what futures do and how videos drift, and writes drift's curves with their picture."""
    generated, rows = scorer.lasting[Side.GENERATED], scorer.reading.rows
    if not generated and (config.diversity or config.drift.enabled):
        scores.warnings.append(
            "generated frames came from a generator and were read once: no drift, no diversity; give files or a list"
        )
    if config.diversity:
        scores.diversity = _diversity(generated, scorer.protocol, rows)
        scores.futures = measure_futures(
            same_starts(generated), scorer.extractors, scorer.protocol, scorer.size_hw, rows
        )
    drift = scores.drift = measure_drift(
        config.drift,
        generated,
        scorer.lasting[Side.REAL],
        protocol=scorer.protocol,
        size_hw=scorer.size_hw,
        extractors=scorer.extractors,
        rows=rows,
    )
    drift_json = rows.parent / "drift.json"
    drift_json.unlink(missing_ok=True)  # of an evaluation before
    if drift is None:
        if generated and config.drift.enabled:
            scores.warnings.append(f"no generated video's drift could be measured; {rows.name} says why")
        return
    if draw_drift is not None:
        drift.figure = rows.parent / "drift.png"
        draw_drift(drift, drift.figure)
    write_json(drift_json, plain(drift))


def _size_warnings(scorer: Scorer) -> list[str]:
    """Sizes of videos that are not those of most generated ones: filters and crops of two sizes leave their traces."""
    sizes = {
        side: Counter(
            size for video in scorer.sets[side][0, Variant.PLAIN].videos if (size := video.source_hw()) is not None
        )
        for side in Side
    }
    if len(sizes[Side.GENERATED] | sizes[Side.REAL]) < 2:
        return []
    shown = "; ".join(
        f"{side.value} "
        + ", ".join(f"{height} x {width} ({num})" for (height, width), num in sizes[side].most_common(3))
        for side in Side
    )
    height, width = scorer.size_hw
    wanted_hw = sizes[Side.GENERATED].most_common(1) or [(scorer.size_hw, 0)]
    own = "[{},{}]".format(*wanted_hw[0][0])
    return [
        f"videos of different sizes (height x width): {shown}; all are brought to {height} x {width} as the protocol "
        f"says, which alone can move a score: export both sides at one size (drivesim prepare: export.size_hw={own})"
    ]


def _length_warnings(scorer: Scorer) -> list[str]:
    """Videos of which some have twice as many clips as others: the long ones weigh more."""
    counts: dict[Side, list[int]] = {}
    for side in Side:
        videos = scorer.sets[side][0, Variant.PLAIN].videos
        whole = videos[:-1] if scorer.is_full(side) else videos  # the last one was cut short
        counts[side] = [video.clips.stop for video in whole if video.clips.stop]
    both = [*counts[Side.GENERATED], *counts[Side.REAL]]
    if not both or max(both) < _UNEVEN * min(both):
        return []
    shown = ", ".join(f"{side.value} ones {min(own)} to {max(own)}" for side, own in counts.items() if own)
    return [
        f"videos of different lengths: clips of each are {shown}; longer videos count more, and what changes over "
        "their time moves the score: cut both sides to one length"
    ]


def _warnings(scorer: Scorer, found: list[RowsOfExtractor]) -> list[str]:
    """What a reader of the scores has to know."""
    warnings = []
    if same := len(set(scorer.digests[Side.GENERATED]) & set(scorer.digests[Side.REAL])):
        warnings.append(f"real videos among the generated ones, byte for byte: {same}; the same folder given twice?")
    for side in Side:
        if copies := len(scorer.digests[side]) - len(set(scorer.digests[side])):
            warnings.append(f"copies of other {side.value} videos, byte for byte: {copies}; each counts twice")
    warnings += _size_warnings(scorer) + _length_warnings(scorer)
    codecs = [scorer.cards[side].codecs for side in Side]
    if set(codecs[0]) != set(codecs[1]):
        made, real = (" and ".join(f"{name} ({num})" for name, num in side.items()) for side in codecs)
        warnings.append(
            f"generated videos are {made}, real ones {real}: a codec leaves its traces, which alone can move a score; "
            "write both sides the same way"
        )
    rate = scorer.protocol.fps if scorer.protocol.untimed_fps is None else None
    for side, num in scorer.num_untimed.items():
        if num and rate is not None:
            warnings.append(
                f"{side.value} videos without a rate: {num}, taken to have the protocol's, {rate:g} frames a "
                "second: set protocol.untimed_fps to theirs"
            )
    if scorer.protocol.fps is None:
        warnings.append("the generated frames carry no rate, so every frame of both sides was taken: set protocol.fps")
    for card in scorer.cards.values():
        if card.num_left_out:
            warnings.append(f"videos of {card.name} left out: {card.num_left_out}; rows.jsonl says why")
    names = [video.name for side in Side for video in scorer.sets[side][0, Variant.PLAIN].videos]
    for pattern in scorer.reading.drives:
        if not any(fnmatchcase(name, pattern) for name in names):
            warnings.append(f"no video fits the pattern {pattern!r} of drives")
    return warnings + [warning for rows in found for warning in rows.warnings]
