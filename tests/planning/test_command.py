"""drivesim plan, and what train and rollout say when memory was not enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drivesim import cli
from drivesim.config import compose, recipe_that_writes
from drivesim.core.files import read_rows
from drivesim.core.machine import is_out_of_memory
from drivesim.families.driving import DrivingModel
from drivesim.planning import advice
from drivesim.planning.command import plan_command
from drivesim.planning.free_disk import disk_spaces
from drivesim.planning.plan import DiskRow
from drivesim.planning.training_demand import blank_stage_parts
from drivesim.rollout.rows import OUT_OF_MEMORY
from tests.command_line import drivesim
from tests.families.tiny_family import write_tiny_family

CPU_WORDS = (
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
TINY_AUTOENCODER = [
    "stage=AUTOENCODER", "size_hw=[32,64]", "data.root=nowhere", "autoencoder.block_out_channels=[8,8,16,16]",
    "autoencoder.layers_per_block=1", "autoencoder.norm_num_groups=4", "loader.batch_size=4", "trainer.accelerator=cpu",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The plans that advice asks for, made in this process instead of one of its own."""
    asked: list[list[str]] = []

    def here(arguments: list[str]) -> str:  # not by the command line: Hydra runs one at a time in a process
        asked.append(arguments)
        config = compose(arguments[0], arguments[1:])
        return plan_command(config, recipe_that_writes, Path("run")).text() + "\nplan: plan.json\n"

    monkeypatch.setattr(advice, "_run", here)
    return asked


def test_a_rollout_is_planned_by_writing_plan_in_front(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rollout", f"model={model}", "seconds=3", "futures=2", "out=run"]
    assert drivesim("plan", *command, "plan.measure_s=0.2") == 0
    printed = capsys.readouterr().out
    for title in ("parameters", "FLOPs", "peak memory", "disk", "time"):
        assert f"\n{title}\n" in printed
    assert "\nfits: " in printed
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["fits"] is True
    assert plan["memory_bytes"] == pytest.approx(sum(row["value"] for row in plan["memory"]), abs=1)
    assert {part["name"] for part in plan["parts"]} == {"autoencoder", "conditioner", "backbone", "temporal"}
    assert plan["time_total"] > 0
    assert drivesim(*command, "start=cut_in") == 0, "a plan in its folder is in a run's way"


def test_a_rollout_that_does_not_fit_the_disk_says_so_and_what_to_change(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ["rollout", f"model={model}", "seconds=1e9", "plan.measure_s=0"]
    assert drivesim("plan", *long, "out=far/away/run") == 0
    printed = capsys.readouterr().out
    assert f"free at {tmp_path}: lower seconds or futures, or give out= on another disk" in printed
    assert "\nfits the memory: " in printed and "\nfits: " not in printed
    plan = json.loads((tmp_path / "far" / "away" / "run" / "plan.json").read_text())
    assert (plan["fits"], plan["fits_memory"]) == (False, True)
    assert drivesim("plan", *long, "plan.hardware=h100", "out=run") == 0
    assert "the disk:" not in capsys.readouterr().out, "another machine's disks are not these"


def test_the_disks_of_a_training_are_those_of_its_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [DiskRow(name="cache of frames", value=300, key="cache_dir"), DiskRow(name="checkpoints", value=500)]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=700))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(bytes(99))
    (space,) = disk_spaces(rows, {"out": tmp_path / "run", "cache_dir": tmp_path / "cache"}, "size_hw")
    assert (space.needed_bytes, space.free_bytes, space.fits) == (800, 799, False)
    assert "lower size_hw, or give out= or cache_dir= on another disk" in space.text()


