"""A text stage in two processes, started as a person starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from drivesim.families.folder import load_parts


def test_two_processes_train_one_model(tmp_path: Path, repo_root: Path) -> None:
    command = [
        "train", "experiment=toytown_text/key_frames", "init=toytown_text", f"out={tmp_path / 'run'}",
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
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["global_step"] == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["devices"] == 2
    stack = load_parts(tmp_path / "run" / "model", ["temporal"])["temporal"]
    assert all(weight.isfinite().all() for weight in stack.parameters())
    assert stack.config.num_frames == 4
