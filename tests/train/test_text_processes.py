"""Text stages in two processes, one of them started as a person starts it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drivesim.families.folder import load_parts
from drivesim.train import stage as training
from drivesim.train.fit import fit
from tests.train import text_in_two_processes as both
from tests.train.tiny_text_training import SUBJECTS, Beginnings


def test_two_processes_train_one_model(tmp_path: Path, repo_root: Path) -> None:
    command = [
        "train", "experiment=toytown_text/key_frames", "init=toytown_text", "out=null",
        f"data.root={tmp_path / 'town'}", "data.town.num_scenes=1", "data.town.duration_s=3", "data.val_share=0",
        "data.town.size_hw=[32,64]", f"cache_dir={tmp_path / 'cache'}", "size_hw=[32,64]", "text_temporal.num_frames=4",
        "loader.batch_size=1", "weights=float32", "trainer.max_steps=2", "trainer.checkpoint_every=2",
        "trainer.log_every=1", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.progress=false",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-m", "drivesim.cli", *command],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "distributed_backend=gloo" in ended.stderr and "2 processes" in ended.stderr, ended.stderr[-2000:]
    (run,) = (tmp_path / "runs" / "train").iterdir()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["global_step"] == 2
    assert json.loads((run / "run.json").read_text())["devices"] == 2
    assert json.loads((run / "made_by.json").read_text())["command"] == shlex.join(["drivesim", *command])
    stack = load_parts(run / "model", ["temporal"])["temporal"]
    assert all(weight.isfinite().all() for weight in stack.parameters())
    assert stack.config.num_frames == 4


def test_two_processes_train_what_one_trains_with_both_their_batches(
    tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.write(tmp_path)
    begin, (clips, pictures) = Beginnings.write(tmp_path / "begin"), both.sources(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.train.text_in_two_processes", str(tmp_path)],
        cwd=repo_root, env=environment, capture_output=True, text=True, timeout=600, check=False,
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
