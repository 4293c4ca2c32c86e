"""Runs of every text stage: one that was killed goes on to the same bytes, and one in bfloat16 learns the same."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from drivesim.core.picture import save_png
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.pictures import PictureFolder, PictureFolderConfig
from drivesim.data.source import ClipSource
from drivesim.toytown import TownConfig, write_nuscenes
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.fit import fit
from drivesim.train.stage import Batch, Stage
from tests.train.killing import killed_within
from tests.train.test_fit import losses, weights
from tests.train.tiny_text_training import STAGES, SUBJECTS, Beginnings, settings

KILLED_STEP, LAST_STEP = 2, 3


@dataclass(kw_only=True, slots=True, frozen=True)
class Runs:
    """A run of a stage in bfloat16 that was left in peace, and its folder as a kill in step 2 would have left it."""

    settings: Callable[[], TrainConfig]
    source: ClipSource
    whole: Path
    killed: Path


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[StageName], Runs]:
    root = tmp_path_factory.mktemp("runs")
    begin = Beginnings.write(root / "begin")
    write_nuscenes(TownConfig(num_scenes=2, duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128)), root / "town")
    held_out = ["toytown-0001"]
    town = NuScenesConfig(root=str(root / "town"), version="v1.0-toytown", val_scenes=held_out, captions=True)
    clips, pictures = make_source(town), _pictures(root / "subject")

    def made(stage: StageName) -> TrainConfig:
        config = settings(stage, begin, root / "cache", LAST_STEP)
        config.trainer.precision, config.trainer.picture_every = "bf16-mixed", LAST_STEP
        config.trainer.checkpoint_every = config.trainer.validate_every = KILLED_STEP
        return config

    def of(stage: StageName) -> Runs:
        runs = Runs(
            settings=lambda: made(stage),
            source=pictures if stage in SUBJECTS else clips,
            whole=root / stage.value,
            killed=root / f"{stage.value}_killed",
        )
        if not runs.whole.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Stage, "training_step", _copying(runs))
                fit(runs.settings(), runs.source, runs.whole)
        return runs

    return of


def _copying(runs: Runs) -> Callable[[Stage, Batch, int], torch.Tensor]:
    step_of = Stage.training_step

    def step(self: Stage, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.global_step == KILLED_STEP and not runs.killed.exists():
            shutil.copytree(runs.whole, runs.killed)
        return step_of(self, batch, batch_idx)

    return step


def _pictures(folder: Path) -> PictureFolder:
    noise = torch.rand(3, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    for number, picture in enumerate((noise * 255).byte().numpy()):
        save_png(folder / f"{number}.png", picture)
    return PictureFolder(PictureFolderConfig(root=str(folder), caption="a sks car"))


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_killed_run_goes_on_to_the_same_bytes(stage: StageName, runs_of: Callable[[StageName], Runs]) -> None:
    runs = runs_of(stage)
    assert (runs.killed / "checkpoints" / "last.ckpt").is_file()
    assert not (runs.killed / "model").exists()
    fit(runs.settings(), runs.source, runs.killed)
    assert sorted(losses(runs.whole)) == list(range(LAST_STEP))
    assert losses(runs.killed) == losses(runs.whole)
    assert weights(runs.killed / "model") == weights(runs.whole / "model") != {}


def test_a_run_that_was_killed_twice_goes_on_to_the_same_bytes(
    runs_of: Callable[[StageName], Runs], tmp_path: Path
) -> None:
    runs = runs_of(StageName.DREAMBOOTH_LORA)
    config = runs.settings()
    config.trainer.accumulate = 2
    for _ in range(2):  # the second time after the first batch of two since then
        with killed_within(KILLED_STEP):
            fit(config, runs.source, tmp_path / "killed")
    fit(config, runs.source, tmp_path / "killed")
    whole = fit(config, runs.source, tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert weights(tmp_path / "killed" / "model") == weights(whole) != {}


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_loss_in_bfloat16_is_nearly_that_in_float32(
    stage: StageName, runs_of: Callable[[StageName], Runs], tmp_path: Path
) -> None:
    runs = runs_of(stage)
    whole, exact = runs.settings(), {}
    whole.trainer.precision = "32-true"
    step_of = Stage.training_step

    def stops(self: Stage, batch: Batch, batch_idx: int) -> torch.Tensor:
        exact["loss"] = step_of(self, batch, batch_idx).item()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "training_step", stops)
        fit(whole, runs.source, tmp_path)
    first, *others = (float(loss) for _, loss in sorted(losses(runs.whole).items()))
    assert first == pytest.approx(exact["loss"], rel=0.05)
    assert first != pytest.approx(exact["loss"], rel=1e-6)
    assert all(map(math.isfinite, others))
