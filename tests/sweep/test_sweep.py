"""A whole sweep of a tiny family: cells, one card, the same bytes after a stop, and what it leaves for readers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.core.files import read_rows
from drivesim.core.picture import save_png
from drivesim.core.seeds import numpy_generator
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.families.driving import DrivingModel
from drivesim.families.stages import StagesConfig
from drivesim.rollout.pools import PoolConfig
from drivesim.sweep import run as sweep_run
from drivesim.sweep.report import write_sweep
from drivesim.sweep.run import Sweep, SweepInputs, run_sweep
from drivesim.sweep.settings import SweepConfig
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_family import write_tiny_family


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two start pictures, and real videos."""
    root = tmp_path_factory.mktemp("sweep")
    write_tiny_family(root / "model")
    for name in ("one", "two"):
        rng = numpy_generator("start", name)
        save_png(root / f"{name}.png", rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    for index in range(3):
        rng = numpy_generator("real", index)
        with VideoWriter(root / "real" / f"drive_{index}.mp4", 4.0) as writer:
            for _ in range(9):
                writer.write(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    return root


def config(place: Path) -> SweepConfig:
    return SweepConfig(
        start=[str(place / "one.png"), str(place / "two.png")],
        model=[str(place / "model")],
        steps=[1, 2],
        seed=[0, 1],
        seconds=[2.5, 1.25],
        futures=1,
    )


def inputs(place: Path, **settings: object) -> SweepInputs:
    protocol = ProtocolConfig(num_frames=4)
    controls = ControlsConfig(noisy=False)
    own = {"protocol": protocol, "controls": controls, "drift": DriftConfig(enabled=False), "diversity": False}
    evaluation = EvaluateConfig(**(own | settings))  # type: ignore[arg-type]
    return SweepInputs(settings=evaluation, real=str(place / "real"), pool=PoolConfig(), find_scene=Path)


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Sweep, Path]:
    out = place / "out"
    return run_sweep(config(place), inputs(place), out), out


def whole_rows(sweep: Sweep) -> list[str]:
    return [str(row) for row in sweep.rows]


def videos(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("rollouts/**/*.mp4"))}


def test_every_setting_seed_and_horizon_has_a_score_under_one_card(finished: tuple[Sweep, Path]) -> None:
    sweep, out = finished
    assert sweep.failures == sweep.notes == []
    places = {(row.steps, row.seed, row.end_s) for row in sweep.rows if row.row == "generated"}
    assert places == {(steps, seed, end_s) for steps in (1, 2) for seed in (0, 1) for end_s in (1.25, 2.5)}
    cards = {json.loads(path.read_text())["card_sha256"] for path in out.glob("scores/*/scores.json")}
    assert len(cards) == 1 and len(list(out.glob("scores/*"))) == 4
    assert len(videos(out)) == 8  # horizons share their rollouts
    assert {row.row for row in sweep.rows} >= {"frozen start frame", "real against real"}
    # A clip of 4 frames after the given one in 1.25 s, two in 2.5 s; two starts.
    clip_rows = [row for row in sweep.rows if row.row == "generated" and "clip" in row.metric]
    assert {(row.end_s, row.num_left) for row in clip_rows} == {(1.25, 2), (2.5, 4)}


