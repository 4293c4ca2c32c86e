"""Tests of a model's inputs in one command: all inputs of both families, what is written, resumed and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.config import scene_paths
from drivesim.core.boxes import Boxes2D
from drivesim.core.files import read_json, read_rows
from drivesim.core.picture import save_png
from drivesim.evaluate.condition_use import Change
from drivesim.families.drive import DriveFacts
from drivesim.families.prompts import Prompts
from drivesim.sweep.condition_inputs import (
    DESIGN_INPUTS,
    GIVEN_INPUTS,
    MOTION_INPUT,
    Asked,
    Design,
    Given,
    mirrored,
    opposite,
    turning,
)
from drivesim.sweep.condition_run import Designer, run_condition_use
from drivesim.sweep.settings import ConditionUseConfig
from tests.command_line import drivesim
from tests.families.tiny_family import write_tiny_family
from tests.families.tiny_text import write_tiny_text

SCENES = ["cut_in", "junction", "night_follow"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "tiny", stages=False)


def design(**changes: object) -> Design:
    boxes = Boxes2D(
        xyxy_px=np.array([[4.0, 8.0, 20.0, 24.0]]), class_ids=np.array([0]), depth_m=np.array([9.0]),
        visibility=np.array([1.0]),
    )  # fmt: skip
    own = Design(name="a", size_hw=(32, 64), boxes=boxes, is_night=False, num_cars=1)
    return replace(own, **changes)  # type: ignore[arg-type]


def test_opposites_are_what_they_say_and_undo_themselves() -> None:
    own = design()
    np.testing.assert_array_equal(mirrored(own).boxes.xyxy_px, [[44.0, 8.0, 60.0, 24.0]])
    np.testing.assert_array_equal(mirrored(mirrored(own)).boxes.xyxy_px, own.boxes.xyxy_px)
    asked = Asked(prompt="a drive at night, left turn")
    assert opposite(asked).prompt == "a drive at day, right turn"
    assert opposite(opposite(asked)) == asked
    plain = Asked(prompt="a nightly drive")
    assert opposite(plain) is plain


def test_what_is_not_there_is_left_as_it_is() -> None:
    nothing = design(boxes=Boxes2D.empty(), is_night=None, num_cars=None)
    for tested in DESIGN_INPUTS:
        assert tested.zeroed(nothing) is nothing
        assert tested.shuffled(nothing, nothing) is nothing
    assert mirrored(nothing) is nothing
    turned = MOTION_INPUT.swapped(Given(name="a", latents_CHW=torch.ones(4, 2, 2), drive=DriveFacts(motion=turning(0))))
    assert turned.drive.motion == turning(1) and MOTION_INPUT.zeroed(turned).drive == DriveFacts()
    assert MOTION_INPUT.shuffled(turned, turned) is turned
    unknown = Given(name="a", latents_CHW=torch.ones(4, 2, 2), drive=DriveFacts())
    assert GIVEN_INPUTS[1].zeroed(unknown) is unknown and GIVEN_INPUTS[1].swapped(unknown) is unknown


def test_a_digest_changes_with_every_input_and_nothing_else() -> None:
    designs = [design(), design(is_night=True), design(num_cars=2), design(boxes=Boxes2D.empty()), mirrored(design())]
    assert len({item.sha256() for item in designs}) == len(designs)
    assert design().sha256() == design().sha256()
    latents = torch.arange(16.0).reshape(4, 2, 2)
    givens = [
        Given(name="a", latents_CHW=value, drive=DriveFacts()) for value in (latents, latents.flip(-1), latents * 0)
    ]
    givens += [replace(givens[0], drive=DriveFacts(motion=turning(index))) for index in (0, 1)]
    assert len({item.sha256() for item in givens}) == 5


def test_every_input_of_a_driving_model_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write_tiny_family(tmp_path / "told", ego_motion=True), tmp_path / "use"
    typed = ["evaluate", f"condition_use.start=[{','.join(SCENES)}]", f"condition_use.model={model}", f"out={out}"]
    assert drivesim(*typed, "condition_use.steps=1") == 0
    shown = capsys.readouterr().out
    inputs = ["boxes", "night", "number of cars", "given frame", "night of what follows", "motion"]
    rows = read_rows(out / "rows.jsonl")
    assert [row["input"] for row in rows if row["change"] == "swapped"] == inputs
    assert {row["num_items"] for row in rows} == {3}
    assert all(name in shown for name in inputs) and f"report: {out / 'report.html'}" in shown
    found = read_json(out / "condition_use.json")
    assert found["rows"] == rows
    assert found["card"]["sampling"]["design"]["steps"] == 1
    assert list(found["card"]["items"]) == [scene_paths(name)[0].stem for name in SCENES]
    for suffix in ("csv", "md", "tex"):
        assert "between seeds" in (out / f"table.{suffix}").read_text()
    page = (out / "report.html").read_text()
    assert page.count("<img") == 3 * len(inputs) and "number of cars: as it is, swapped" in page
    assert (out / "config.yaml").is_file()


def test_a_stopped_test_goes_on_with_the_same_numbers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ConditionUseConfig(start=SCENES, model=str(model), steps=1)
    made = 0
    whole = Designer.__call__

    def counting(self: Designer, inputs: Design, seed: int) -> np.ndarray:
        nonlocal made
        made += 1
        if made == 5 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return whole(self, inputs, seed)

    monkeypatch.setattr(Designer, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        run_condition_use(config, tmp_path / "out", scene_paths)
    (tmp_path / "again").touch()
    rows = run_condition_use(config, tmp_path / "out", scene_paths).rows
    first = made
    assert run_condition_use(config, tmp_path / "out", scene_paths).rows == rows
    assert made == first, "outputs that are there were made again"
    made = 0
    assert run_condition_use(config, tmp_path / "other", scene_paths).rows == rows
    assert made == first - 1  # the interrupted one counted twice


def test_pictures_have_given_frames_alone(model: Path, tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        save_png(tmp_path / f"{index}.png", pixels)
    config = ConditionUseConfig(start=[f"{tmp_path}/{index}.png" for index in range(3)], model=str(model), steps=1)
    found = run_condition_use(config, tmp_path / "out", scene_paths)
    assert {row.input for row in found.rows} == {"given frame"}
    assert any("0 of the starts are scenes" in note for note in found.notes)
    assert any(note.startswith("night of what follows, zeroed, shuffled, swapped: not told") for note in found.notes)


def test_a_prompt_is_taken_away_shuffled_and_swapped(text_model: Path, tmp_path: Path) -> None:
    prompts = ["a drive by day", "a drive at night", "a car on the left"]
    config = ConditionUseConfig(prompts=prompts, model=str(text_model), steps=1)
    found = run_condition_use(config, tmp_path, scene_paths)
    assert [(row.input, row.change, row.num_items) for row in found.rows] == [
        ("prompt", change, 3) for change in Change
    ]
    assert all(row.between_inputs > 0 for row in found.rows)
    assert Prompts.unsaid().without_subject() == [""]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (["start=[cut_in]"], "1 start; it takes at least 3"),
        (["start=[cut_in,cut_in,junction]"], "two starts are called cut_in"),
        (["start=[cut_in,junction,nowhere]"], "no scene file nowhere"),
        (["start=[cut_in,junction,crowd]", "seeds=[1]"], "give at least 2 different ones"),
        (["start=[cut_in,junction,crowd]", "model=toytown_text"], "give condition_use.prompts for it"),
        (["prompts=[a,b,c]", "model=toytown"], "give condition_use.start for it"),
        (["prompts=[a,b]"], "condition_use.prompts: 2; it takes at least 3"),
        (["prompts=[a,b,b]"], "each once"),
        (["prompts=[a,b,c]", "is_night=true"], "a prompt says it in words"),
        (["prompts=[a,b,c]", "start=[cut_in]"], "give one"),
        (["start=[cut_in]", "device=abacus"], "device=abacus"),
    ],
)
def test_what_cannot_be_tested_is_refused(
    keys: list[str], complaint: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if any(key.startswith(("model", "prompts")) for key in keys) else [f"condition_use.model={model}"]
    assert drivesim("evaluate", *own, *(f"condition_use.{key}" for key in keys), f"out={tmp_path}") == 2
    assert complaint in capsys.readouterr().err


def test_videos_beside_it_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert drivesim("evaluate", "condition_use.start=[cut_in]", "real=x", f"out={tmp_path}") == 2
    assert "leave real out" in capsys.readouterr().err
