"""A process loads a model once, and lets go of it when workers have their own."""

from __future__ import annotations

import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest

from drivesim.rollout.loading import OnceLoaded
from drivesim.rollout.pools import PoolConfig, PoolKind
from drivesim.rollout.run import RolloutConfig, run_rollout
from tests.rollout.test_run import START
from tests.rollout.tiny_model import TinyModel

LOADED: list[weakref.ref[Any]] = []


def load() -> TinyModel:
    model = TinyModel()
    LOADED.append(weakref.ref(model))
    return model


@pytest.fixture(autouse=True)
def _none_loaded() -> None:
    LOADED.clear()


def test_a_model_is_loaded_when_it_is_asked_for_and_once() -> None:
    once = OnceLoaded(load)
    assert not LOADED
    assert once() is once()
    assert len(LOADED) == 1
    once.let_go()
    assert LOADED[0]() is None
    assert isinstance(once(), TinyModel)
    assert len(LOADED) == 2


def test_another_process_gets_it_without_the_model() -> None:
    once = OnceLoaded(load)
    once()
    there = pickle.loads(pickle.dumps(once))
    assert len(LOADED) == 1
    assert isinstance(there(), TinyModel)
    assert len(LOADED) == 2


def test_none_is_in_memory_while_workers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    def no_workers(*_: object) -> Any:
        alive.append(sum(model() is not None for model in LOADED))
        yield from ()

    monkeypatch.setattr("drivesim.rollout.run.run_ray", no_workers)
    once = OnceLoaded(load)
    assert once().fps > 0  # as a command does that designs the start frame
    config = RolloutConfig(futures=1, seconds=2.0, pool=PoolConfig(kind=PoolKind.RAY))
    with pytest.raises(KeyError):  # no worker, no row
        run_rollout(config, START, once, tmp_path)
    assert (len(LOADED), alive) == (1, [0])


@pytest.mark.parametrize(
    ("pool", "device", "message"),
    [
        (PoolConfig(kind=PoolKind.RAY), "cuda", "device=cuda with pool=ray needs pool.gpus_per_worker"),
        (
            PoolConfig(kind=PoolKind.RAY, gpus_per_worker=1.0),
            "cuda:1",
            "Ray gives each worker a GPU of its own; device=cuda",
        ),
    ],
)
def test_devices_that_workers_do_not_see_are_refused(pool: PoolConfig, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool.check_device(device)


def test_devices_that_workers_see_are_taken() -> None:
    PoolConfig(kind=PoolKind.RAY).check_device("cpu")
    PoolConfig(kind=PoolKind.RAY, gpus_per_worker=0.5).check_device("cuda")
    PoolConfig().check_device("cuda:1")
