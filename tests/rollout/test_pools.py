"""Both pools make the same rows and the same bytes, and a dead worker costs at most its own future."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from drivesim.rollout.pools import PoolConfig, PoolKind, _places, start_ray
from drivesim.rollout.rows import Progress, Row
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from tests.rollout.tiny_model import FailingModel, TinyModel, start_frame

START = Start(name="street", frame_HWC=start_frame())


def _config(kind: PoolKind, futures: int = 3, workers: int = 2) -> RolloutConfig:
    pool = PoolConfig(kind=kind, workers=workers)
    return RolloutConfig(futures=futures, seconds=10.0, seed=3, segment_chunks=2, pool=pool)


def _without_time(row: Row) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key not in ("seconds", "traceback")}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    start_ray(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    run_dir = tmp_path_factory.mktemp("here")
    return run_dir, run_rollout(_config(PoolKind.HERE), START, TinyModel, run_dir)


@pytest.mark.usefixtures("ray_cluster")
def test_ray_makes_the_same_rows_videos_and_progress(tmp_path: Path, here: tuple[Path, list[Row]]) -> None:
    import ray

    heard: list[Progress] = []
    rows = run_rollout(_config(PoolKind.RAY), START, TinyModel, tmp_path, heard.append)
    here_dir, here_rows = here
    assert all(row.ok for row in here_rows)
    assert [_without_time(row) for row in rows] == [_without_time(row) for row in here_rows]
    for row in rows:
        assert (tmp_path / str(row.video)).read_bytes() == (here_dir / str(row.video)).read_bytes()
    assert [event.num_frames for event in heard if event.future == 2] == [10, 18, 26, 34, 40]
    assert ray.is_initialized(), "a Ray that ran before is left running"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_killed_once_costs_nothing(tmp_path: Path, here: tuple[Path, list[Row]]) -> None:
    load = partial(FailingModel, "kill", at_call=4, once=tmp_path / "killed")
    rows = run_rollout(_config(PoolKind.RAY, futures=2, workers=1), START, load, tmp_path / "run")
    assert (tmp_path / "killed").exists()
    assert [_without_time(row) for row in rows] == [_without_time(row) for row in here[1][:2]]


@pytest.mark.usefixtures("ray_cluster")
def test_a_future_whose_workers_always_die_is_a_row_with_the_cause(tmp_path: Path) -> None:
    load = partial(FailingModel, "kill", at_call=1)
    rows = run_rollout(_config(PoolKind.RAY, futures=1), START, load, tmp_path)
    assert [row.ok for row in rows] == [False]
    assert (rows[0].error or "").startswith("worker died (2 of 2 tries): ActorDiedError")
    assert not list(tmp_path.glob("*.mp4"))
    assert run_rollout(_config(PoolKind.HERE, futures=1), START, TinyModel, tmp_path)[0].ok


@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_cannot_be_loaded_in_a_worker_is_a_row_with_the_cause(tmp_path: Path) -> None:
    load = partial(fits_once, tmp_path / "loaded")
    rows = run_rollout(_config(PoolKind.RAY, futures=2, workers=1), START, load, tmp_path / "run")
    assert [row.ok for row in rows] == [False, False]
    assert {row.error for row in rows} == {"out of memory: OutOfMemoryError: no room for it"}
    assert "fits_once" in (rows[0].traceback or "")


def fits_once(loaded: Path) -> TinyModel:
    """As where the driver's own model has left no room for a worker's."""
    if loaded.exists():
        raise torch.OutOfMemoryError("no room for it")
    loaded.touch()
    return TinyModel()


def test_no_more_workers_are_started_than_have_a_place() -> None:
    machine = {"CPU": 16.0, "GPU": 1.0}
    assert _places([machine], PoolConfig(threads=4)) == 4
    assert _places([machine], PoolConfig(gpus_per_worker=1.0)) == 1
    assert _places([machine], PoolConfig(gpus_per_worker=0.1)) == 10
    with pytest.raises(ValueError, match="gpus_per_worker=1 with 1 threads, but Ray sees 0 GPUs"):
        _places([{"CPU": 16.0}], PoolConfig(gpus_per_worker=1.0))
    with pytest.raises(ValueError, match="fewer cores than the 32 threads"):
        _places([machine], PoolConfig(threads=32))


def test_a_worker_finds_its_place_on_one_gpu_of_one_machine() -> None:
    two = {"CPU": 16.0, "GPU": 2.0}
    assert _places([two], PoolConfig(gpus_per_worker=0.4)) == 4  # two a GPU: what is left of both holds no fifth
    assert _places([two], PoolConfig(gpus_per_worker=2.0)) == 1
    assert _places([two, {"CPU": 16.0, "GPU": 1.0}], PoolConfig(gpus_per_worker=2.0)) == 1
    assert _places([{"CPU": 3.0}, {"CPU": 3.0}], PoolConfig(threads=2)) == 2
    with pytest.raises(ValueError, match="gpus_per_worker=1 with 1 threads, but Ray sees 1 GPUs, on 2 machine"):
        _places([{"CPU": 8.0}, {"CPU": 0.0, "GPU": 1.0}], PoolConfig(gpus_per_worker=1.0))


def test_the_here_pool_restores_the_number_of_threads(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    config = RolloutConfig(futures=1, seconds=2.0, pool=PoolConfig(threads=before + 1))
    run_rollout(config, START, TinyModel, tmp_path)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"threads": 0}, {"max_retries": -1}, {"gpus_per_worker": -1.0}, {"gpus_per_worker": 1.5}]
)
def test_numbers_that_make_no_pool_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^pool.{next(iter(wrong))}={next(iter(wrong.values()))}; must"):
        PoolConfig(**wrong).validate()  # type: ignore[arg-type]
