"""Where futures are made: here, one after the other, or by Ray's workers, several at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from drivesim.core.limits import check_at_least
from drivesim.core.machine import num_cores
from drivesim.rollout.future import Task, run_future
from drivesim.rollout.loading import LoadModel
from drivesim.rollout.model import PredictionModel
from drivesim.rollout.rows import Events, Progress, Row

_OBJECT_STORE_BYTES = 128 << 20  # tasks and rows are small; frames go to the disk, not through Ray


class PoolKind(str, Enum):
    """The pools there are."""

    HERE = "here"
    RAY = "ray"


@dataclass(kw_only=True, slots=True)
class PoolConfig:
    """Who makes the futures. Frames do not depend on `kind` and `workers`."""

    kind: PoolKind = PoolKind.HERE  # who makes them
    workers: int | None = None  # Ray: processes at once; None = as many as the cores serve
    threads: int = 1  # torch threads a process, in both pools: sums round differently with another number
    gpus_per_worker: float = 0.0  # Ray: share of a GPU that each worker takes; 0 = it sees none
    max_retries: int = 1  # Ray: how often a future whose worker died is taken up again

    def validate(self) -> None:
        """Raises ValueError for numbers that make no pool."""
        check_at_least(1, "pool.", workers=self.workers, threads=self.threads)
        check_at_least(0, "pool.", max_retries=self.max_retries, gpus_per_worker=self.gpus_per_worker)
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(
                f"pool.gpus_per_worker={self.gpus_per_worker}; must be a share of one GPU, up to 1, or a whole number"
            )

    def check_device(self, device: str) -> None:
        """Raises ValueError for a device that workers do not see."""
        kind, _, index = device.partition(":")
        if self.kind is not PoolKind.RAY or kind != "cuda":
            return
        if self.gpus_per_worker == 0:
            raise ValueError(f"device={device} with pool=ray needs pool.gpus_per_worker, such as 1 or 0.5")
        if index:
            raise ValueError(f"device={device} with pool=ray: Ray gives each worker a GPU of its own; device=cuda")


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Runs a block with that many torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_here(config: PoolConfig, tasks: Sequence[Task], model: PredictionModel) -> Events:
    """Makes futures one after the other in this process."""
    with torch_threads(config.threads):
        for task in tasks:
            yield from run_future(task, model)


def run_ray(config: PoolConfig, tasks: Sequence[Task], load_model: LoadModel) -> Events:
    """Makes futures in Ray's workers, each of which loads the model once.

    Ray is started, and shut down at the end, unless it runs already.

    Args:
        config: Number and size of the workers.
        tasks: One a future.
        load_model: Makes the model; shipped to the workers, so a function of a module or a partial of one.
    """
    if not tasks:
        return
    import ray  # slow to import, and not needed by the other pool

    workers = num_workers(config, len(tasks))
    starts_ray = not ray.is_initialized()
    if starts_ray:
        start_ray(workers * config.threads)
    try:
        fleet = _Fleet(ray, config, load_model, workers)
        try:
            yield from fleet.run(tasks)
        finally:
            fleet.stop()
    finally:
        if starts_ray:
            ray.shutdown()


@contextmanager
def kept_running(config: PoolConfig) -> Iterator[None]:
    """Keeps Ray up during a block, for several rollouts one after the other; nothing to do for the other pool."""
    if config.kind is not PoolKind.RAY:
        yield
        return
    import ray

    starts_ray = not ray.is_initialized()
    if starts_ray:
        start_ray((config.workers or max(1, num_cores() // config.threads)) * config.threads)
    try:
        yield
    finally:
        if starts_ray:
            ray.shutdown()


def start_ray(num_cpus: int) -> None:
    """Starts Ray on this machine: no dashboard, no chatter, workers as urgent as this process."""
    import ray

    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
        # Ray's 15 leaves a worker under 1 % of a core that another process wants, too (measured).
        _system_config={"worker_niceness": 0},
    )


def num_workers(config: PoolConfig, num_tasks: int) -> int:
    """Processes that make futures at once: those asked for, or as many as the cores serve."""
    if config.kind is PoolKind.HERE:
        return 1
    return min(num_tasks, config.workers or max(1, num_cores() // config.threads))


class _Worker:
    """Lives in a process of its own and holds the model, which it loads for its first task."""

    def __init__(self, load_model: LoadModel, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._load_model = load_model
        self._model: PredictionModel | None = None

    def run(self, task: Task) -> Events:
        if self._model is None:
            try:
                self._model = self._load_model()
            except Exception as error:  # of the actor itself it would say no more than that it died
                yield task.failed_by(error)
                return
        yield from run_future(task, self._model)


class _Fleet:
    """Hands tasks to workers, and a dead worker's task to a new one."""

    def __init__(self, ray: Any, config: PoolConfig, load_model: LoadModel, num_workers: int) -> None:
        self.ray = ray
        self.max_tries = 1 + config.max_retries
        places = _places([node["Resources"] for node in ray.nodes() if node["Alive"]], config)
        # Ray gives OMP_NUM_THREADS = num_cpus to the worker, before torch is imported there.
        actor = ray.remote(_Worker).options(num_cpus=config.threads, num_gpus=config.gpus_per_worker)
        self._new_worker = lambda: actor.remote(load_model, config.threads)
        self.idle = [self._new_worker() for _ in range(min(num_workers, places))]
        self.running: dict[Any, tuple[Any, Task, int]] = {}  # stream -> worker, task, which try

    def run(self, tasks: Sequence[Task]) -> Events:
        waiting = deque((task, 1) for task in tasks)
        while waiting or self.running:
            while waiting and self.idle:
                task, try_number = waiting.popleft()
                worker = self.idle.pop()
                stream = worker.run.options(num_returns="streaming").remote(task)
                self.running[stream] = (worker, task, try_number)
            ready, _ = self.ray.wait(list(self.running), num_returns=1)
            event = self._next_event(ready[0], waiting)
            if event is not None:
                yield event

    def _next_event(self, stream: Any, waiting: deque[tuple[Task, int]]) -> Progress | Row | None:
        """What a worker reports; None = it is done with its task, or died and the task waits again."""
        worker, task, try_number = self.running[stream]
        try:
            event: Progress | Row = self.ray.get(next(stream))
            return event
        except StopIteration:
            del self.running[stream]
            self.idle.append(worker)
            return None
        except self.ray.exceptions.RayError as error:
            del self.running[stream]
            self.ray.kill(worker)  # does nothing to one that is dead already
            self.idle.append(self._new_worker())
            if try_number < self.max_tries:
                waiting.appendleft((task, try_number + 1))
                return None
            return task.failed(f"worker died ({try_number} of {self.max_tries} tries): {_one_line(error)}", str(error))

    def stop(self) -> None:
        """Ends the workers, busy or not."""
        for worker in [*self.idle, *(worker for worker, _, _ in self.running.values())]:
            self.ray.kill(worker)


