"""One future from its start to its row, the same code in every pool."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from drivesim.core.files import sha256_file
from drivesim.core.machine import is_out_of_memory
from drivesim.rollout.model import Conditions, PredictionModel
from drivesim.rollout.rows import OUT_OF_MEMORY, Events, Progress, Row
from drivesim.rollout.world import World
from drivesim.rollout.writer import FutureWriter


@dataclass(kw_only=True, slots=True)
class Task:
    """All that a worker needs for one future, besides the model."""

    future: int
    run_dir: Path  # absolute: a worker's working directory may be another
    start_name: str
    start_latents_CHW: torch.Tensor | None  # None = there is no start frame
    conditions: Conditions
    run_seed: int
    num_frames: int  # wanted
    segment_chunks: int  # chunks a segment
    crf: int

    def failed_by(self, error: Exception, *, frames: int = 0, seconds: float = 0.0) -> Row:
        """The row of this future when an error ended it; to be asked where the error is handled."""
        cause = f"{OUT_OF_MEMORY if is_out_of_memory(error) else ''}{type(error).__name__}: {error}"
        return self.failed(cause, traceback.format_exc(), frames=frames, seconds=seconds)

    def failed(self, error: str, trace: str | None = None, *, frames: int = 0, seconds: float = 0.0) -> Row:
        """The row of this future when it did not come to its end."""
        return Row(
            ok=False, future=self.future, start=self.start_name, seed=self.run_seed,
            frames=frames, seconds=seconds, error=error, traceback=trace,
        )  # fmt: skip


def run_future(task: Task, model: PredictionModel) -> Events:
    """Makes a future, or what is left of it; the last thing it yields is its row.

    An error ends this future alone: it becomes a row with its cause, whatever it was.
    """
    began_s = time.perf_counter()
    num_frames = 0
    writer = FutureWriter(task.run_dir, task.future, fps=model.fps, crf=task.crf)
    try:
        for progress in _make_video(task, model, writer):
            num_frames = progress.num_frames
            yield progress
        digest = sha256_file(writer.video)
    except Exception as error:
        yield task.failed_by(error, frames=num_frames, seconds=time.perf_counter() - began_s)
        return
    yield Row(
        ok=True,
        future=task.future,
        start=task.start_name,
        seed=task.run_seed,
        frames=task.num_frames,
        seconds=time.perf_counter() - began_s,
        video=writer.video.name,
        sha256=digest,
    )


def _make_video(task: Task, model: PredictionModel, writer: FutureWriter) -> Iterator[Progress]:
    world = World(
        model,
        run_seed=task.run_seed,
        start_name=task.start_name,
        conditions=task.conditions,
        num_frames=task.num_frames,
    )
    state, first_segment = writer.load_state() or (world.reset(task.start_latents_CHW, task.future), 0)
    num_segments = world.plan.num_segments(task.segment_chunks)
    for index in range(first_segment, num_segments):
        with writer.segment(index) as write:
            for _ in world.plan.segment(index, task.segment_chunks):
                state, frames_THWC = world.step(state)
                for frame_HWC in frames_THWC:
                    write(frame_HWC)
                yield Progress(future=task.future, num_frames=state.num_frames, total_frames=task.num_frames)
        if index + 1 < num_segments:
            writer.save_state(state, index + 1)
    num_joined = writer.join(num_segments)
    assert num_joined == task.num_frames, f"{num_joined} frames in the video, {task.num_frames} planned"
