"""Captioned clips from a CSV and from tars: the right frames with the right words; bad rows beside good ones."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from drivesim.core.tar_member import list_members
from drivesim.core.video import probe, read_all
from drivesim.data import (
    CaptionedClips,
    CaptionedClipsConfig,
    PrepareConfig,
    ProblemKind,
    VideoFolderConfig,
    is_there,
    make_source,
    prepare,
)
from drivesim.data.batches import FrameDataset, collate
from drivesim.data.captions import texts_of
from drivesim.data.frames import cache_frames
from tests.command_line import drivesim

TIMES_MS = [100 * k for k in range(12)]
TRAIN = [
    "train", "stage=AUTOENCODER", "size_hw=[32,64]", "autoencoder.block_out_channels=[8,8]",
    "autoencoder.layers_per_block=1", "autoencoder.norm_num_groups=4", "loader.batch_size=1", "trainer.accelerator=cpu",
    "trainer.max_steps=1", "trainer.progress=false", "data=captioned", "data.val_share=0", "data.csv=videos/clips.csv",
]  # fmt: skip


def write_csv(folder: Path, rows: list[str], header: str = "video,caption") -> Path:
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def problems_of(source: CaptionedClips) -> set[tuple[str, ProblemKind]]:
    return {(problem.where, problem.kind) for problem in source.problems()}


def test_a_clip_of_a_csv_comes_with_its_caption_through_cache_and_batch(make_video, shown_numbers, tmp_path) -> None:
    for name in ("a.mp4", "b.mp4"):
        folder = make_video(name, TIMES_MS).parent
    table = write_csv(folder, ['a.mp4,"a street, at night"', "b.mp4,zwei Autos – naß"])
    source = make_source(CaptionedClipsConfig(csv=str(table), val_share=0.0))
    assert shown_numbers(source.read("a.mp4", start_s=0.2, num_frames=3, fps=5, size_hw=(64, 128)).frames_THWC) == [
        2,
        4,
        6,
    ]
    cache = cache_frames(source, "train", (32, 64), 5.0, tmp_path / "cache")
    assert {drive: c.captions.texts for drive, c in cache.conditions.items()} == {
        "a.mp4": ("a street, at night",), "b.mp4": ("zwei Autos – naß",)
    }  # fmt: skip
    data = FrameDataset(cache, seed=0, num_frames=2, flip=False)
    items = [data[i] for i in range(6)]
    wanted = [cache.conditions[data.where(i)[0]].captions.texts[0] for i in range(6)]
    batch = collate(items)
    assert texts_of(batch["caption_BL"]) == wanted
    assert batch["frames_BTCHW"].shape == (6, 2, 3, 32, 64)


def test_rows_that_cannot_be_used_are_problems_and_the_others_are_served(make_video, tmp_path) -> None:
    folder = make_video("good.mp4", TIMES_MS).parent
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    rows = ["good.mp4,a car", "good.mp4,again", "gone.mp4,a car", "broken.mp4,a car", "silent.mp4,", ",no path"]
    source = CaptionedClips(CaptionedClipsConfig(csv=str(write_csv(folder, rows))))
    assert [drive.name for split in ("train", "val") for drive in source.drives(split)] == ["good.mp4"]
    assert problems_of(source) == {
        ("clips.csv line 3", ProblemKind.SAME_NAME),
        ("clips.csv line 4", ProblemKind.MISSING_VIDEO),
        ("broken.mp4", ProblemKind.UNREADABLE),
        ("clips.csv line 6", ProblemKind.NO_CAPTION),
        ("clips.csv line 7", ProblemKind.MISSING_VIDEO),
    }


@pytest.mark.usefixtures("in_an_empty_folder")
def test_a_training_says_how_many_rows_it_does_without_and_the_first(make_video, capsys) -> None:
    folder = make_video("good.mp4", TIMES_MS).parent
    make_video("still.mp4", TIMES_MS[:1])
    write_csv(folder, ["good.mp4,a car", "gone.mp4,a car", "still.mp4,a car", "good.mp4,again"])
    assert drivesim(*TRAIN, "out=run") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "problem" in line]
    assert lines == [
        "3 problems in the data, the first: clips.csv line 3: missing video: videos/gone.mp4 is not there; "
        "drivesim prepare lists them"
    ]
    write_csv(folder, ["good.mp4,a car", "still.mp4,a car"])
    assert drivesim(*TRAIN, "out=with_one") == 0
    assert "1 problem in the data: still.mp4: too few frames: one frame\n" in capsys.readouterr().err
    write_csv(folder, ["good.mp4,a car"])
    assert drivesim(*TRAIN, "out=with_none") == 0
    assert "problem" not in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_a_column_or_a_caption(make_video, tmp_path) -> None:
    folder = make_video("a.mp4", TIMES_MS).parent
    table = write_csv(folder, ["a.mp4,zwei Autos – naß"])
    table.write_text(table.read_text(encoding="utf-8"), encoding="utf-8-sig")  # as Excel writes it
    assert CaptionedClips(CaptionedClipsConfig(csv=str(table)))._captions == {"a.mp4": "zwei Autos – naß"}
    video = (folder / "a.mp4").read_bytes()
    files = {"1.mp4": video, "1.txt": "a car".encode("utf-8-sig")}
    files |= {"2.mp4": video, "2.json": '{"text": "a bus"}'.encode("utf-8-sig")}
    source = CaptionedClips(CaptionedClipsConfig(tars=[str(write_tar(tmp_path / "s.tar", files))]))
    assert source._captions == {"s.tar/1": "a car", "s.tar/2": "a bus"}


def test_clips_at_many_rates_are_nothing_wrong_unless_one_rate_is_asked_for(make_video, tmp_path) -> None:
    folder = make_video("slow.mp4", TIMES_MS, seed=1).parent
    make_video("fast.mp4", [40 * k for k in range(30)], seed=2)
    table = write_csv(folder, ["slow.mp4,a car", "fast.mp4,a bus"])
    source = CaptionedClips(CaptionedClipsConfig(csv=str(table), val_share=0.0))
    assert prepare(source, tmp_path / "out").problems == []
    (problem,) = prepare(source, tmp_path / "out", PrepareConfig(expected_fps=25.0)).problems
    assert (problem.where, problem.kind) == ("slow.mp4", ProblemKind.WRONG_RATE)


def test_a_csv_without_the_columns_or_clips_is_refused_with_what_it_has(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no column 'caption'; there are video, text"):
        CaptionedClips(CaptionedClipsConfig(csv=str(write_csv(tmp_path, [], "video,text"))))
    with pytest.raises(
        ValueError, match=r"no usable clip; the first problem: clips.csv line 2: .*gone.mp4 is not there"
    ):
        CaptionedClips(CaptionedClipsConfig(csv=str(write_csv(tmp_path, ["gone.mp4,x"]))))
    with pytest.raises(ValueError, match="give one of them"):
        CaptionedClipsConfig()


def test_a_tar_is_read_where_it_lies(make_video, shown_numbers, tmp_path) -> None:
    videos = {name: make_video(f"{name}.mp4", TIMES_MS, seed=seed).read_bytes() for name, seed in (("a", 0), ("b", 1))}
    tar = write_tar(
        tmp_path / "shard-000.tar",
        {"0001.mp4": videos["a"], "0001.txt": b" a car \n", "0002.json": json.dumps({"caption": "a bus"}).encode(),
         "0002.mp4": videos["b"]},
    )  # fmt: skip
    source = CaptionedClips(CaptionedClipsConfig(tars=[str(tmp_path / "shard-*.tar")], val_share=0.0))
    names = [drive.name for drive in source.drives("train")]
    assert names == ["shard-000.tar/0001", "shard-000.tar/0002"]
    clip = source.read(names[1], start_s=0.3, num_frames=3, fps=5, size_hw=(64, 128))
    (tmp_path / "b.mp4").write_bytes(videos["b"])
    np.testing.assert_array_equal(clip.frames_THWC, read_all(tmp_path / "b.mp4")[0][3:9:2])
    member = next(member for member in list_members(tar) if member.name == "0002.mp4")
    assert member.read_bytes() == videos["b"]
    assert probe(member).num_frames == len(TIMES_MS)
    assert list(tmp_path.glob("**/0002*")) == [], "nothing is unpacked"


def test_samples_that_cannot_be_used_are_problems(make_video, tmp_path) -> None:
    video = make_video("a.mp4", TIMES_MS).read_bytes()
    files = {
        "ok.mp4": video, "ok.txt": b"fine", "mute.mp4": video, "blind.txt": b"words", "bad.mp4": video,
        "bad.json": b"{", "other.mp4": video, "other.json": b'{"title": "x"}', "cut.mp4": video[:500], "cut.txt": b"x",
    }  # fmt: skip
    write_tar(tmp_path / "s.tar", files)
    source = CaptionedClips(CaptionedClipsConfig(tars=[str(tmp_path / "s.tar")], val_share=0.0))
    assert [drive.name for drive in source.drives("train")] == ["s.tar/ok"]
    assert problems_of(source) == {
        ("s.tar/mute", ProblemKind.NO_CAPTION),
        ("s.tar/blind", ProblemKind.MISSING_VIDEO),
        ("s.tar/bad", ProblemKind.UNREADABLE),
        ("s.tar/other", ProblemKind.NO_CAPTION),
        ("s.tar/cut", ProblemKind.UNREADABLE),
    }


def test_a_shard_that_is_cut_off_serves_what_came_before(make_video, tmp_path) -> None:
    video = make_video("a.mp4", TIMES_MS).read_bytes()
    whole = write_tar(tmp_path / "w.tar", {"1.mp4": video, "1.txt": b"one", "2.txt": b"two", "2.mp4": video})
    last = list(list_members(whole))[-1]
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: last.offset + last.size // 2])
    source = CaptionedClips(CaptionedClipsConfig(tars=[str(tmp_path / "cut.tar")], val_share=0.0))
    assert [drive.name for drive in source.drives("train")] == ["cut.tar/1"]
    assert ("cut.tar", ProblemKind.TRUNCATED) in problems_of(source)
    with pytest.raises(ValueError, match=r"cut,w.*matches no file; patterns take \*, \? and \[ \] in a file's name"):
        CaptionedClips(CaptionedClipsConfig(tars=[str(tmp_path / "{cut,w}.tar")]))
    (tmp_path / "gz.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=r"no usable clip; the first problem: gz.tar: .*uncompressed tar"):
        CaptionedClips(CaptionedClipsConfig(tars=[str(tmp_path / "gz.tar")]))


def test_splits_and_fingerprint_follow_names_and_captions(make_video, tmp_path) -> None:
    folder = make_video("v0.mp4", TIMES_MS).parent
    for number in range(1, 12):
        (folder / f"v{number}.mp4").write_bytes((folder / "v0.mp4").read_bytes())

    def source(rows: list[str]) -> CaptionedClips:
        return CaptionedClips(CaptionedClipsConfig(csv=str(write_csv(folder, rows)), val_share=0.3))

    rows = [f"v{number}.mp4,a car {number}" for number in range(12)]
    val = {drive.name for drive in source(rows).drives("val")}
    assert 0 < len(val) < 12
    few = {drive.name for drive in source(rows[::-1][:9]).drives("val")}
    assert few == {name for name in val if name not in ("v0.mp4", "v1.mp4", "v2.mp4")}
    assert source(rows).fingerprint == source(rows).fingerprint
    assert source(rows).fingerprint != source([*rows[:-1], "v11.mp4,another"]).fingerprint


def test_it_is_known_whether_data_are_there_yet(tmp_path: Path) -> None:
    csv = tmp_path / "clips.csv"
    by_csv = CaptionedClipsConfig(csv=str(csv))
    by_tars = CaptionedClipsConfig(tars=[str(tmp_path / "tars" / "*.tar")])
    assert not is_there(by_csv) and not is_there(by_tars)
    csv.write_text("video,caption\n")
    (tmp_path / "tars").mkdir()
    assert not is_there(by_tars)
    (tmp_path / "tars" / "a.tar").touch()
    assert is_there(by_csv) and is_there(by_tars)
    assert is_there(VideoFolderConfig(root=str(tmp_path))) and not is_there(VideoFolderConfig(root=str(tmp_path / "x")))