def test_a_training_that_does_not_fit_is_no_failure_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        drivesim("plan", "train", *TINY_AUTOENCODER, "loader.batch_size=1", "plan.memory_gib=0.01", "plan.measure_s=0")
        == 0
    )
    printed = capsys.readouterr().out
    assert "does not fit: " in printed
    assert "not estimated: plan.measure_s=0" in printed
    assert "the data are not there yet" in printed
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["plan"], "plan what? valid: train, rollout"),
        (["plan", "evaluate"], "plan what? valid: train, rollout"),
        (["plan", "rollout", "plan.hardware=h1000"], "plan.hardware=h1000; valid: here, h200"),
        (["plan", "rollout", "secnds=3"], "did you mean 'seconds'?"),
        (
            ["plan", "train", "stage=IMAGE", "init=nowhere/model", "data.root=x"],
            "the sizes of autoencoder are not known",
        ),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_made_says_why(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drivesim(*command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError(CPU_WORDS), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
    ids=repr,
)
def test_failed_allocations_are_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("error", [RuntimeError(CPU_WORDS), MemoryError("Unable to allocate 8 GiB")], ids=repr)
def test_a_training_out_of_memory_ends_with_what_would_fit(
    error: Exception, advised: list[list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_source", fails)
    assert drivesim("train", *TINY_AUTOENCODER, "out=run") == 1
    said = capfd.readouterr().err
    assert f"drivesim: out of memory: {error}" in said
    assert "loader.batch_size=2 trainer.accumulate=2  (" in said
    assert "drivesim plan train stage=AUTOENCODER" in said
    assert advised[0][:2] == ["plan", "train"]
    assert "Traceback" not in said


def test_a_future_out_of_memory_is_a_row_and_the_run_ends_with_what_would_fit(
    model: Path,
    advised: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    predict = DrivingModel.predict
    monkeypatch.setattr(DrivingModel, "predict", lambda *a, **k: (predict if a[1].is_meta else fails)(*a, **k))
    assert drivesim("rollout", "start=cut_in", f"model={model}", "seconds=2", "futures=2", "out=run") == 1
    rows = read_rows(tmp_path / "run" / "rows.jsonl")
    assert [row["error"] for row in rows] == [f"{OUT_OF_MEMORY}OutOfMemoryError: tried to allocate 20.00 GiB"] * 2
    said = capfd.readouterr().err
    assert said.index("out of memory; looking for what would fit") < said.index("\nfits: ")
    assert "weights=bfloat16  (" in said
    assert "drivesim plan rollout start=cut_in" in said
    assert len(advised) == 1


def test_another_error_of_a_training_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cli, "_source", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        drivesim("train", *TINY_AUTOENCODER, "out=run")


def test_of_several_jobs_only_the_way_to_a_plan_is_told() -> None:
    said = advice.what_fits("train", ["-m", "seed=1,2"], "no memory", run=lambda _: pytest.fail("planned a sweep"))
    assert said == "drivesim plan train seed=1,2 prints the whole plan"


@pytest.mark.parametrize(
    ("experiment", "millions"),
    [
        # Stable Diffusion 1 with its text encoder, Stable Diffusion 2's, the x4 upscaler's U-Net: as published
        ("text/dreambooth", {"backbone": 859.5, "text_encoder": 123.1}),
        ("text/key_frames", {"backbone": 865.9, "text_encoder": 340.4}),
        ("text/upscaler", {"backbone": 473.4}),
    ],
)
def test_full_size_text_recipes_need_no_checkpoints_to_be_planned(
    monkeypatch: pytest.MonkeyPatch, experiment: str, millions: dict[str, float]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = blank_stage_parts(compose("train", [f"experiment={experiment}"]), recipe_that_writes)
    found = {name: sum(p.numel() for p in parts[name].parameters()) / 1e6 for name in millions}
    assert found == pytest.approx(millions, abs=0.06)


def test_a_full_size_text_recipe_is_planned_without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = plan_command(
        compose("plan", ["train", "experiment=text/image", "trainer.devices=1", "plan.hardware=h100"]),
        recipe_that_writes,
        Path("run"),
    )
    assert plan.memory_bytes > 2**34
    assert "the data are not there yet" in plan.text()
    assert "stable-diffusion-2-1-base cannot be had here: the sizes are those it was published with" in plan.text()


def test_a_personal_model_is_planned_before_its_pictures_are_there() -> None:
    plan = plan_command(
        compose("plan", ["train", "experiment=toytown_text/dreambooth", "plan.hardware=h100"]),
        recipe_that_writes,
        Path("run"),
    )
    for rows in (plan.flops, plan.time):
        names = {row.name: row.note for row in rows}
        assert names["4 class pictures"].startswith("16 x ")
        assert "validation batch" not in names, "none of a person's own pictures is held out"
    assert {row.name: row.note for row in plan.disk}["cache of pictures"] == "a picture"
    assert "the data are not there yet: caches are those of one picture, and their time is left out" in plan.notes
