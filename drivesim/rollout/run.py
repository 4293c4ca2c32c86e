"""A rollout: K futures of one start frame, as videos and rows in a run folder that can be resumed."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drivesim.core.devices import check_device, number_type
from drivesim.core.files import sha256_file
from drivesim.core.limits import check_at_least
from drivesim.core.run_folder import ROWS_FILE, claim_folder
from drivesim.core.video_writing import ENCODING
from drivesim.core.wording import number_of
from drivesim.families.memory import MemoryConfig
from drivesim.rollout.future import Task
from drivesim.rollout.loading import LoadModel, once_loaded
from drivesim.rollout.model import PredictionModel
from drivesim.rollout.pools import PoolConfig, PoolKind, run_here, run_ray, torch_threads
from drivesim.rollout.rows import Events, Progress, Row, last_rows, write_row
from drivesim.rollout.start import Start, start_latents
from drivesim.rollout.writer import FutureWriter

OnProgress = Callable[[Progress], None]
_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """How many futures, how long, and who makes them."""

    futures: int = 4  # they differ by their number in the key of the noise, and in what they are told in turn
    seconds: float | None = 60.0  # length of each, rounded to whole frames; None = what one call of the model makes
    seed: int = 0  # same seed, start and model = same bytes
    segment_chunks: int = 1  # chunks (8 key frames each) after which a segment is closed; a kill costs at most one
    crf: int = 17  # x264's quality of the videos: 0 lossless .. 51 worst
    pool: PoolConfig = field(default_factory=PoolConfig)  # group pool: who makes the futures

    def validate(self) -> None:
        """Raises ValueError for numbers that make no rollout."""
        check_at_least(1, futures=self.futures, segment_chunks=self.segment_chunks)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds}; must be a number above 0")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf}; must be 0 (lossless) to 51 (worst)")
        self.pool.validate()

    def num_frames(self, model: PredictionModel) -> int:
        """Frames of each future of a model."""
        if self.seconds is None:
            return (model.num_frames - 1) * model.frames_per_gap + 1
        return max(1, round(self.seconds * model.fps))


@dataclass(kw_only=True, slots=True)
class ModelRolloutConfig(RolloutConfig):
    """The same, and how the model is loaded that makes them."""

    weights: str = "float32"  # type of the networks' numbers: float32, bfloat16 or float16
    device: str = "cpu"  # torch device
    memory: MemoryConfig = field(default_factory=MemoryConfig)  # how to need less of it

    def check_device(self) -> None:
        """Raises ValueError for a device that is not here, or on which no network could wait elsewhere."""
        self.pool.check_device(self.device)
        check_device(self.device)
        self.memory.check_offload(self.device)

    def dtype(self) -> torch.dtype:
        """The type of the networks' numbers.

        Raises:
            ValueError: another than those there are.
        """
        return number_type(self.weights)


def run_rollout(
    config: RolloutConfig,
    start: Start,
    load_model: LoadModel,
    run_dir: str | Path,
    on_progress: OnProgress | None = None,
) -> list[Row]:
    """Makes the futures that the run folder does not hold yet.

    The folder gets future_000.mp4 ..., rows.jsonl (one row a future), run.json (what fixes the
    frames), the .ends/ that longer futures go on from and, while a future is unfinished, its .parts/.

    Args:
        config: Futures, length, seed, pool.
        start: The start frame, of the model's size.
        load_model: Makes the model; the Ray pool calls it once in each worker, too.
        run_dir: The run's folder; one that holds the same run, finished or not, or a shorter one, is gone on with.
        on_progress: Called after every chunk of every future; None = nobody listens.

    Returns:
        One row a future, in order; a future that failed has `ok=False` and its cause.

    Raises:
        ValueError: a number in the config, the start frame's size, or the folder holds another run.
    """
    return run_rollouts(config, {Path(run_dir): start}, load_model, on_progress)[0]


def run_rollouts(
    config: RolloutConfig,
    starts: Mapping[Path, Start],
    load_model: LoadModel,
    on_progress: OnProgress | None = None,
) -> list[list[Row]]:
    """As `run_rollout`, for several start frames at once: a pool's workers load the model once for all of them.

    Args:
        config: Futures of each start, length, seed, pool.
        starts: A start for each run folder; their names differ.
        load_model: Makes the model; `OnceLoaded` where the caller has needed it before.
        on_progress: Called after every chunk of every future; None = nobody listens.

    Returns:
        The rows of each start, in order.

    Raises:
        ValueError: as `run_rollout`, or two starts of one name.
    """
    config.validate()
    names = [start.name for start in starts.values()]
    if len(set(names)) < len(names):
        raise ValueError(f"starts need names that differ, which their frames' noise follows from: {', '.join(names)}")
    load = once_loaded(load_model)
    runs = {start.name: _Run(config, start, load(), folder.resolve()) for folder, start in starts.items()}
    missing = [task for run in runs.values() for task in run.missing()]
    if config.pool.kind is PoolKind.HERE:
        events = run_here(config.pool, missing, load())
    else:
        load.let_go()  # the workers load their own
        events = run_ray(config.pool, missing, load)
    with closing(events):  # an interrupt ends workers and unfinished files now, not when memory is collected
        for row in _listen(events, on_progress):
            runs[row.start].add(row)
    return [[run.rows[task.future] for task in run.tasks] for run in runs.values()]


class _Run:
    """One start's futures and the folder that keeps them."""

    def __init__(self, config: RolloutConfig, start: Start, model: PredictionModel, folder: Path) -> None:
        self.tasks = _tasks(config, start, model, folder)
        num_frames = self.tasks[0].num_frames
        self._can_grow = model.gaps_at_once is None  # otherwise the first call makes it all
        may_grow = "num_frames" if self._can_grow else None
        claim_folder(folder, _identity(config, start, model, num_frames), may_grow)
        self.rows_path = folder / ROWS_FILE
        whole = {future: row for future, row in last_rows(self.rows_path).items() if _is_whole(row, folder)}
        self.rows = {future: row for future, row in whole.items() if row.frames == num_frames}
        self._writer = partial(FutureWriter, folder, fps=model.fps, crf=config.crf)
        for task in self.missing():
            if task.future in whole:
                self._writer(task.future).reopen()
        begun = [task.future for task in self.missing() if self._writer(task.future).parts.is_dir()]
        if self.rows or begun:
            made = number_of(len(self.rows), "future")
            _log.info("%s: goes on; %s made before, %d begun", folder, made, len(begun))
        for future in self.rows:  # a kill between a row and this leaves them behind
            self._writer(future).remove_parts(keep_end=self._can_grow)

    def missing(self) -> list[Task]:
        """The futures that the folder does not hold yet."""
        return [task for task in self.tasks if task.future not in self.rows]

    def add(self, row: Row) -> None:
        """Notes how a future ended."""
        try:
            write_row(self.rows_path, row)
        except OSError as error:
            cause = f"{error.strerror}; the same command goes on"
            raise OSError(error.errno, cause, str(self.rows_path)) from error
        self.rows[row.future] = row
        if row.ok:
            self._writer(row.future).remove_parts(keep_end=self._can_grow)


