"""A training that is given more steps, or fewer, in the folder that it has begun."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from drivesim.core.files import read_json
from drivesim.data.module import DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.models.build import TemporalConfig
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.exported import RECORD
from drivesim.train.fit import fit
from drivesim.train.optim import LearningRate, OptimConfig, learning_rate_share
from drivesim.train.run_length import LENGTHS


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def config(init: Path, cache: Path, max_steps: int, schedule: LearningRate = LearningRate.CONSTANT) -> TrainConfig:
    return TrainConfig(
        stage=StageName.PREDICTION,
        name="tiny",
        init=str(init),
        size_hw=[32, 64],
        cache_dir=str(cache),
        temporal=TemporalConfig(num_frames=4, context_channels=8, feed_forward_mult=1),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=1, schedule=schedule),
        loader=DataModuleConfig(batch_size=2, num_val_items=2),
        trainer=TrainerConfig(
            max_steps=max_steps, checkpoint_every=2, progress=False, accelerator="cpu", picture_every=100
        ),
    )


def weights(model: Path) -> bytes:
    return (model / "temporal" / "diffusion_pytorch_model.safetensors").read_bytes()


def test_more_steps_are_those_of_a_run_that_was_as_long_from_the_beginning(
    image_model: Path, short_town: ClipSource, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a learning rate that does not depend on the length."""
    at_once = fit(config(image_model, cache, 4), short_town, tmp_path / "at_once")
    run = tmp_path / "run"
    short = weights(fit(config(image_model, cache, 2), short_town, run))
    assert (run / RECORD).is_file() and not (run / LENGTHS).exists()
    with caplog.at_level(logging.WARNING):
        longer = weights(fit(config(image_model, cache, 4), short_town, run))
    assert "was to end at step 2 and goes on from step 2 to 4" in caplog.text
    assert longer == weights(at_once) != short
    assert read_json(run / LENGTHS) == [{"until_step": 2, "max_steps": 2}]
    assert read_json(run / "run.json") == read_json(tmp_path / "at_once" / "run.json")
    assert (run / RECORD).is_file()


def test_steps_have_the_learning_rate_of_the_new_length_and_no_step_is_taken_back(
    image_model: Path, short_town: ClipSource, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    settings = config(image_model, cache, 2, LearningRate.COSINE)
    fit(settings, short_town, run)
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(optimizer: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    settings.trainer.max_steps = 8
    fit(settings, short_town, run)
    assert rates == pytest.approx([1e-3 * learning_rate_share(n, 8, settings.optim) for n in range(2, 8)])
    settings.trainer.max_steps = 6
    with pytest.raises(ValueError, match=r"trainer.max_steps=6, but .*run is at step 8 already; the fewest are 8"):
        fit(settings, short_town, run)
    assert read_json(run / LENGTHS) == [{"until_step": 2, "max_steps": 2}]


def test_another_length_and_another_seed_are_another_run(
    image_model: Path, short_town: ClipSource, cache: Path, tmp_path: Path
) -> None:
    settings = config(image_model, cache, 2)
    fit(settings, short_town, tmp_path / "run")
    settings.trainer.max_steps, settings.seed = 4, 9
    with pytest.raises(ValueError, match=r"holds another run \(max_steps 2 there, 4 here; seed 0 there, 9 here\)"):
        fit(settings, short_town, tmp_path / "run")
    assert (tmp_path / "run" / RECORD).is_file() and not (tmp_path / "run" / LENGTHS).exists()


def test_a_run_without_a_checkpoint_is_not_made_longer(
    image_model: Path, short_town: ClipSource, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit(config(image_model, cache, 2), short_town, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match="holds another run .max_steps 2 there, 4 here"):
        fit(config(image_model, cache, 4), short_town, run)
