"""drivesim rollout family=text, from the command line to the run folder, and from Python."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from drivesim import Simulator
from drivesim.core.motion import MotionSegment
from drivesim.core.picture import load_picture, save_png
from drivesim.core.video import probe
from drivesim.data import make_source
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.rollout_folder import given_frames
from drivesim.evaluate_command import CommandLine, without_given_frames
from drivesim.families.prompts import Prompts
from drivesim.families.stages import StagesConfig, TextStagesConfig
from drivesim.families.text import TextModel
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from tests.command_line import drivesim
from tests.families.tiny_family import write_tiny_family
from tests.families.tiny_text import SIZE_HW, write_tiny_text

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "model")


def test_a_prompt_becomes_a_video_in_a_run_folder(folder: Path, tmp_path: Path) -> None:
    command = ["rollout", "family=text", f"model={folder}", "prompt=cars at night", "preview=true", "out=run"]
    assert drivesim(*command) == 0
    run = tmp_path / "run"
    info = probe(run / "future_000.mp4")
    assert (info.num_frames, info.fps, info.size_hw) == (9, 4.0, (64, 128))
    identity = json.loads((run / "run.json").read_text())
    assert identity["prompts"] == ["cars at night"] and identity["start_sha256"] is None
    assert load_picture(run / "preview.png").shape[0] == SIZE_HW[0]
    before = (run / "future_000.mp4").read_bytes()
    assert drivesim(*command) == 0, "a finished run is gone on with"
    assert (run / "future_000.mp4").read_bytes() == before


def test_another_prompt_in_the_same_folder_is_another_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rollout", "family=text", f"model={folder}", "stages.upsampling=NONE", "out=run"]
    picture = np.random.default_rng(0).integers(0, 255, (2 * SIZE_HW[0], 2 * SIZE_HW[1], 3), dtype=np.uint8)
    save_png(tmp_path / "start.png", picture)
    assert drivesim(*command, "prompts=[a car,night]", "start=start.png", "seconds=1.25") == 0
    assert probe(tmp_path / "run" / "future_000.mp4").num_frames == 5
    assert load_picture(tmp_path / "run" / "start.png").shape == (*SIZE_HW, 3)
    assert drivesim(*command, "prompt=a car") == 2
    assert "holds another run" in capsys.readouterr().err
    assert drivesim(*command, "out=other", "prompt=") == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_stopped_video_goes_on_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    start = Start(name="text", frame_HWC=None, conditions=Prompts(prompts=["a car", "night"]))
    config = RolloutConfig(futures=1, seconds=None)
    model = TextModel.from_pretrained(folder, key_frames=4)
    (whole,) = run_rollout(config, start, lambda: model, tmp_path / "whole")
    assert whole.ok and whole.frames == 13, whole.error

    def interrupt(_: object) -> None:
        heard.append(1)
        if len(heard) == 3:
            raise KeyboardInterrupt

    heard: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_rollout(config, start, lambda: model, tmp_path / "stopped", interrupt)
    assert list(tmp_path.glob("stopped/.parts/*/state.safetensors")), "the test wants something to go on from"
    calls: list[str] = []
    model.on_step = lambda step: calls.append(step.stage)
    (resumed,) = run_rollout(config, start, lambda: model, tmp_path / "stopped")
    assert resumed.sha256 == whole.sha256
    assert "key frames" not in calls, "key frames that were there were made again"


@pytest.mark.parametrize(
    ("stage", "layer"),
    [
        ("prediction", "image.unet.conv_out"),
        ("interpolation", "interpolation_unet.conv_out"),
        ("decoding", "video_decoder.decoder.conv_out"),
        ("upsampling", "upscaler.unet.conv_out"),
        ("decoding of what was upscaled", "upscaler.vae.decoder.conv_out"),
    ],
)
def test_numbers_that_are_not_finite_name_the_stage_and_the_frame(
    stage: str, layer: str, folder: Path, tmp_path: Path
) -> None:
    model = TextModel.from_pretrained(folder)
    attrgetter(layer)(model.parts).bias.data.fill_(float("nan"))
    start = Start(name="text", frame_HWC=None, conditions=Prompts(prompts=["night"]))
    (row,) = run_rollout(RolloutConfig(futures=1, seconds=None), start, lambda: model, tmp_path)
    first = "frame 1 (at 0.25 s)" if stage == "interpolation" else "frame 0 (at 0.00 s)"
    assert not row.ok and f"{stage}: {first} is not finite" in str(row.error)


def test_a_simulator_makes_videos_of_prompts_and_shows_its_steps(folder: Path) -> None:
    sim = Simulator.from_pretrained(folder)
    heard: list[str] = []
    frames = np.concatenate(list(sim.rollout(prompt="night", seed=3, on_step=lambda step: heard.append(step.stage))))
    assert frames.shape == (9, *sim.size_hw, 3) and heard
    again = np.concatenate(list(sim.rollout(prompt="night", seed=3)))
    assert np.array_equal(frames, again)
    assert not np.array_equal(frames, np.concatenate(list(sim.rollout(prompt="night", seed=4))))
    with pytest.raises(ValueError, match="needs a prompt"):
        next(sim.rollout(seed=3))


def test_steps_are_told_to_the_listener_of_their_own_rollout(folder: Path) -> None:
    sim = Simulator.from_pretrained(folder)
    alone: list[str] = []
    list(sim.rollout(prompt="night", seed=3, on_step=lambda step: alone.append(step.stage)))
    heard: dict[int, list[str]] = {3: [], 4: []}
    videos = [
        sim.rollout(prompt="night", seed=seed, on_step=lambda step, own=own: own.append(step.stage))  # type: ignore[misc]
        for seed, own in heard.items()
    ]
    for _ in zip(*videos, strict=True):  # in turn
        pass
    assert heard[3] == heard[4] == alone


def test_what_another_family_takes_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, driving = (Simulator.from_pretrained(model) for model in (folder, write_tiny_family(tmp_path / "driving")))
    with pytest.raises(ValueError, match="is_night is for driving models; say it in the prompt"):
        next(text.rollout(prompt="night", is_night=True))
    with pytest.raises(ValueError, match="motion is for driving models; say it in the prompt"):
        next(text.rollout(prompt="night", motion=[MotionSegment(seconds=1, speed_mps=1)]))
    start = np.zeros((*driving.size_hw, 3), np.uint8)
    for said in ({"prompt": "night"}, {"negative_prompt": "night"}):
        with pytest.raises(ValueError, match="driving model, which takes no prompt"):
            next(driving.rollout(start, seconds=1, **said))
    with pytest.raises(ValueError, match="takes stages=TextStagesConfig"):
        Simulator.from_pretrained(folder, stages=StagesConfig())
    with pytest.raises(ValueError, match="takes stages=StagesConfig"):
        Simulator.from_pretrained(tmp_path / "driving", stages=TextStagesConfig())
    assert drivesim("design", "scene=cut_in", f"model={folder}", "out=designed") == 2
    assert "makes videos from prompts; scenes are for driving ones" in capsys.readouterr().err


def test_an_evaluation_of_videos_from_prompts_leaves_out_no_given_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "0").mkdir(parents=True)
    record = tmp_path / "run" / "0" / "run.json"
    assert given_frames("run") is None
    line = CommandLine(overrides=[], make_source=make_source, on_progress=print)
    for start, count in ((None, 0), ("ab", 1)):
        record.write_text(json.dumps({"start_sha256": start}))
        assert given_frames("run") == count
        (protocol,) = without_given_frames([ProtocolConfig()], "run", line)
        assert protocol.context_frames == count
    assert "no frame is left out as given (protocol.context_frames=0)" in capsys.readouterr().out
    record.write_text(json.dumps({"start_sha256": None}))
    line.overrides = ["protocol.context_frames=1"]
    assert without_given_frames([ProtocolConfig()], "run", line)[0].context_frames == 1
    (tmp_path / "run" / "1").mkdir()
    (tmp_path / "run" / "1" / "run.json").write_text(json.dumps({"start_sha256": "ab"}))
    assert given_frames("run") is None, "some were given a frame, some were not"
