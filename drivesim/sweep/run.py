"""A sweep: every combination of settings is rolled out and scored under one protocol; a stopped sweep goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from drivesim.core.devices import check_device
from drivesim.core.files import sha256_file
from drivesim.evaluate.clips import RATE_TOLERANCE
from drivesim.evaluate.drift import Drift
from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.networks import load_networks, network_configs
from drivesim.evaluate.protocol import ProtocolConfig, library_versions
from drivesim.evaluate.run import SCORES_FILE, evaluate
from drivesim.evaluate.scores import ScoreRow, Scores
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.spans import span_scores
from drivesim.evaluate.stored_scores import StoredScores
from drivesim.evaluate.videos import Video, find_videos
from drivesim.families.folder import find_model
from drivesim.families.stages import StagesConfig
from drivesim.rollout.loading import OnceLoaded
from drivesim.rollout.pools import PoolConfig, kept_running, torch_threads
from drivesim.rollout.rows import Row
from drivesim.rollout.run import OnProgress, RolloutConfig, run_rollouts
from drivesim.rollout.start import Start
from drivesim.sweep.cells import Cell
from drivesim.sweep.rows import CellLog, FinishedCell, SweepRow, rows_of_scores
from drivesim.sweep.settings import SweepConfig
from drivesim.sweep.starts import FindScene, make_start, scene_of

CELLS_FILE = "cells.jsonl"
SPREAD = "Spread of futures over that of re-encodings"
LEAVING = "Share of futures that leave the band of real video"


@dataclass(kw_only=True, slots=True)
class Sweep:
    """What a sweep has found."""

    rows: list[SweepRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # futures and cells without a result, and why
    notes: list[str] = field(default_factory=list)  # parts of the time that no clip fills, of which no number comes
    card: dict[str, Any] = field(default_factory=dict)  # the protocol card of all cells, but for the generated side
    videos: dict[str, list[Video]] = field(default_factory=dict)  # of the first seed, by cell


@dataclass(kw_only=True, slots=True)
class SweepInputs:
    """What a sweep is handed beside its own settings."""

    settings: EvaluateConfig  # protocol, controls, intervals
    real: str  # folder of real videos
    pool: PoolConfig  # who makes the rollouts
    find_scene: FindScene
    draw_drift: Callable[[Drift, Path], None] | None = None  # for the reports of the cells
    on_progress: OnProgress | None = None  # after every chunk of every future
    on_cell: Callable[[int, int], None] | None = None  # after every cell: how many are done, of how many


def run_sweep(config: SweepConfig, inputs: SweepInputs, out: Path) -> Sweep:
    """Rolls out and scores what `out` does not hold yet.

    `out` gets a run folder a cell and start (`rollouts/`), an evaluation a cell (`scores/`), one store of features for
    all of them (`features/`), and `cells.jsonl`, a line a finished cell.

    Raises:
        FileNotFoundError: a start or the real videos are not there.
        ValueError: settings that make no sweep, no such model or too slow a one, an unusable start, or other rollouts
            in `out`.
    """
    config.validate()
    inputs.pool.check_device(config.device)
    check_device(config.device)
    _check_length(config, inputs.settings.protocol)
    for model in config.model:
        _check_rate(find_model(model), config.stages, inputs.settings.protocol)
    for start in config.start:
        scene_of(start, inputs.find_scene)
    cells, sweep = config.cells(), Sweep()
    runner = _Runner(config, inputs, out, sweep)
    with kept_running(inputs.pool):
        for done, cell in enumerate(cells, start=1):
            runner.run(cell)
            if inputs.on_cell is not None:
                inputs.on_cell(done, len(cells))
    return sweep


def _check_length(config: SweepConfig, protocol: ProtocolConfig) -> None:
    """Refuses rollouts that even at their longest hold no clip; shorter horizons without one become notes."""
    given = 0 if protocol.count_context else protocol.context_frames
    needed = given + protocol.span_frames
    if protocol.fps is not None and round(max(config.seconds) * protocol.fps) < needed:
        raise ValueError(
            f"sweep.seconds is {config.seconds}: a clip of protocol {protocol.name} with what is given before it takes "
            f"{needed} frames at {protocol.fps:g} a second: sweep.seconds=[{needed / protocol.fps:g}] or more"
        )


def _check_rate(model: Path, stages: StagesConfig, protocol: ProtocolConfig) -> None:
    """Refuses a model whose videos would be too slow for the protocol, as cutting clips out of them would."""
    from drivesim.families.driving import model_facts  # here: diffusers takes seconds to import

    facts = model_facts(model, stages)
    fps = float([facts["fps"], *facts.get("rates", [])][-1])
    if protocol.fps is not None and protocol.fps > fps * RATE_TOLERANCE:
        raise ValueError(
            f"protocol.fps={protocol.fps:g}, but videos of {model} with these stages have {fps:.3g} frames a second; "
            f"give protocol.fps={fps:.3g} or lower"
        )


class _Runner:
    """Runs cells one after the other; what they share is made once."""

    def __init__(self, config: SweepConfig, inputs: SweepInputs, out: Path, sweep: Sweep) -> None:
        self.config, self.inputs, self.out, self.sweep = config, inputs, out, sweep
        own = {part.name: getattr(inputs.settings, part.name) for part in fields(EvaluateConfig)}
        features = own.pop("features") or str(out / "features")
        self.settings = EvaluateConfig(**own, features=features)  # a command's other fields do not matter
        real = sorted((video.name, video.sha256()) for video in find_videos(inputs.real))
        self.real_sha256 = hashlib.sha256(json.dumps(real).encode()).hexdigest()
        self.log = CellLog(out / CELLS_FILE)
        self._networks: list[Extractor] = []

    def run(self, cell: Cell) -> None:
        """Rolls out a cell, or what is missing of it, and scores it unless that was done."""
        videos = self._videos(cell)
        if cell.seed == self.config.seed[0]:
            self.sweep.videos[cell.name] = videos
        folder = self.out / "scores" / cell.name
        identity = self._identity(videos)
        finished = self.log.find(cell.name, identity) if (folder / SCORES_FILE).exists() else None
        if finished is None:
            try:
                finished = self._score(cell, videos, folder)
            except ValueError as error:
                self.sweep.failures.append(f"{cell.name}: {error}")
                return
            self.log.add(cell.name, identity, finished)
        self.sweep.rows += finished.rows
        self.sweep.notes += finished.notes
        self._keep_card(*StoredScores.load(folder))

    def _videos(self, cell: Cell) -> list[Video]:
        """The futures of all starts; those that failed are left out and named."""
        from drivesim.families.driving import DrivingModel  # here: diffusers takes seconds to import
        from drivesim.simulator import Simulator

        load = OnceLoaded(
            partial(
                DrivingModel.from_pretrained,
                cell.model,
                device=self.config.device,
                predict_sampling=cell.sampling,
                stages=self.config.stages,
            )
        )
        with torch_threads(self.inputs.pool.threads):
            named = self._starts(Simulator(load()), cell.seed)
        starts = {self.out / "rollouts" / cell.name / name: start for name, start in named.items()}
        rollout = RolloutConfig(
            futures=self.config.futures, seconds=max(self.config.seconds), seed=cell.seed, pool=self.inputs.pool
        )
        rows = run_rollouts(rollout, starts, load, self.inputs.on_progress)
        return [
            video
            for (folder, start), of_start in zip(starts.items(), rows, strict=True)
            for video in self._whole(cell, folder, start, of_start)
        ]

    def _starts(self, simulator: Any, seed: int) -> dict[str, Start]:
        """The start frames of a model and seed, by their names."""
        config = self.config
        found: dict[str, Start] = {}
        for text in config.start:
            start = make_start(text, simulator, seed=seed, is_night=config.is_night, find_scene=self.inputs.find_scene)
            if start.name in found:
                raise ValueError(
                    f"sweep.start: two starts are called {start.name}; rename one, its noise follows from it"
                )
            found[start.name] = start
        return found

    def _whole(self, cell: Cell, folder: Path, start: Start, rows: Sequence[Row]) -> list[Video]:
        self.sweep.failures += [
            f"{cell.name}, {start.name}: future {row.future}: {row.error}" for row in rows if not row.ok
        ]
        return [
            Video(name=f"{start.name}/{row.video}", path=folder / row.video, drive=f"start {start.name}")
            for row in rows
            if row.ok and row.video is not None
        ]

    def _identity(self, videos: Sequence[Video]) -> str:
        """Digest of all that a cell's scores follow from."""
        settings = asdict(self.settings)
        for name in ("features", "report", "batch_clips"):
            del settings[name]
        whole = {
            "settings": settings,
            "spans": [str(span) for span in self.config.spans()],
            "real": self.real_sha256,
            "drives": None if self.settings.drives is None else sha256_file(self.settings.drives),
            "generated": [[video.name, video.sha256()] for video in videos],
            "versions": library_versions(),
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _score(self, cell: Cell, videos: list[Video], folder: Path) -> FinishedCell:
        """The rows of a cell, and why parts of the time have none."""
        if not videos:
            raise ValueError("no future was made, so there is nothing to score")
        networks = self._extractors()
        scores = evaluate(
            self.settings, videos, self.inputs.real, folder, extractors=networks, draw_drift=self.inputs.draw_drift
        )
        (stored,) = StoredScores.load(folder)
        settings = {"model": cell.label, "steps": cell.steps, "guidance": cell.guidance, "seed": cell.seed}
        rows: list[SweepRow] = []
        notes = []
        for span in self.config.spans():
            place = settings | {"begin_s": span.begin_s, "end_s": span.end_s}
            try:
                rows += rows_of_scores(place, span_scores(stored, networks, span, self.settings.uncertainty))
            except ValueError as error:
                notes.append(f"{cell.name}, {span}: {error}")
        whole = settings | {"begin_s": 0.0, "end_s": max(self.config.seconds)}
        by_span = {(row.metric, row.row) for row in rows}
        others = [score for score in scores.scores if (score.metric, score.row.value) not in by_span]
        rows += rows_of_scores(whole, others) + _other_measures(whole, scores)
        return FinishedCell(rows=rows, notes=notes)

    def _extractors(self) -> list[Extractor]:
        if not self._networks:
            (self._networks,) = load_networks(network_configs([self.settings.protocol], self.settings.networks))
        return self._networks

    def _keep_card(self, stored: StoredScores) -> None:
        """The first cell's size and rate become the protocol of all: cells have one card or are not comparable."""
        card = stored.scores["card"]
        if self.sweep.card:
            return
        self.sweep.card = {name: value for name, value in card.items() if name != "generated"}
        protocol = card["protocol"]
        size_hw = (int(protocol["size_hw"][0]), int(protocol["size_hw"][1]))
        self.settings = replace(
            self.settings, protocol=replace(self.settings.protocol, fps=protocol["fps"], size_hw=size_hw)
        )


def _other_measures(settings: dict[str, Any], scores: Scores) -> list[SweepRow]:
    """What an evaluation says beside its scores, as one number each."""
    found: list[tuple[str, float, int]] = []
    if scores.diversity:
        ratios = [entry.ratio for entry in scores.diversity]
        found.append((SPREAD, math.fsum(ratios) / len(ratios), len(ratios)))
    if scores.drift is not None and scores.drift.curves:
        names = {name for curve in scores.drift.curves for name in curve.leaves_s}
        left = {name for curve in scores.drift.curves for name, time in curve.leaves_s.items() if time is not None}
        if names:
            found.append((LEAVING, len(left) / len(names), len(names)))
    return [
        SweepRow(
            **settings,
            metric=metric,
            row=ScoreRow.GENERATED.value,
            value=value,
            num_left=number,
            num_right=0,
            lowest=0.0,
        )
        for metric, value, number in found
    ]
