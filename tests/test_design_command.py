"""`drivesim design` with real, tiny parts: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivesim.core.picture import load_picture
from tests.command_line import drivesim
from tests.families.tiny_family import write_tiny_family

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


def test_a_scene_becomes_frames_with_the_boxes_over_a_copy(model: Path, tmp_path: Path) -> None:
    assert drivesim("design", "scene=cut_in", f"model={model}", "num_frames=2", "out=frames") == 0
    out = tmp_path / "frames"
    frames = [load_picture(out / f"frame_{index:03d}.png") for index in (0, 1)]
    assert frames[0].shape == (32, 64, 3)
    assert (frames[0] != frames[1]).any(), "both frames are the same"
    assert load_picture(out / "frame_000_boxes.png").shape == (128, 256, 3)
    assert yaml.safe_load((out / "config.yaml").read_text())["scene"] == "cut_in"
    origin = json.loads((out / "made_by.json").read_text())
    assert "scene=cut_in" in origin["command"]
    assert len(origin["model_fingerprint"]) == 64


def test_another_sampler_keeps_the_models_guidance(model: Path, tmp_path: Path) -> None:
    command = ["design", "scene=cut_in", f"model={model}", "num_frames=1", "sampler.steps=2"]
    own = json.loads((model / "model_index.json").read_text())["design_sampling"]
    assert own["guidance"] != 1 and own["steps"] == 2
    sampled = {
        "own": [],
        "ddim": ["sampler=ddim"],
        "ddim_guided": ["sampler=ddim", f"sampler.guidance={own['guidance']}"],
        "ddim_unguided": ["sampler=ddim", "sampler.guidance=1"],
    }
    for out, overrides in sampled.items():
        assert drivesim(*command[:-1], *overrides, command[-1], f"out={out}") == 0
    assert drivesim(*command[:-1], "out=left_out") == 0
    frames = {out: load_picture(tmp_path / out / "frame_000.png") for out in (*sampled, "left_out")}
    assert (frames["ddim"] == frames["ddim_guided"]).all()
    assert (frames["ddim"] != frames["ddim_unguided"]).any()
    assert (frames["ddim"] != frames["own"]).any()
    assert (frames["own"] == frames["left_out"]).all()
    models = [json.loads((tmp_path / out / "made_by.json").read_text()) for out in ("own", "left_out", "ddim")]
    assert models[0]["model_fingerprint"] == models[1]["model_fingerprint"] != models[2]["model_fingerprint"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "euler"}, ["unknown sampler 'euler'", "valid: ddim, unipc, dpm_solver"]),
        ({"guidence": 2.0}, ["unknown keys guidence", "valid: sampler, steps, eta, guidance"]),
        ({"steps": 0}, ["steps: 0"]),
        ({"steps": "many"}, ["design_sampling"]),
    ],
)
def test_a_model_with_sampling_that_is_not_known_is_refused(
    change: dict[str, Any], words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(model, tmp_path / "other")) / "model_index.json"
    index = json.loads(path.read_text())
    index["design_sampling"] |= change
    path.write_text(json.dumps(index))
    assert drivesim("design", "scene=cut_in", "model=other") == 2
    err = capsys.readouterr().err
    assert all(word in err for word in ["design_sampling in model_index.json", *words]), err


def test_frames_of_a_folder_are_of_one_scene_model_and_seed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["design", "scene=cut_in", f"model={model}", "out=frames"]
    assert drivesim(*command, "num_frames=1") == 0
    before = (tmp_path / "frames" / "frame_000.png").read_bytes()
    assert drivesim(*command, "num_frames=2") == 0
    assert (tmp_path / "frames" / "frame_000.png").read_bytes() == before
    config = (tmp_path / "frames" / "config.yaml").read_text()
    for change, named in (
        ("seed=1", "seed 0 there, 1 here"),
        ("sampler.steps=1", "model"),
        ("scene=crowd", "scene 'cut_in'"),
    ):
        assert drivesim(*command, change) == 2
        assert named in capsys.readouterr().err
    assert (tmp_path / "frames" / "config.yaml").read_text() == config
