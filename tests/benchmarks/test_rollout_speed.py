"""How fast the shipped model rolls out, and how much of a rollout's time is spent outside the networks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from drivesim import Scene, Simulator
from drivesim.core.video_writing import VideoWriter
from drivesim.families import finishing
from drivesim.families.driving import DrivingModel
from drivesim.rollout import future as futures
from drivesim.rollout import world as worlds
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.writer import FutureWriter
from tests.benchmarks.measuring import cpu_seconds, note

SCENE = Path(__file__).resolve().parents[2] / "conf" / "scenes" / "cut_in.yaml"
SECONDS = 8
MAX_SHARE_OUTSIDE = 0.05
NETWORKS = "networks"


class Clocks:
    """CPU seconds by what they were spent on; of calls within calls each counts for itself."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.on(name):
                return function(*args, **kwargs)

        return call


def time_networks(clocks: Clocks, model: DrivingModel) -> None:
    """Counts calls of the model's networks for `NETWORKS`, whoever calls them."""
    coder = model.autoencoder
    parts = [model.video_unet, model.interpolator, model.conditioner, model.rate_label, coder.encoder, coder.decoder]
    parts.append(model.finishing.video_decoder)
    parts.append(None if model.finishing.upsampling is None else model.finishing.upsampling.networks)
    for part in parts:
        if part is not None:
            part.forward = clocks.timed(NETWORKS, part.forward)


def time_the_rest(clocks: Clocks, patch: pytest.MonkeyPatch) -> None:
    """Names where the time outside the networks goes."""
    for sampler in (DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        for method in ("step", "scale_model_input", "set_timesteps"):
            patch.setattr(sampler, method, clocks.timed("sampler's steps", getattr(sampler, method)))
    for owner, method, name in (
        (torch, "randn", "noise"),
        (VideoWriter, "write", "colours and x264"),
        (VideoWriter, "__exit__", "colours and x264"),
        (VideoWriter, "__enter__", "files"),
        (FutureWriter, "save_state", "files"),
        (FutureWriter, "join", "files"),
        (futures, "sha256_file", "files"),
        (finishing, "to_picture_range", "latents to bytes"),
        (worlds, "check_finite", "checks"),
        (finishing, "check_finite", "checks"),
    ):
        patch.setattr(owner, method, clocks.timed(name, getattr(owner, method)))


def test_share_of_a_future_that_is_spent_outside_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start frame's latents to the whole video in its folder, in this process; the model is loaded already."""
    simulator = Simulator.from_pretrained("toytown")
    start = simulator.start(Scene.load(SCENE))
    config = RolloutConfig(futures=1, seconds=SECONDS)
    run = partial(run_rollout, config, start, lambda: simulator.model)
    run(tmp_path / "warm")
    clocks = Clocks()
    time_networks(clocks, simulator.model)
    time_the_rest(clocks, monkeypatch)
    with clocks.on("everything else"):
        total = cpu_seconds(lambda: run(tmp_path / "measured"))
    outside = total - clocks.seconds[NETWORKS]
    print(f"\na future of {SECONDS} s takes {total:.2f} s CPU, {outside / total:.1%} outside the networks:")
    for name, seconds in clocks.seconds.most_common():
        print(f"  {name:18} {1e3 * seconds:8.1f} ms  {seconds / total:6.2%}")
    note("rollout, share outside the networks", seconds_of_video=SECONDS, cpu_s=total, share=outside / total)
    assert sum(clocks.seconds.values()) == pytest.approx(total, rel=0.01)
    assert outside / total < MAX_SHARE_OUTSIDE


def test_key_frames_a_second_on_one_core() -> None:
    began = time.perf_counter()
    simulator = Simulator.from_pretrained("toytown")
    loaded = time.perf_counter()
    frame = simulator.design(Scene.load(SCENE))
    designed = time.perf_counter()
    num_frames = sum(len(frames) for frames in simulator.rollout(frame, seconds=SECONDS))
    ended = time.perf_counter()
    print(f"\nmodel toytown: loaded in {loaded - began:.1f} s, a start frame in {designed - loaded:.2f} s")
    print(
        f"rollout: {num_frames / (ended - designed):.2f} key frames/s, {SECONDS / (ended - designed):.2f} of real time"
    )