def test_a_finished_sweep_makes_and_reads_nothing_again(
    finished: tuple[Sweep, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, out = finished

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was done again")

    monkeypatch.setattr(DrivingModel, "predict", never)
    monkeypatch.setattr(sweep_run, "evaluate", never)
    assert whole_rows(run_sweep(config(place), inputs(place), out)) == whole_rows(sweep)


def test_a_stopped_sweep_goes_on_to_the_same_bytes_and_rows(
    finished: tuple[Sweep, Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, out = finished
    predict, calls = DrivingModel.predict, []

    def stopped(self: DrivingModel, *arguments: object, **more: object) -> torch.Tensor:
        calls.append(self)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return predict(self, *arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DrivingModel, "predict", stopped)
        run_sweep(config(place), inputs(place), tmp_path)
    done = len(read_rows(tmp_path / "cells.jsonl"))
    assert 0 < done < 4
    assert whole_rows(run_sweep(config(place), inputs(place), tmp_path)) == whole_rows(sweep)
    assert videos(tmp_path) == videos(out)


def test_another_protocol_scores_anew_from_the_same_rollouts(
    finished: tuple[Sweep, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = finished
    monkeypatch.setattr(DrivingModel, "predict", None)  # nothing is rolled out
    one = replace(config(place), steps=[1], seed=[0])
    before = len(read_rows(out / "cells.jsonl"))
    again = run_sweep(one, inputs(place, protocol=ProtocolConfig(num_frames=4, spacing_frames=2)), out)
    assert len(read_rows(out / "cells.jsonl")) == before + 1
    clips = {row.num_left for row in again.rows if row.row == "generated" and "clip" in row.metric}
    assert clips == {2, 6}


def test_readers_get_rows_a_table_plots_and_one_page_that_needs_no_other_file(
    finished: tuple[Sweep, Path], tmp_path: Path
) -> None:
    sweep, _ = finished
    table = write_sweep(sweep, ReportConfig(title="Steps & seeds", num_generated=4), "real", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "rows.jsonl", "table.csv", "table.md", "table.tex", "plots.png", "report.html",
    }  # fmt: skip
    settings = [cells[:5] for cells in table.cells if cells[0] == "model"]
    assert settings == [["model", steps, "own", span, "2"] for steps in "12" for span in ("0-1.25 s", "0-2.5 s")]
    assert len(read_rows(tmp_path / "rows.jsonl")) == len(sweep.rows)
    page = (tmp_path / "report.html").read_text()
    assert "Steps &amp; seeds" in page
    assert page.count("<video") == 4 and page.count("data:video/mp4;base64,") == 4
    assert "http://" not in page and "https://" not in page and 'src="data:image/png' in page


def test_starts_of_one_name_and_missing_models_are_refused_before_anything_is_made(place: Path, tmp_path: Path) -> None:
    twice = replace(config(place), start=[str(place / "one.png")] * 2)
    with pytest.raises(ValueError, match="two starts are called one"):
        run_sweep(twice, inputs(place), tmp_path)
    with pytest.raises(ValueError, match="no model folder 'nowhere'"):
        run_sweep(replace(config(place), model=["nowhere"]), inputs(place), tmp_path)
    assert not (tmp_path / "rollouts").exists()


def test_rollouts_that_hold_no_clip_are_refused_before_anything_is_made(place: Path, tmp_path: Path) -> None:
    short = replace(config(place), seconds=[0.5, 1.0])
    with pytest.raises(ValueError, match=r"takes 5 frames at 4 a second: sweep\.seconds=\[1\.25\] or more"):
        run_sweep(short, inputs(place, protocol=ProtocolConfig(num_frames=4, fps=4.0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_too_slow_for_the_protocol_are_refused_before_anything_is_made(place: Path, tmp_path: Path) -> None:
    slow = write_tiny_cascade(tmp_path / "slow")  # key frames at 1 a second, 2 with those in between
    changes = {"start": [str(place / "one.png")], "model": [str(place / "model"), str(slow)], "seconds": [6.0]}
    key_frames = replace(config(place), **changes, stages=StagesConfig(interpolate=False))  # type: ignore[arg-type]
    asked = ProtocolConfig(num_frames=4, fps=2.0)
    with pytest.raises(ValueError, match=r"protocol.fps=2, .*slow with these stages have 1 frames a second; give prot"):
        run_sweep(key_frames, inputs(place, protocol=asked), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sweep_run._check_rate(slow, StagesConfig(), asked)
    sweep_run._check_rate(slow, StagesConfig(interpolate=False), replace(asked, fps=1.05))


def test_futures_that_fail_are_named_and_the_rest_is_scored(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = DrivingModel.predict

    def failing(self: DrivingModel, given: torch.Tensor, **more: object) -> torch.Tensor:
        if self.predict_sampling.steps == 2:
            raise RuntimeError("out of ideas")
        return predict(self, given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(DrivingModel, "predict", failing)
    sweep = run_sweep(replace(config(place), seed=[0]), inputs(place), tmp_path)
    assert {row.steps for row in sweep.rows} == {1}
    assert [text for text in sweep.failures if "one: future 0: RuntimeError: out of ideas" in text]
    assert any("nothing to score" in text for text in sweep.failures)
