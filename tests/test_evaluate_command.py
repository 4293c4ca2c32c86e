"""`drivesim evaluate` as a sweep and with claims, by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.config import compose
from drivesim.core.files import read_rows
from drivesim.core.picture import save_png
from drivesim.core.seeds import numpy_generator
from drivesim.core.video_writing import VideoWriter
from drivesim.sweep.settings import Measure
from tests.families.tiny_family import write_tiny_family
from tests.test_cli import drivesim


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def test_a_sweep_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_family(tmp_path / "model")
    rng = numpy_generator("sweep")
    save_png(tmp_path / "start.png", rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    for index in range(2):
        with VideoWriter(tmp_path / "real" / f"{index}.mp4", 4.0) as writer:
            for _ in range(9):
                writer.write(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    command = [
        "evaluate", "sweep.start=[start.png]", "sweep.model=[model]", "sweep.steps=[1,2]", "sweep.seconds=[2.5]",
        "sweep.futures=1", "real=real", "out=sweep", "protocol.num_frames=4", "drift.enabled=false",
    ]  # fmt: skip
    assert drivesim(*command) == 0
    out = capsys.readouterr().out
    assert "| model | 1 | own | 0-2.5 s |" in out and "report: sweep/report.html" in out
    assert len(read_rows(tmp_path / "sweep" / "cells.jsonl")) == 2
    assert (tmp_path / "sweep" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sweep.start=[cut_in]"], "no value for real; a sweep is scored against real videos"),
        (["sweep.start=[cut_in]", "real=x", "generated=y"], "leave generated out"),
        (["sweep.start=[cut_in]", "real=x", "protocols=[keyframes]", "force=true"], "leave force, protocols out"),
        (
            ["claims=paper", "generated=x", "real=y"],
            "a test of claims, which makes its own videos, does not read generated",
        ),
        (["compare=[a,b]", "claims=paper", "pool.workers=2"], "does not read claims, pool; leave claims, pool out"),
        (["generated=x", "real=y", "pool=ray"], "an evaluation of videos does not read pool"),
        (["sweep.start=[cut_in]", "real=x", "sweep.device=abacus"], "device=abacus"),
        (["sweep.start=[cut_in]", "real=x", "sweep.sed=[1]"], "did you mean 'seed'?"),
        (["claims=paper", "claims.only=[nothing]"], "claims.only: unknown nothing"),
    ],
)
def test_a_sweep_or_claims_that_cannot_be_run_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drivesim("evaluate", *arguments) == 2
    assert complaint in capsys.readouterr().err


def test_every_training_of_the_paper_s_claims_composes_and_differs_from_its_pair_by_what_is_claimed() -> None:
    claims = compose("evaluate", ["claims=paper"]).claims
    assert len(claims.seeds) == 3 and len(claims.claims) == 5
    config = {training.name: compose("train", [*training.overrides, "init=x"]) for training in claims.trainings}
    for name, change in (("prediction_scratch", "spatial"), ("prediction_attention", "time_kernel")):
        pair = (config["prediction"], config[name])
        assert getattr(pair[0].temporal, change) != getattr(pair[1].temporal, change)
        setattr(pair[1].temporal, change, getattr(pair[0].temporal, change))
        assert pair[0] == pair[1], "an arm differs from its pair by more than the claim"
    for claim in claims.claims:
        steps = {config[arm.training].trainer.max_steps for arm in claim.arms}
        assert len(steps) == 1, f"{claim.name}: arms of different length"
    assert {Measure(claim.measure) for claim in claims.claims} == set(Measure)
