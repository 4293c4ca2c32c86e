"""One evaluation from end to end: two sets of videos in, scores with their card, rows and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from drivesim.core.files import append_row, read_json, write_json
from drivesim.core.video import probe
from drivesim.evaluate.controls import ControlsConfig, Variant
from drivesim.evaluate.copies import real_neighbours
from drivesim.evaluate.diversity import Diversity, measure_diversity, same_starts
from drivesim.evaluate.drift import Drift, DriftConfig, measure_drift
from drivesim.evaluate.drift_report import plain
from drivesim.evaluate.extractors import Extractor, make_extractor
from drivesim.evaluate.feature_store import FeatureStore
from drivesim.evaluate.futures import measure_futures
from drivesim.evaluate.protocol import ClipChoice, ProtocolCard, ProtocolConfig, make_card
from drivesim.evaluate.published import published_beside, published_folder
from drivesim.evaluate.report import ReportConfig, write_report
from drivesim.evaluate.score_rows import RowsOfExtractor, rows_of
from drivesim.evaluate.scorer import Scorer, Side, first_causes
from drivesim.evaluate.scores import Scores, StoredFeatures, StoredSet
from drivesim.evaluate.uncertainty import UncertaintyConfig
from drivesim.evaluate.videos import Video, as_videos

SCORES_FILE = "scores.json"
ROWS_FILE = "rows.jsonl"

Source = str | Path | Iterable[Any]


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """What is scored, beside what, and what is written."""

    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    features: str | None = None  # folder of stored features, which evaluations may share; None = `features` in `out`
    drives: str | None = None  # JSON file: pattern of video names -> drive; None = each video is a drive of its own
    diversity: bool = True  # also measure how far futures of one start frame part
    drift: DriftConfig = field(default_factory=DriftConfig)
    batch_clips: int = 8  # clips that an extractor takes at once; does not change the scores


def evaluate(
    config: EvaluateConfig,
    generated: Source,
    real: Source,
    out_dir: str | Path,
    extractors: list[Extractor] | None = None,
    draw_drift: Callable[[Drift, Path], None] | None = None,
) -> Scores:
    """Scores generated videos against real ones.

    Writes `scores.json`, `drift.json`, `rows.jsonl` (a row a video) and `report.html` into `out_dir`. A
    video that cannot be scored is a row with its cause and is counted; it never ends the run. Features
    are stored as soon as a video is read: after a stop, the same call reads the others alone.

    Args:
        config: Protocol, controls, intervals, report.
        generated: A folder, a file, or an iterable of `Video`s or arrays (T, H, W, 3).
        real: The same.
        out_dir: Made when needed.
        extractors: Loaded networks in place of `config.protocol.extractors`.
        draw_drift: Writes the curves as a PNG, for the report; None = the report has no picture of them.

    Raises:
        FileNotFoundError: a folder or a weight file that is not there.
        ValueError: nothing to score on one side, naming the first causes.
    """
    out_dir = Path(out_dir)
    generated_name, generated_videos = as_videos(generated)
    real_name, real_videos = as_videos(real)
    networks = extractors or [make_extractor(network) for network in config.protocol.extractors]
    protocol, size_hw, generated_videos = resolve(config.protocol, generated_videos)
    rows = out_dir / ROWS_FILE
    rows.unlink(missing_ok=True)
    scorer = Scorer(
        protocol=protocol,
        controls=config.controls,
        extractors=networks,
        size_hw=size_hw,
        rows=rows,
        store=FeatureStore(out_dir / "features" if config.features is None else Path(config.features)),
        drives={} if config.drives is None else load_drives(Path(config.drives)),
        batch_clips=config.batch_clips,
        num_kept={Side.GENERATED: config.report.num_generated, Side.REAL: config.report.num_real},
    )
    generated_card = scorer.read(Side.GENERATED, generated_name, generated_videos)
    real_card = scorer.read(Side.REAL, real_name, real_videos)
    card = make_card(protocol, networks, size_hw, generated_card, real_card)
    scores = _scores(config, scorer, card, out_dir)
    _add_courses(scores, config, scorer, draw_drift)
    write_json(out_dir / SCORES_FILE, asdict(replace(scores, drift=None)) | {"report": "report.html"})
    write_report(config.report, scores, scorer.kept, out_dir / "report.html")
    return scores


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


def _scores(config: EvaluateConfig, scorer: Scorer, card: ProtocolCard, out_dir: Path) -> Scores:
    """Everything that follows from the stored features."""
    found = [
        rows_of(index, network, scorer.sets, config.controls.floor, config.uncertainty, scorer.protocol.covariance)
        for index, network in enumerate(scorer.extractors)
    ]
    published, not_shown = published_beside(card, published_folder())
    neighbours, no_neighbours = real_neighbours(scorer.sets, scorer.extractors)
    diversity = _diversity(scorer.on_disk[Side.GENERATED], scorer.protocol, scorer.rows) if config.diversity else []
    return Scores(
        card=card,
        card_sha256=card.comparable_sha256(),
        scores=[score for rows in found for score in rows.scores],
        content_bias=[rows.content_bias for rows in found if rows.content_bias is not None],
        published=published,
        diversity=diversity,
        warnings=_warnings(card, scorer, found) + not_shown + no_neighbours,
        features=_stored(scorer, out_dir),
        report=out_dir / "report.html",
        neighbours=neighbours,
    )


def _stored(scorer: Scorer, out_dir: Path) -> StoredFeatures:
    folder = scorer.store.folder.resolve()
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
    config: ProtocolConfig, generated: Iterable[Video]
) -> tuple[ProtocolConfig, tuple[int, int], Iterator[Video]]:
    """Takes size and rate from the first readable generated video where the protocol leaves them open.

    Returns:
        The protocol with its rate, the frames' size, and all the videos again.

    Raises:
        ValueError: no generated video can be read.
    """
    seen, causes = [], []
    videos = iter(generated)
    for video in videos:
        seen.append(video)
        try:
            frame = next(iter(video.timed_frames(config.untimed_fps)))[1]
            fps = config.fps or _own_fps(video) or config.untimed_fps
        except StopIteration:
            causes.append(f"{video.name}: no frame in it")
        except (ValueError, OSError) as error:
            causes.append(str(error))
        else:
            size_hw = config.size_hw or (frame.shape[0], frame.shape[1])
            return replace(config, fps=fps), (size_hw[0], size_hw[1]), chain(seen, videos)
    raise ValueError("no generated video can be read: " + first_causes(causes))


def _own_fps(video: Video) -> float | None:
    if not video.is_timed:
        return video.fps
    assert video.path is not None
    return round(probe(video.path).fps, 3)


def _diversity(videos: list[Video], protocol: ProtocolConfig, rows: Path) -> list[Diversity]:
    """The spread of every group of futures; a group that cannot be measured is a row."""
    found = []
    for name, futures in same_starts(videos).items():
        try:
            found.append(measure_diversity(name, futures, protocol.fps or 4.0))
        except (ValueError, OSError) as error:
            append_row(rows, {"set": "diversity", "name": name, "ok": False, "error": str(error)})
    return found


def _add_courses(
    scores: Scores, config: EvaluateConfig, scorer: Scorer, draw_drift: Callable[[Drift, Path], None] | None
) -> None:
    """Adds what futures do and how videos drift, and writes drift's curves with their picture."""
    generated = scorer.on_disk[Side.GENERATED]
    if config.diversity:
        scores.futures = measure_futures(
            same_starts(generated), scorer.extractors, scorer.protocol, scorer.size_hw, scorer.rows
        )
    drift = scores.drift = measure_drift(
        config.drift,
        generated,
        scorer.on_disk[Side.REAL],
        protocol=scorer.protocol,
        size_hw=scorer.size_hw,
        extractors=scorer.extractors,
        rows=scorer.rows,
    )
    drift_json = scorer.rows.parent / "drift.json"
    drift_json.unlink(missing_ok=True)  # of an evaluation before
    if drift is None:
        return
    if draw_drift is not None:
        drift.figure = scorer.rows.parent / "drift.png"
        draw_drift(drift, drift.figure)
    write_json(drift_json, plain(drift))


def _warnings(card: ProtocolCard, scorer: Scorer, found: list[RowsOfExtractor]) -> list[str]:
    """What a reader of the scores has to know."""
    warnings = []
    if same := len(set(scorer.digests[Side.GENERATED]) & set(scorer.digests[Side.REAL])):
        warnings.append(f"{same} generated videos are real videos, byte for byte: the same folder given twice?")
    if card.protocol["fps"] is None:
        warnings.append("the generated frames carry no rate, so every frame of both sides was taken: set protocol.fps")
    for side in (card.generated, card.real):
        if side.num_left_out:
            warnings.append(f"videos of {side.name} left out: {side.num_left_out}; rows.jsonl says why")
    names = [video.name for side in Side for video in scorer.sets[side][0, Variant.PLAIN].videos]
    for pattern in scorer.drives:
        if not any(fnmatchcase(name, pattern) for name in names):
            warnings.append(f"no video fits the pattern {pattern!r} of drives")
    return warnings + [warning for rows in found for warning in rows.warnings]
