"""The report of a data set: every kind of trouble is a row, and none stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drivesim.core.video import read_all
from drivesim.core.video_writing import VideoWriter
from drivesim.data import (
    NuScenesConfig,
    NuScenesSource,
    PrepareConfig,
    ProblemKind,
    VideoFolderConfig,
    VideoFolderSource,
    prepare,
)
from drivesim.data.duplicates import SAME_RMS, rms_distances, signatures

EVEN_MS = [50 * k for k in range(60)]


def _rows(report) -> set[tuple[str, ProblemKind]]:
    return {(problem.where, problem.kind) for problem in report.problems}


def test_a_clean_folder_has_nothing_wrong(make_video, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        path = make_video(name, EVEN_MS, seed=seed)
    report = prepare(VideoFolderSource(VideoFolderConfig(root=str(path.parent))), tmp_path / "out")
    assert report.problems == []
    assert report.num_checked == 180
    assert "nothing wrong was found" in (tmp_path / "out" / "report.txt").read_text()
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [drive["num_frames"] for drive in index["drives"]] == [60, 60, 60]


def test_every_kind_of_bad_video_is_a_row(make_video, tmp_path: Path) -> None:
    good = make_video("good.mp4", EVEN_MS, seed=1)
    make_video("good2.mp4", EVEN_MS, seed=2)
    make_video("slow.mp4", [100 * k for k in range(30)], seed=3)
    make_video("jumpy.mp4", list(np.cumsum([40, 50, 50, 70] * 15)), seed=4)
    make_video("gap.mp4", EVEN_MS[:20] + [t + 700 for t in EVEN_MS[20:]], seed=5)
    (good.parent / "cut.mp4").write_bytes(good.read_bytes()[:-20_000])
    (good.parent / "noise.mp4").write_bytes(b"noise" * 100)
    source = VideoFolderSource(VideoFolderConfig(root=str(good.parent), val_share=0.0))
    report = prepare(source, tmp_path / "out")
    assert _rows(report) == {
        ("slow.mp4", ProblemKind.WRONG_RATE),
        ("jumpy.mp4", ProblemKind.VARYING_RATE),
        ("gap.mp4", ProblemKind.GAP),
        ("cut.mp4", ProblemKind.TRUNCATED),
        ("noise.mp4", ProblemKind.UNREADABLE),
    }
    assert len(report.drives) == 5
    assert "noise.mp4" in report.text()


def test_damage_in_the_middle_of_a_file_is_found(make_video, tmp_path: Path) -> None:
    path = make_video("hurt.mp4", EVEN_MS, options={"crf": "12", "g": "60", "preset": "veryfast"})
    make_video("whole.mp4", EVEN_MS, seed=2)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + len(data) // 2
    # Zeroes a stretch of packets: their lengths make no sense to the decoder.
    data[start : start + 4000] = bytes(4000)
    path.write_bytes(data)
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent), val_share=0.0))
    report = prepare(source, tmp_path / "out")
    assert {where for where, _ in _rows(report)} == {"hurt.mp4"}
    assert "whole.mp4" in {drive.name for drive in report.drives}


def test_the_same_clip_in_two_splits_is_found_after_another_encoding(make_video, tmp_path: Path) -> None:
    make_video("a.mp4", EVEN_MS, seed=1)
    make_video("b.mp4", EVEN_MS, seed=2)
    make_video("c.mp4", EVEN_MS, seed=3)
    # The same pictures as a.mp4 with other codec settings and at another rate.
    path = make_video(
        "copy.mp4", [40 * k for k in range(60)], seed=1, options={"crf": "22", "g": "30", "preset": "veryfast"}
    )
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent), val_files=["copy.mp4", "c.mp4"]))
    report = prepare(source, tmp_path / "out", PrepareConfig(rate_tolerance=0.5))
    (problem,) = report.problems
    assert (problem.where, problem.kind) == ("val/copy.mp4", ProblemKind.SAME_CLIP)
    assert "train/a.mp4" in problem.detail


def test_re_encoded_real_frames_are_nearer_than_the_next_frame(shared_data: Path, make_video) -> None:
    frames, _ = read_all(shared_data / "driving-hills" / "clip_005.mp4")
    own = signatures(frames)
    folder = make_video("x.mp4", [0, 50]).parent
    with VideoWriter(folder / "poor.mp4", fps=20, crf=34) as writer:
        for frame in frames[:40]:
            writer.write(frame)
    again = signatures(read_all(folder / "poor.mp4")[0])
    distances = rms_distances(again, own)
    same, following = distances.diagonal(), distances[np.arange(40), np.arange(1, 41)]
    assert same.max() < SAME_RMS < following.min()


def test_a_stopped_check_goes_on_and_says_the_same(make_video, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        path = make_video(name, EVEN_MS, seed=seed)
    config = VideoFolderConfig(root=str(path.parent))

    class Stopped(VideoFolderSource):
        def read(self, drive: str, **wanted):
            if drive == "b.mp4":
                raise KeyboardInterrupt
            return super().read(drive, **wanted)

    class Counting(VideoFolderSource):
        asked: set[str] = set()

        def read(self, drive: str, **wanted):
            self.asked.add(drive)
            return super().read(drive, **wanted)

    with pytest.raises(KeyboardInterrupt):
        prepare(Stopped(config), tmp_path / "out")
    resumed = prepare(Counting(config), tmp_path / "out")
    whole = prepare(VideoFolderSource(config), tmp_path / "other")
    done_before = [drive.name for drive in whole.drives].index("b.mp4")
    assert len(Counting.asked) == 3 - done_before
    assert resumed.text() == whole.text()


def test_damaged_pictures_and_boxes_outside_are_rows(tables, tmp_path: Path) -> None:
    for row in tables.rows["sample_annotation"]:
        if row["token"].startswith("a-lane-dark-0"):
            row["translation"][1] += 60.0  # far to the left of what the camera sees
    tables.write()
    folder = tables.root / "sweeps/CAM_FRONT"
    (folder / "lane-day-005.png").write_bytes((folder / "lane-day-005.png").read_bytes()[:300])
    Image.new("RGB", (32, 32)).save(folder / "lane-day-007.png")
    (folder / "lane-dark-002.png").unlink()
    config = NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_share=0.0)
    report = prepare(NuScenesSource(config), tmp_path / "out")
    assert ("lane-day", ProblemKind.UNREADABLE) in _rows(report)
    assert ("lane-dark", ProblemKind.MISSING_IMAGE) in _rows(report)
    assert ("lane-dark", ProblemKind.BOX_OUTSIDE) in _rows(report)
    assert "worth knowing:\n  box outside the picture" in report.text()
    (unreadable,) = [p for p in report.problems if p.kind == ProblemKind.UNREADABLE]
    assert unreadable.detail.startswith("2 frames")


def test_two_scenes_with_the_same_pictures_are_found(tables, tmp_path: Path) -> None:
    tables.write()
    for path in tables.root.glob("*/CAM_FRONT/lane-day-*"):
        path.with_name(path.name.replace("day", "dark")).write_bytes(path.read_bytes())
    config = NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_scenes=["lane-dark"])
    report = prepare(NuScenesSource(config), tmp_path / "out")
    assert ("val/lane-dark", ProblemKind.SAME_CLIP) in _rows(report)
