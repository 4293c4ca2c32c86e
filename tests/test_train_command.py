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
