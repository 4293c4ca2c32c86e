"""`drivesim train` on the command line: what is told before, and beside, the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import drivesim


@pytest.mark.usefixtures("in_an_empty_folder")
def test_an_init_that_is_no_model_is_refused_before_a_town_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("train", "experiment=toytown/image", "init=x", "data.root=town", "out=run") == 2
    assert "no model folder 'x'" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize(
    ("experiment", "key", "makes"),
    [
        ("toytown/image", "init=runs/toytown/autoencoder_whole/model", "toytown/autoencoder_whole"),
        ("toytown/autoencoder", "joins=[runs/toytown/prediction/model]", "toytown/prediction"),
    ],
)
def test_a_model_that_is_not_there_is_told_with_the_recipe_that_makes_it(
    experiment: str, key: str, makes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drivesim("train", f"experiment={experiment}", key, "data.root=town", "out=run") == 2
    assert f"no such model folder yet; drivesim train experiment={makes} makes it" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_training_of_nothing_in_particular_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("train", f"out={tmp_path / 'run'}") == 2
    assert "train what? experiment=FAMILY/STAGE" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
