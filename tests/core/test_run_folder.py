"""A run folder tells what made it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from drivesim.core import run_folder
from drivesim.core.run_folder import claim_folder, commit, follow_claim, record_run


def test_config_command_versions_and_model_are_recorded(tmp_path: Path) -> None:
    command_line = ["drivesim", "rollout", "start=my photo.png"]
    record_run(tmp_path / "run", {"start": "my photo.png", "seed": 3}, command_line, fingerprint="abc")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {"start": "my photo.png", "seed": 3}
    origin = json.loads((tmp_path / "run" / "made_by.json").read_text())
    assert origin["command"] == "drivesim rollout 'start=my photo.png'"
    assert origin["model_fingerprint"] == "abc"
    assert origin["versions"]["torch"] != "not installed"


def test_another_run_is_told_by_the_keys_that_differ_alone(tmp_path: Path) -> None:
    held = {"optim": {"learning_rate": 0.0005, "clip_norm": 1.0}, "init": None, "seed": 0}
    claim_folder(tmp_path, held)
    claim_folder(tmp_path, held)
    with pytest.raises(ValueError) as refused:
        claim_folder(
            tmp_path, held | {"optim": {"learning_rate": 0.0001, "clip_norm": 1.0}, "init": {"a": 1}, "fps": 4}
        )
    told = "fps not said there, 4 here; init None there, {'a': 1} here; optim.learning_rate 0.0005 there, 0.0001 here"
    assert f"holds another run ({told}); choose" in str(refused.value)


def test_an_edited_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    module = tmp_path / "drivesim" / "core" / "run_folder.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(module))
    assert commit() is None  # no checkout at all
    git("init", "--quiet")
    assert commit() is None  # nothing committed yet
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    clean = commit()
    assert clean is not None and len(clean) == 40
    module.write_text("edited")
    assert commit() == f"{clean}+changes"


def test_what_a_living_process_is_writing_stays_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living = tmp_path / f".tmp-{os.getppid()}-last.ckpt"
    left = [tmp_path / f".tmp-{number}-last.ckpt" for number in (ended.pid, os.getpid(), "x")]
    for path in (living, *left):
        path.touch()
    claim_folder(tmp_path, {"seed": 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "run.json"]


def test_the_other_processes_of_a_run_wait_until_the_first_has_claimed_its_folder(tmp_path: Path) -> None:
    claimed = threading.Timer(0.3, claim_folder, (tmp_path, {"seed": 0}))
    claimed.start()
    follow_claim(tmp_path, {"seed": 0}, patience_s=60.0)
    claimed.join()
    with pytest.raises(ValueError, match="seed 0 there, 1 here.*same settings, and out=FOLDER on a disk that all"):
        follow_claim(tmp_path, {"seed": 1}, patience_s=0.0)
    with pytest.raises(ValueError, match="nobody has claimed it"):
        follow_claim(tmp_path / "elsewhere", {"seed": 0}, patience_s=0.0)