def _places(machines: Sequence[Mapping[str, float]], config: PoolConfig) -> int:
    """Workers that fit on Ray's machines at once; one more would wait for its place for ever.

    Args:
        machines: what each has, such as {"CPU": 16.0, "GPU": 2.0}.
        config: what a worker takes; of one machine, and a share of a GPU of one GPU.

    Raises:
        ValueError: not even one fits.
    """
    by_cores = [int(machine.get("CPU", 0)) // config.threads for machine in machines]
    if sum(by_cores) < 1:
        raise ValueError(f"Ray runs with fewer cores than the {config.threads} threads of one worker")
    share = config.gpus_per_worker
    if share == 0:
        return sum(by_cores)
    gpus = [machine.get("GPU", 0.0) for machine in machines]
    of_one = int(1 / share + 1e-6)  # workers of one GPU; 0 where a worker takes several
    by_gpus = [int(number) * of_one if of_one else int(number / share + 1e-6) for number in gpus]
    places = sum(map(min, by_cores, by_gpus))
    if places < 1:
        raise ValueError(
            f"pool.gpus_per_worker={share:g} with {config.threads} threads, but Ray sees {sum(gpus):g} GPUs, "
            f"on {len(machines)} machine(s) with {', '.join(f'{n:g}' for n in gpus)}"
        )
    return places


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
