"""Drives as videos: they are always those of the data and the config that were asked for last."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivesim.core.video import probe, read_all
from drivesim.data import NuScenesConfig, NuScenesSource
from drivesim.data.export import ExportConfig, export_videos
from drivesim.data.frames import file_stem

SIZE_HW = (40, 80)
NAMES = ["lane-dark", "lane-day"]


class StopsAtDay(NuScenesSource):
    """A source that is killed when it comes to the second drive."""

    def read(self, drive: str, **wanted):
        if drive == "lane-day":
            raise KeyboardInterrupt
        return super().read(drive, **wanted)


def _source(tables, kind: type[NuScenesSource] = NuScenesSource) -> NuScenesSource:
    tables.write()
    return kind(NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_scenes=["lane-dark", "lane-day"]))


def _config(**changes) -> ExportConfig:
    return ExportConfig(**{"fps": 5.0, "size_hw": SIZE_HW, **changes})


def _export(source: NuScenesSource, config: ExportConfig, out: Path) -> dict[str, str | None]:
    return dict(export_videos(source, config, out))


def _path(out: Path, drive: str) -> Path:
    return out / f"{file_stem(drive)}.mp4"


def _times_written(out: Path) -> list[int]:
    return [_path(out, name).stat().st_mtime_ns for name in NAMES]


@pytest.fixture
def exported(tables, tmp_path: Path) -> Path:
    """Both drives as videos of 5 fps."""
    out = tmp_path / "videos"
    assert _export(_source(tables), _config(), out) == dict.fromkeys(NAMES)
    return out


def test_a_split_without_a_drive_is_refused_and_all_splits_are_one_export(tables, tmp_path: Path) -> None:
    tables.write()
    source = NuScenesSource(NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_scenes=["lane-day"]))
    assert list(_export(source, _config(split="val"), tmp_path / "val")) == ["lane-day"]
    assert sorted(_export(source, _config(split="all"), tmp_path / "all")) == NAMES
    with pytest.raises(ValueError, match="no drive in split test; train has 1, val has 1"):
        _export(source, _config(split="test"), tmp_path / "test")
    with pytest.raises(ValueError, match="split 'both' is none of train, val, test"):
        _config(split="both")


def test_the_same_export_again_writes_nothing(tables, exported: Path) -> None:
    before = _times_written(exported)
    assert _export(_source(tables), _config(), exported) == dict.fromkeys(NAMES)
    assert _times_written(exported) == before


def test_another_rate_or_size_is_what_the_videos_have(tables, exported: Path) -> None:
    assert [probe(_path(exported, name)).num_frames for name in NAMES] == [7, 7]
    _export(_source(tables), _config(fps=2.5), exported)
    assert [probe(_path(exported, name)).num_frames for name in NAMES] == [4, 4]
    _export(_source(tables), _config(fps=2.5, size_hw=(32, 64)), exported)
    assert [probe(_path(exported, name)).size_hw for name in NAMES] == [(32, 64)] * 2


def test_another_quality_makes_other_files(tables, exported: Path) -> None:
    before = [_path(exported, name).stat().st_size for name in NAMES]
    _export(_source(tables), _config(crf=40), exported)
    assert all(_path(exported, name).stat().st_size < size for name, size in zip(NAMES, before, strict=True))


def test_other_data_under_the_same_names_is_exported_anew(tables, exported: Path) -> None:
    before, _ = read_all(_path(exported, "lane-day"))
    for path in tables.root.glob("*/CAM_FRONT/lane-day-*"):
        path.write_bytes(path.with_name(path.name.replace("day", "dark")).read_bytes())
    tables.rows["sample_annotation"][0]["translation"][0] += 1.0  # other scenes have other tables
    _export(_source(tables), _config(), exported)
    after, _ = read_all(_path(exported, "lane-day"))
    dark, _ = read_all(_path(exported, "lane-dark"))
    assert (after == dark).all() and (before != dark).any()


def test_videos_of_drives_that_are_gone_go_and_foreign_files_stay(tables, exported: Path) -> None:
    foreign = exported / "mine.mp4"
    foreign.write_bytes(b"not an export")
    source = NuScenesSource(NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_scenes=["lane-day"]))
    assert _export(source, _config(), exported) == {"lane-day": None}
    assert sorted(exported.glob("*.mp4")) == sorted([_path(exported, "lane-day"), foreign])


def test_a_rate_above_the_recorded_one_is_told_and_keeps_no_old_video(tables, exported: Path) -> None:
    problems = _export(_source(tables), _config(fps=20.0), exported)
    assert problems == {name: f"{name}: 20 fps wanted, recorded at 10; ask for at most that" for name in NAMES}
    assert not list(exported.glob("*.mp4"))


def test_a_stopped_change_goes_on_without_an_old_video(tables, exported: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _export(_source(tables, StopsAtDay), _config(fps=2.5), exported)
    assert [path.name for path in exported.glob("*.mp4")] == [_path(exported, "lane-dark").name]
    first = _path(exported, "lane-dark").stat().st_mtime_ns
    _export(_source(tables), _config(fps=2.5), exported)
    assert [probe(_path(exported, name)).num_frames for name in NAMES] == [4, 4]
    assert _path(exported, "lane-dark").stat().st_mtime_ns == first


def test_videos_that_nobody_noted_are_not_trusted(tables, exported: Path) -> None:
    (exported / "export.json").unlink()
    _export(_source(tables), _config(fps=2.5), exported)
    assert [probe(_path(exported, name)).num_frames for name in NAMES] == [4, 4]
