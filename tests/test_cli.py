"""The command line with real, tiny parts: what it prints, writes, refuses, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from drivesim import cli
from drivesim.core.devices import devices
from drivesim.core.files import read_rows
from drivesim.core.picture import load_picture, save_png
from drivesim.core.seeds import numpy_generator
from drivesim.core.video import probe
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.rollout_folder import asked_motion
from drivesim.simulator import Simulator
from tests.command_line import drivesim
from tests.families.tiny_family import write_tiny_family

TOWN = [
    "data.town.num_scenes=2", "data.town.duration_s=4", "data.town.fps=4", "data.town.key_fps=4",
    "data.town.size_hw=[32,64]", "data.val_share=0",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


def noise_picture(path: Path, size_hw: tuple[int, int]) -> Path:
    save_png(path, numpy_generator("picture").integers(0, 256, (*size_hw, 3), dtype=np.uint8))
    return path


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim() == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("prepare", "train", "design", "rollout", "evaluate"))


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("rolout") == 2
    assert "did you mean 'rollout'?" in capsys.readouterr().err


def test_an_unknown_key_names_the_nearest_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("rollout", "start=x", "futurs=3") == 2
    err = capsys.readouterr().err
    assert "did you mean 'futures'?" in err
    assert "Traceback" not in err


def test_hydras_flags_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert drivesim("rollout", "start=x", "seconds=5", "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out)["seconds"] == 5
    assert drivesim("rollout", "--help") == 0
    assert "futures: 4" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "looking at a config has written something"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["design", "scene=cut_in", "num_frames=1"], 1),
        (["rollout", "start=cut_in", "seconds=1", "futures=1"], 1),
        (["rollout", "start=cut_in", "seconds=1", "futures=1", "pool.threads=2"], 2),
    ],
)
def test_a_frame_does_not_depend_on_the_threads_that_torch_happens_to_have(
    command: list[str], expected: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    start = Simulator.start

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return start(*args, **kwargs)

    monkeypatch.setattr(Simulator, "start", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert drivesim(*command, f"model={model}", "out=made") == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [expected]


@pytest.mark.parametrize("device", ["foo", "cuda:99", "gpu"])
@pytest.mark.parametrize(
    "command",
    [
        ["design", "scene=cut_in", "device=DEVICE"],
        ["rollout", "start=cut_in", "device=DEVICE"],
        ["evaluate", "generated=x", "real=y", "protocol.extractors=[{name: toytown-clip, device: DEVICE}]"],
    ],
    ids=lambda command: command[0],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    command: list[str], device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drivesim(*(word.replace("DEVICE", device) for word in command)) == 2
    assert f"device={device}: not on this machine; valid here: cpu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_gpus", "gpus"), [(0, []), (2, ["cuda", "cuda:0", "cuda:1"])])
def test_gpus_are_offered_where_there_are_any(num_gpus: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert [name for name in devices() if name.startswith("cuda")] == gpus


def test_an_accelerator_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("train", "data=videos", "data.root=x", "trainer.accelerator=foo", "out=run") == 2
    assert "trainer.accelerator=foo: not on this machine; valid here: auto, cpu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prepare", "goes on"), ("train", "goes on"), ("rollout", "goes on"),
        ("design", "design starts over"), ("evaluate", "goes on"),
    ],
)  # fmt: skip
def test_a_stopped_command_says_whether_it_can_go_on(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    needed = {"design": ["scene=x"], "rollout": ["start=x"], "evaluate": ["generated=x", "real=x"]}
    assert drivesim(command, *needed.get(command, [])) == 130
    assert words in capsys.readouterr().err


def test_a_broken_scene_file_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "street.yaml").write_text("boxes:\n  - {class: lorry, at: [20, 0]}\n")
    assert drivesim("design", "scene=street.yaml") == 2
    assert "street.yaml:2: boxes[0].class: unknown class 'lorry'; valid: car" in capsys.readouterr().err


def test_an_unknown_scene_names_the_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("design", "scene=motorway") == 2
    assert "cut_in" in capsys.readouterr().err


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("design", "scene=cut_in", "model=nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_scene_becomes_futures_with_a_contact_sheet(model: Path, tmp_path: Path) -> None:
    command = ["rollout", "start=night_follow", f"model={model}", "seconds=3", "out=run"]
    assert drivesim(*command, "futures=2") == 0
    out = tmp_path / "run"
    assert [probe(out / f"future_{index:03d}.mp4").num_frames for index in (0, 1)] == [12, 12]
    assert load_picture(out / "start.png").shape == (32, 64, 3)
    assert (out / "start_boxes.png").is_file() and (out / "contact_sheet.png").is_file()
    assert [row["ok"] for row in read_rows(out / "rows.jsonl")] == [True, True]
    before = (out / "future_000.mp4").stat().st_mtime_ns
    assert drivesim(*command, "futures=3") == 0  # more of the same run
    assert (out / "future_000.mp4").stat().st_mtime_ns == before
    assert (out / "future_002.mp4").is_file()
    assert yaml.safe_load((out / "config.yaml").read_text())["futures"] == 3


@pytest.mark.parametrize("said", ["start_s=2", "is_night=true"])
def test_what_a_scene_says_itself_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    assert drivesim("rollout", "start=cut_in", said, f"model={model}", "seconds=1", "futures=1", "out=run") == 2
    err = capsys.readouterr().err
    assert f"start=cut_in is {'no video' if 'start_s' in said else 'a scene'}" in err and f"{said} is" in err
    assert not (tmp_path / "run").exists()


def test_a_future_drives_as_it_is_told_by_name_or_by_segments(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = write_tiny_family(tmp_path / "told", ego_motion=True)
    command = ["rollout", "start=junction", "seconds=1", "futures=1"]
    assert drivesim(*command, f"model={told}", "motion=left", "out=left") == 0
    assert yaml.safe_load((tmp_path / "left" / "config.yaml").read_text())["motion"]["segments"][1]["seconds"] == 4
    alone = ["rollout", "start=junction", "seconds=1", "futures=3", f"model={told}"]
    assert drivesim(*alone, "motion.in_turn=[left,right]", "out=in_turn") == 0
    left, right, again = (asked_motion(tmp_path / "in_turn" / f"future_{number:03d}.mp4") for number in range(3))
    assert left == again == asked_motion(tmp_path / "left" / "future_000.mp4")
    assert [segment.yaw_deg_per_s for segment in right] == [0.0, -22.5, 0.0]
    assert drivesim(*alone, "motion=ways", "out=in_turn") == 2
    assert "another run (in_turn" in capsys.readouterr().err
    one = "motion.segments=[{seconds: 9, speed_mps: 3}]"
    assert drivesim(*command, f"model={told}", one, "out=left") == 2
    assert "another run" in capsys.readouterr().err
    for refused in (command, ["plan", *command]):
        assert drivesim(*refused, f"model={model}", "motion=left", "out=run") == 2
        assert "model 'tiny' was not trained to be told how the ego car drives" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for written in (["--futures", "3"], ["--futures=3"]):
        assert drivesim(*command, *written) == 2
        assert "unknown flag '--futures'; keys are given without dashes: futures=" in capsys.readouterr().err
    assert drivesim("rollout", "start=a.mp4", "start_s=0,1", "out=run") == 2
    assert "start_s=0,1'; -m runs once for each of several values" in capsys.readouterr().err
    assert drivesim(*command, f"model={told}", "motion=left", "motion.in_turn=[right]", "out=run") == 2
    assert "motion.in_turn: right, beside 3 segments for all futures; give one of both" in capsys.readouterr().err
    wrong = [
        ("motion=lft", "unknown motion 'lft', did you mean 'left'?"),
        ("motion.segments=[{seconds: 0, speed_mps: 3}]", "seconds=0"),
        ("motion.segments=[{seconds: 1}]", "speed_mps"),
        ("motion.in_turn=[left,rihgt]", "unknown motion 'rihgt', did you mean 'right'?"),
        ("motion.in_turn=[left,ways]", "motion.in_turn: motion 'ways' has no segments"),
    ]
    for typed, said in wrong:
        assert drivesim(*command, f"model={told}", typed, "out=run") == 2
        assert said in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_and_left_as_it_was(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rollout", "start=cut_in", f"model={model}", "seconds=1", "futures=1", "out=run"]
    assert drivesim(*command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert len(before) > 5
    assert drivesim(*command, "seed=9") == 2
    assert "another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_a_photo_of_another_shape_is_cropped_and_it_says_so(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = noise_picture(tmp_path / "photo.png", (60, 80))
    assert drivesim("rollout", f"start={photo}", f"model={model}", "seconds=1", "futures=1") == 0
    assert "cropped" in caplog.text
    assert len(list((tmp_path / "runs" / "rollout").glob("*/future_000.mp4"))) == 1


@pytest.mark.parametrize("name", ["tiny.png", "text.png", "text.doc", "nothing.png"])
def test_a_start_that_cannot_be_used_is_named(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_picture(tmp_path / "tiny.png", (16, 32))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.doc").write_text("no picture")
    assert drivesim("rollout", f"start={name}", f"model={model}", "seconds=1", "futures=1", "out=run") == 2
    assert name in capsys.readouterr().err


def test_a_multirun_gives_each_job_its_own_folder(model: Path, tmp_path: Path) -> None:
    assert drivesim("design", "-m", "scene=cut_in,crowd", f"model={model}", "num_frames=1", "out=many") == 0
    scenes = [yaml.safe_load((tmp_path / "many" / str(job) / "scene.yaml").read_text())["name"] for job in (0, 1)]
    assert scenes == ["cut_in", "crowd"]


def test_a_job_that_fails_in_a_multirun_leaves_the_others_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text("name: broken\nwrong: 1\n")
    (tmp_path / "fine.yaml").write_text((cli.conf_dir() / "scenes" / "crowd.yaml").read_text())
    assert drivesim("design", "-m", "scene=broken.yaml,fine.yaml", f"model={model}", "num_frames=1", "out=many") == 1
    said = capsys.readouterr().err
    assert "job 0 (" in said
    assert "broken.yaml:2: wrong: unknown key" in said
    assert "1 job failed: 0" in said
    assert (tmp_path / "many" / "1" / "frame_000.png").is_file()


def test_toytown_is_written_indexed_and_exported_as_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", *TOWN, "data.root=town", "out=index"]
    command += ["export=videos", "export.split=train", "export.size_hw=[32,64]"]
    assert drivesim(*command) == 0
    assert "2 drives" in capsys.readouterr().out
    videos = sorted((tmp_path / "index" / "videos").glob("*.mp4"))
    assert [probe(video).num_frames for video in videos] == [16, 16]
    assert probe(videos[0]).size_hw == (32, 64)
    written = videos[0].stat().st_mtime_ns
    assert drivesim(*command) == 0
    assert videos[0].stat().st_mtime_ns == written, "a finished video was written again"


def test_videos_are_scored_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = numpy_generator("videos")
    for folder in ("generated", "real"):
        for index in range(3):
            with VideoWriter(tmp_path / folder / f"{index}.mp4", fps=4) as video:
                for _ in range(20):
                    video.write(rng.integers(0, 256, (64, 128, 3), dtype=np.uint8))
    assert drivesim("evaluate", "generated=generated", "real=real", "out=scores") == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == "report: scores/report.html"
    assert (tmp_path / "scores" / "report.html").is_file()
    assert any("toytown-clip" in line for line in printed)
    assert not any("FVD" in line or "FID" in line for line in printed)
    shared = ["evaluate", "generated=generated", "real=real", "features=scores/features", "report.num_generated=0"]
    assert drivesim(*shared, "out=again") == 0
    assert all(row["was_stored"] for row in read_rows(tmp_path / "again" / "rows.jsonl"))
    capsys.readouterr()
    assert drivesim("evaluate", "compare=[scores, again]", "out=compared") == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert {"A: scores", "B: again", "comparison: compared/comparison.json"} <= set(printed)
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert all(score["first"] == score["second"] for score in compared["scores"])
    assert drivesim(*shared, "protocol.covariance=POPULATION", "out=other") == 0
    assert drivesim("evaluate", "compare=[scores, other]") == 2
    assert "protocol.covariance is 'unbiased' and 'population'" in capsys.readouterr().err
    assert drivesim("evaluate", "compare=[scores, other]", "force=true", "out=forced") == 0
    capsys.readouterr()
    several = [*shared, "protocols=[keyframes, videogpt]", "protocol.extractors=[{name: toytown-clip}]", "out=both"]
    assert drivesim(*several, "drift.enabled=false", "diversity=false") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("protocol ")] == [
        "protocol drivesim-keyframes", "protocol videogpt",
    ]  # fmt: skip
    rows = read_rows(tmp_path / "both" / "rows.jsonl")
    assert [row["was_stored"] for row in rows] == [row["protocol"] == "drivesim-keyframes" for row in rows]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["real=x"], "no value for generated; give one as generated=FOLDER, or compare='[A, B]'"),
        ([], "no value for generated, real"),
        (["generated=x", "real=y", "force=true"], "an evaluation of videos does not read force; leave force out"),
        (["generated=x", "compare=[a, b]"], "does not read generated; leave generated out"),
        (["compare=[a]"], "1 evaluations to compare; give two"),
        (["compare=[a, b]"], "a: no scores.json"),
        (["--compare", "it's", "b", "force=true"], "it's: no scores.json"),
        (["--compare", "a", "-m"], "--compare takes two folders"),
    ],
    ids=str,
)
def test_sets_or_two_evaluations_are_needed(
    keys: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert drivesim("evaluate", *keys) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate generated=. real=.", "out=run holds a training or a rollout"),
        ("prepare data=toytown", "out=run holds a training or a rollout"),
        ("design scene=cut_in", "run holds another run (model not said there"),
    ],
)
def test_a_folder_that_holds_a_rollout_is_not_written_over(
    command: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert drivesim(*command.split(), "out=run") == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize(("out", "named"), [("afile", "afile is a file"), ("afile/deep/er", "afile is a file")])
def test_a_place_where_no_folder_can_be_is_refused(
    out: str, named: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").write_text("text")
    assert drivesim("design", "scene=cut_in", f"model={model}", f"out={out}") == 2
    assert f"out={out} cannot be made there: {tmp_path / named}; choose another" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("evaluate", "generated=nowhere", "real=nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_scenes_are_exported_designed_and_checked_against_what_they_ask_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export=videos", "export.split=train", "export.size_hw=[32,64]", "export.scenes_every_s=2"]
    assert drivesim("prepare", "data=toytown", "data.root=town", *TOWN, *export, "out=town_index") == 0
    scenes = tmp_path / "town_index" / "scenes"
    assert len(list(scenes.glob("*/real.png"))) == 4
    assert drivesim("design", f"scene={scenes}", f"model={model}", "num_frames=1", "out=designed") == 0
    assert {path.parent.name for path in (tmp_path / "designed").glob("*/frame_000.png")} == {
        path.parent.name for path in scenes.glob("*/scene.yaml")
    }
    capsys.readouterr()
    assert drivesim("evaluate", "generated=designed", f"real={scenes}", "obedience.resamples=20", "out=obeyed") == 0
    out = capsys.readouterr().out
    assert "omitted, all" in out and "real pictures" in out and "other scenes" not in out
    found = json.loads((tmp_path / "obeyed" / "obedience.json").read_text())
    assert found["card"]["generated"]["num_pictures"] == found["card"]["real"]["num_pictures"] == 4
    assert (tmp_path / "obeyed" / "report.html").exists()
    assert yaml.safe_load((tmp_path / "obeyed" / "config.yaml").read_text())["generated"] == "designed"


def test_a_folder_without_scenes_names_the_shipped_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert drivesim("design", "scene=empty") == 2
    assert "shipped scenes: crowd" in capsys.readouterr().err
