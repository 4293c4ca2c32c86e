"""Text stages in two processes, one of them started as a person starts it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drivesim.families.folder import load_parts
from drivesim.train import stage as training
from drivesim.train.fit import fit
from tests.train import text_in_two_processes as both
from tests.train.tiny_text_training import SUBJECTS, Beginnings


def short_training(folder: Path) -> list[str]:
    """A command that writes below a folder all that it writes but its run."""
    return [
        "train", "experiment=toytown_text/key_frames", "init=toytown_text",
        f"data.root={folder / 'town'}", "data.town.num_scenes=1", "data.town.duration_s=3", "data.val_share=0",
        "data.town.size_hw=[32,64]", f"cache_dir={folder / 'cache'}", "size_hw=[32,64]", "text_temporal.num_frames=4",
        "loader.batch_size=1", "weights=float32", "trainer.max_steps=2", "trainer.checkpoint_every=2",
        "trainer.log_every=1", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.progress=false",
    ]  # fmt: skip


def environment(repo_root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def check_run(run: Path, command: list[str]) -> None:
    """Both processes have trained, and the first has written down what was typed."""
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["global_step"] == 2
    assert json.loads((run / "run.json").read_text())["devices"] == 2
    assert json.loads((run / "made_by.json").read_text())["command"] == shlex.join(["drivesim", *command])
    stack = load_parts(run / "model", ["temporal"])["temporal"]
    assert all(weight.isfinite().all() for weight in stack.parameters())
    assert stack.config.num_frames == 4


def test_two_processes_train_one_model(tmp_path: Path, repo_root: Path) -> None:
    command = [*short_training(tmp_path), "out=null"]
    ended = subprocess.run(
        [sys.executable, "-m", "drivesim.cli", *command],
        cwd=tmp_path, env=environment(repo_root), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "training in 2 processes by gloo" in ended.stderr, ended.stderr[-2000:]
    assert "deprecated" not in ended.stderr
    (run,) = (tmp_path / "runs" / "train").iterdir()
    check_run(run, command)


def test_two_machines_train_one_model(tmp_path: Path, repo_root: Path) -> None:
    command = [*short_training(tmp_path), "trainer.num_nodes=2", f"out={tmp_path / 'run'}"]
    with socket.socket() as free:
        free.bind(("", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = []
    for number in (1, 0):  # the first machine comes last
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "drivesim.cli", *command],
                cwd=tmp_path,
                env=environment(repo_root) | place | {"NODE_RANK": str(number)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )  # fmt: skip
        )
        time.sleep(2.0)
    for process in processes:
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, said[-2000:]
    check_run(tmp_path / "run", command)


def test_two_processes_train_what_one_trains_with_both_their_batches(
    tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.write(tmp_path)
    begin, (clips, pictures) = Beginnings.write(tmp_path / "begin"), both.sources(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.train.text_in_two_processes", str(tmp_path)],
        cwd=repo_root, env=environment(repo_root), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "distributed_backend=gloo" in ended.stderr and "2 processes" in ended.stderr, ended.stderr[-2000:]

    generator = training.torch_generator

    def with_the_ranks_noise(seed: int, use: str, step: int, *place: int) -> torch.Generator:
        return generator(seed, use, step, *reversed(place))  # its second batch is the other process's

    monkeypatch.setattr(training, "torch_generator", with_the_ranks_noise)
    for stage in both.STAGES:
        made = both.config(stage, tmp_path, begin)
        made.trainer.accumulate = 2
        one = fit(made, pictures if stage in SUBJECTS else clips, tmp_path / "one" / stage.value)
        two, files = tmp_path / "two" / stage.value / "model", [p.relative_to(one) for p in one.rglob("*.safetensors")]
        assert files
        for file in files:
            torch.testing.assert_close(load_file(two / file), load_file(one / file), rtol=1e-5, atol=1e-7)
