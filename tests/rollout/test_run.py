"""Run folders: whole videos and rows, the same bytes after a kill, failures that end one future alone."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest

from drivesim.core.files import read_rows
from drivesim.core.video import probe, read_at
from drivesim.evaluate.videos import find_videos
from drivesim.rollout import run
from drivesim.rollout.rows import Progress
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from drivesim.rollout.writer import FutureWriter
from tests.rollout.tiny_model import FailingModel, InterpolatingModel, TinyModel, WaitingModel, start_frame

CONFIG = RolloutConfig(futures=3, seconds=20.0, seed=7, segment_chunks=2)
START = Start(name="street", frame_HWC=start_frame())


class NoModel(TinyModel):
    """For runs that must not make a single frame."""

    def predict(self, *_: object, **__: object) -> object:  # type: ignore[override]
        raise AssertionError("a finished future was made again")


def _bytes(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run_dir.glob("*.mp4"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    assert all(row.ok for row in run_rollout(CONFIG, START, TinyModel, run_dir))
    return run_dir


def test_the_folder_holds_one_whole_video_and_one_row_a_future_and_nothing_half_done(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        ".ends", "future_000.mp4", "future_001.mp4", "future_002.mp4", "rows.jsonl", "run.json",
    ]  # fmt: skip
    rows = read_rows(finished / "rows.jsonl")
    assert [(row["ok"], row["future"], row["start"], row["seed"], row["frames"]) for row in rows] == [
        (True, future, "street", 7, 80) for future in range(3)
    ]
    assert all(row["seconds"] > 0 and row["error"] is None for row in rows)
    assert len(set(_bytes(finished).values())) == 3


def test_the_videos_play_in_a_browser_at_an_even_pace(finished: Path) -> None:
    video = finished / "future_001.mp4"
    info = probe(video)
    assert (info.codec, info.fps, info.num_frames, info.size_hw) == ("h264", 4.0, 80, (32, 64))
    assert np.allclose(np.diff(info.timestamps_s), 0.25)
    with av.open(str(video)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
    data = video.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")


def test_the_first_frame_is_the_start_frame_as_the_model_decodes_it(finished: Path) -> None:
    model = TinyModel()
    decoded = model.decode(model.encode(START.frame_HWC[None]))[0]
    first = read_at(finished / "future_000.mp4", np.array([0.0]))[0]
    luma = np.array([0.299, 0.587, 0.114])  # the tiny decoder's pictures are noisy, and yuv420p halves their colour
    assert np.corrcoef((first @ luma).ravel(), (decoded @ luma).ravel())[0, 1] > 0.95


def test_progress_reaches_the_end_of_every_future(tmp_path: Path) -> None:
    heard: list[Progress] = []
    run_rollout(CONFIG, START, TinyModel, tmp_path, heard.append)
    for future in range(3):
        counts = [progress.num_frames for progress in heard if progress.future == future]
        assert counts == [10, 18, 26, 34, 42, 50, 58, 66, 74, 80]
    assert {progress.total_frames for progress in heard} == {80}


def test_a_finished_run_makes_nothing_again(finished: Path) -> None:
    rows = run_rollout(CONFIG, START, NoModel, finished)
    assert [row.ok for row in rows] == [True] * 3
    assert len(read_rows(finished / "rows.jsonl")) == 3


def test_a_harmed_video_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    run_rollout(CONFIG, START, TinyModel, tmp_path)
    before = _bytes(tmp_path)
    (tmp_path / "future_001.mp4").write_bytes(before["future_001.mp4"][:-100])
    assert all(row.ok for row in run_rollout(CONFIG, START, TinyModel, tmp_path))
    assert _bytes(tmp_path) == before


# Call 4 is in a segment's middle, 5 opens the next segment; 14 is in the second future (10 calls each).
@pytest.mark.parametrize("at_call", [4, 5, 14])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, finished: Path, repo_root: Path, at_call: int) -> None:
    script = (
        "from tests.rollout.test_run import *\n"
        f"run_rollout(CONFIG, START, partial(FailingModel, 'kill', {at_call}), {str(tmp_path)!r})"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=repo_root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(_bytes(tmp_path)) == (at_call - 1) // 10
    assert list(tmp_path.glob(".parts/*/seg_*.mp4")), "the test wants closed segments to go on from"

    calls = FailingModel("count", at_call=0)
    rows = run_rollout(CONFIG, START, lambda: calls, tmp_path)
    assert [row.ok for row in rows] == [True] * 3
    assert _bytes(tmp_path) == _bytes(finished)
    assert not list(tmp_path.rglob(".tmp-*"))
    # A segment is 2 calls: the resumed run repeats the unfinished segment alone.
    assert calls.num_calls == 30 - (at_call - 1) // 2 * 2


def test_an_interrupt_leaves_the_run_resumable(tmp_path: Path, finished: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if (progress.future, progress.num_frames) == (1, 50):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rollout(CONFIG, START, TinyModel, tmp_path, interrupt)
    assert not list(tmp_path.rglob(".tmp-*"))
    assert all(row.ok for row in run_rollout(CONFIG, START, TinyModel, tmp_path))
    assert _bytes(tmp_path) == _bytes(finished)


def test_a_future_with_waiting_frames_goes_on_from_every_chunk_with_the_same_bytes(tmp_path: Path) -> None:
    config = RolloutConfig(futures=1, seconds=15.0, seed=7, segment_chunks=1)
    assert run_rollout(config, START, WaitingModel, tmp_path / "whole")[0].ok
    for chunk in range(1, 7):
        heard: list[Progress] = []

        def interrupt(progress: Progress, heard: list[Progress] = heard, chunk: int = chunk) -> None:
            heard.append(progress)
            if len(heard) > chunk:
                raise KeyboardInterrupt

        run_dir = tmp_path / str(chunk)
        with pytest.raises(KeyboardInterrupt):
            run_rollout(config, START, WaitingModel, run_dir, interrupt)
        calls: list[Progress] = []
        assert run_rollout(config, START, WaitingModel, run_dir, calls.append)[0].ok
        assert len(calls) == 8 - chunk
        assert _bytes(run_dir) == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: data[:-4] + b"\0\0\0\1"])
@pytest.mark.parametrize("harmed", ["state.safetensors", "seg_0000.mp4"])
def test_a_harmed_part_of_an_unfinished_future_costs_a_start_anew_and_no_more(
    tmp_path: Path, finished: Path, harmed: str, harm: Callable[[bytes], bytes]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.future == 1 and progress.num_frames > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rollout(CONFIG, START, TinyModel, tmp_path, stop)
    (part,) = tmp_path.glob(f".parts/future_001/{harmed}")
    part.write_bytes(harm(part.read_bytes()))
    assert all(row.ok for row in run_rollout(CONFIG, START, TinyModel, tmp_path))
    assert _bytes(tmp_path) == _bytes(finished)
    assert not (tmp_path / ".parts").exists()


def test_parts_that_a_kill_left_behind_a_finished_future_are_removed(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / ".parts" / "future_002").mkdir(parents=True)
    (tmp_path / "run" / ".parts" / "future_002" / "seg_0000.mp4").write_bytes(b"left")
    (tmp_path / "run" / ".tmp-folder").mkdir()  # somebody else's: left alone
    run_rollout(CONFIG, START, NoModel, tmp_path / "run")
    assert not (tmp_path / "run" / ".parts").exists()
    assert (tmp_path / "run" / ".tmp-folder").is_dir()


def test_a_future_that_turns_nan_stops_with_its_cause_and_the_others_go_on(tmp_path: Path, finished: Path) -> None:
    rows = run_rollout(CONFIG, START, partial(FailingModel, "nan", at_call=13), tmp_path)
    assert [row.ok for row in rows] == [True, False, True]
    assert rows[1].error == "NotFiniteError: prediction: frame 21 (at 5.25 s) is not finite"
    assert (rows[1].frames, rows[1].video) == (18, None)
    assert read_rows(tmp_path / "rows.jsonl")[1]["error"] == rows[1].error
    whole = _bytes(finished)
    assert _bytes(tmp_path) == {name: whole[name] for name in ("future_000.mp4", "future_002.mp4")}


def test_segments_of_an_unfinished_future_are_no_videos_to_score(tmp_path: Path) -> None:
    rows = run_rollout(CONFIG, START, partial(FailingModel, "nan", at_call=15), tmp_path)
    assert [row.ok for row in rows] == [True, False, True]
    assert list(tmp_path.rglob("seg_*.mp4")), "the test wants closed segments"
    assert [video.name for video in find_videos(tmp_path)] == ["future_000.mp4", "future_002.mp4"]


def test_an_error_in_the_model_is_kept_with_its_traceback(tmp_path: Path) -> None:
    rows = run_rollout(CONFIG, START, partial(FailingModel, "error", at_call=1), tmp_path)
    assert rows[0].error == "RuntimeError: the model is out of ideas"
    assert "tiny_model.py" in (rows[0].traceback or "")
    assert [row.ok for row in rows] == [False, True, True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_a_full_disk_is_a_row_and_the_run_can_be_resumed(tmp_path: Path, finished: Path) -> None:
    full = tmp_path / ".parts" / "future_001" / f".tmp-{os.getpid()}-seg_0001.mp4"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    rows = run_rollout(CONFIG, START, TinyModel, tmp_path)
    assert [row.ok for row in rows] == [True, False, True]
    assert "No space left on device" in (rows[1].error or "")
    assert all(row.ok for row in run_rollout(CONFIG, START, TinyModel, tmp_path))
    assert _bytes(tmp_path) == _bytes(finished)


def test_a_folder_with_another_run_is_refused_naming_what_differs(finished: Path) -> None:
    other = RolloutConfig(futures=3, seconds=10.0, seed=8, segment_chunks=2)
    with pytest.raises(ValueError, match=r"another run \(num_frames 80 there, 40 here; seed 7 there, 8 here\)"):
        run_rollout(other, START, TinyModel, finished)
    other.seconds = 30.0  # longer would be welcome
    with pytest.raises(ValueError, match=r"another run \(seed 7 there, 8 here\)"):
        run_rollout(other, START, TinyModel, finished)


def test_a_run_whose_videos_were_encoded_otherwise_is_another_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ENCODING", "other")
    held = "x264 superfast, no cuts, no bit rate"
    with pytest.raises(ValueError, match=rf"another run \(encoding .{held}. there, .other. here\)"):
        run_rollout(CONFIG, START, TinyModel, finished)


def test_futures_take_turns_in_what_is_said_of_them(tmp_path: Path) -> None:
    short = RolloutConfig(futures=3, seconds=5.0, seed=7)

    def videos(name: str, **said: Any) -> list[bytes]:
        run_rollout(short, Start(name="street", frame_HWC=start_frame(), **said), TinyModel, tmp_path / name)
        return list(_bytes(tmp_path / name).values())

    night, day = videos("night", conditions=True), videos("day", conditions=False)
    assert not set(night) & set(day)
    assert videos("in_turn", in_turn=(True, False)) == [night[0], day[1], night[2]]
    with pytest.raises(ValueError, match=r"another run \(in_turn \["):
        videos("in_turn", in_turn=(False, True))


def test_more_futures_are_added_to_a_finished_run(tmp_path: Path, finished: Path) -> None:
    one = RolloutConfig(futures=1, seconds=20.0, seed=7, segment_chunks=2)
    run_rollout(one, START, TinyModel, tmp_path)
    run_rollout(CONFIG, START, TinyModel, tmp_path)
    assert _bytes(tmp_path) == _bytes(finished)


@pytest.mark.parametrize("model", [TinyModel, WaitingModel, InterpolatingModel])
@pytest.mark.parametrize("segment_chunks", [1, 2])
def test_a_finished_run_is_made_longer_with_the_bytes_of_a_long_one(
    tmp_path: Path, model: type[TinyModel], segment_chunks: int
) -> None:
    def run_for(seconds: float, folder: str) -> list[int]:
        """The numbers of frames that are told on the way."""
        heard: list[Progress] = []
        config = RolloutConfig(futures=2, seconds=seconds, seed=7, segment_chunks=segment_chunks)
        rows = run_rollout(config, START, model, tmp_path / folder, heard.append)
        assert [(row.ok, row.frames) for row in rows] == [(True, round(seconds * model.fps))] * 2
        return [progress.num_frames for progress in heard]

    made = run_for(14.5, "long")
    for seconds in (2.0, 6.5, 9.0, 9.25, 14.5):  # the first is one segment alone, of which nothing is kept
        told = run_for(seconds, "grown")
        assert run_for(seconds, "grown") == [], "it is whole"
    assert len(told) < len(made), "what was there is not made again"
    assert _bytes(tmp_path / "grown") == _bytes(tmp_path / "long")
    assert sorted(path.name for path in (tmp_path / "grown").iterdir()) == [
        ".ends", "future_000.mp4", "future_001.mp4", "rows.jsonl", "run.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=rf"num_frames {round(14.5 * model.fps)} there, {round(2 * model.fps)} here"):
        run_for(2.0, "grown")


def test_a_run_that_was_stopped_while_it_was_made_longer_goes_on(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    longer = RolloutConfig(futures=3, seconds=30.0, seed=7, segment_chunks=2)
    (tmp_path / "run" / "future_002.mp4").write_bytes(b"harmed")  # which is made anew
    calls = FailingModel("count", at_call=0)

    def stop(progress: Progress) -> None:
        if (progress.future, progress.num_frames) == (1, 114):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rollout(longer, START, lambda: calls, tmp_path / "run", stop)
    shown = _bytes(tmp_path / "run")
    assert [shown[name] == data for name, data in _bytes(finished).items()] == [False, True, False], "one is longer"
    assert all(row.ok for row in run_rollout(longer, START, lambda: calls, tmp_path / "run"))
    run_rollout(longer, START, TinyModel, tmp_path / "long")
    assert _bytes(tmp_path / "run") == _bytes(tmp_path / "long")
    # 15 calls a future, of which the first 8 were made before. The second one lost 2 of 6, the last one all.
    assert calls.num_calls == 7 + 7 + 2 + 15


def test_a_kill_on_the_way_to_a_longer_run_costs_nothing(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    longer = RolloutConfig(futures=3, seconds=30.0, seed=7, segment_chunks=2)
    with monkeypatch.context() as patched:
        patched.setattr(FutureWriter, "save_state", Mock(side_effect=KeyboardInterrupt))  # once the segment is there
        with pytest.raises(KeyboardInterrupt):
            run_rollout(longer, START, TinyModel, tmp_path / "run")
    (segment,) = (tmp_path / "run").glob(".parts/*/*")
    (segment.parent / "seg_0003.mp4").write_bytes(b"stale")
    calls = FailingModel("count", at_call=0)
    run_rollout(longer, START, lambda: calls, tmp_path / "run")
    assert calls.num_calls == 3 * 7
    run_rollout(longer, START, TinyModel, tmp_path / "long")
    assert _bytes(tmp_path / "run") == _bytes(tmp_path / "long")


def test_futures_that_are_not_asked_for_are_not_made_longer(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run_rollout(RolloutConfig(futures=1, seconds=30.0, seed=7, segment_chunks=2), START, TinyModel, tmp_path / "run")
    assert not (tmp_path / "run" / ".parts").exists()
    assert _bytes(tmp_path / "run")["future_002.mp4"] == _bytes(finished)["future_002.mp4"]
    run_rollout(RolloutConfig(futures=3, seconds=30.0, seed=7, segment_chunks=2), START, TinyModel, tmp_path / "run")
    assert [row["frames"] for row in read_rows(tmp_path / "run" / "rows.jsonl")] == [80, 80, 80, 120, 120, 120]


def test_a_start_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"start big: frame of \(64, 128\)"):
        run_rollout(CONFIG, Start(name="big", frame_HWC=np.zeros((64, 128, 3), np.uint8)), TinyModel, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"futures": 0}, {"seconds": 0.0}, {"seconds": float("inf")}, {"segment_chunks": 0}, {"crf": 60}]
)
def test_numbers_that_make_no_rollout_are_refused_by_name(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        run_rollout(RolloutConfig(**wrong), START, TinyModel, tmp_path)  # type: ignore[arg-type]