def _listen(events: Events, on_progress: OnProgress | None) -> Iterator[Row]:
    """Passes progress on; yields the rows."""
    for event in events:
        if isinstance(event, Row):
            yield event
        elif on_progress is not None:
            on_progress(event)


def _tasks(config: RolloutConfig, start: Start, model: PredictionModel, run_dir: Path) -> Sequence[Task]:
    with torch_threads(config.pool.threads):
        latents_CHW = start_latents(start, model)
    return [
        Task(
            future=future,
            run_dir=run_dir,
            start_name=start.name,
            start_latents_CHW=latents_CHW,
            conditions=start.said(future),
            run_seed=config.seed,
            num_frames=config.num_frames(model),
            segment_chunks=config.segment_chunks,
            crf=config.crf,
        )
        for future in range(config.futures)
    ]


def _identity(config: RolloutConfig, start: Start, model: PredictionModel, num_frames: int) -> dict[str, Any]:
    """What fixes every byte of a future's video, apart from the future's number."""
    frame_HWC = start.frame_HWC
    return {
        "model": model.fingerprint,
        "fps": model.fps,
        "start": start.name,
        "start_sha256": None if frame_HWC is None else hashlib.sha256(frame_HWC.tobytes()).hexdigest(),
        **model.facts(start.conditions),
        **({"in_turn": [model.facts(said) for said in start.in_turn]} if start.in_turn else {}),
        "seed": config.seed,
        "num_frames": num_frames,
        "segment_chunks": config.segment_chunks,
        "crf": config.crf,
        "encoding": ENCODING,
        "threads": config.pool.threads,
    }


def _is_whole(row: Row, run_dir: Path) -> bool:
    """Whether a future is finished and its video has not been harmed since."""
    if not row.ok or row.video is None:
        return False
    video = run_dir / row.video
    return video.exists() and sha256_file(video) == row.sha256
