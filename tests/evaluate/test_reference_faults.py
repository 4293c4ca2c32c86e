"""Faults told against the videos that the scored ones should equal, by `drift.reference`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.drift import Drift, DriftConfig, measure_drift
from drivesim.evaluate.faults import FaultKind
from drivesim.evaluate.paired_faults import find_paired_faults
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import find_videos
from tests.evaluate.town_videos import FPS, ONSET, Frames, TownVideo, car_in_sight, drive, without

PROTOCOL = ProtocolConfig(fps=FPS, context_frames=0)


def write(path: Path, frames: Frames) -> Path:
    with VideoWriter(path, FPS) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def town_video() -> TownVideo:
    return drive(62)


def drift_of(folder: Path, reference: Path | str, **settings: bool) -> Drift:
    config = DriftConfig(reference=str(reference), **settings)
    videos = find_videos(folder / "made")
    found = measure_drift(
        config, videos, [], protocol=PROTOCOL, size_hw=(64, 128), extractors=[], rows=folder / "rows.jsonl"
    )
    assert found is not None
    return found


def test_a_car_taken_out_is_named_against_the_video_that_has_it(town_video: TownVideo, tmp_path: Path) -> None:
    clean = town_video.frames_THWC
    write(tmp_path / "made" / "a.mp4", without(town_video, car_in_sight(town_video, 6)))
    write(tmp_path / "made" / "b.mp4", clean)
    write(tmp_path / "made" / "c.mp4", clean)
    for name in "ab":
        write(tmp_path / "reference" / f"{name}.mp4", clean)
    found = drift_of(tmp_path, tmp_path / "reference", objects=True)
    (fault,) = found.faults["a.mp4"]
    assert (fault.kind, fault.object_class) == (FaultKind.REMOVED_OBJECT, ObjectClass.CAR)
    assert abs(fault.onset_frame - ONSET) <= 1
    assert set(found.faults) == {"a.mp4"}
    (warning,) = [text for text in found.warnings if "reference" in text]
    assert warning.startswith("no reference of c.mp4")


def test_a_reference_of_another_length_is_a_warning(town_video: TownVideo, tmp_path: Path) -> None:
    write(tmp_path / "made" / "a.mp4", town_video.frames_THWC)
    write(tmp_path / "reference" / "a.mp4", town_video.frames_THWC[:-2])
    found = drift_of(tmp_path, tmp_path / "reference")
    assert found.faults == {}
    assert any("a.mp4 was not held against its reference" in text for text in found.warnings)


def test_a_folder_of_references_that_is_not_there_stops_before_anything_is_read(tmp_path: Path) -> None:
    config = EvaluateConfig(protocol=PROTOCOL, drift=DriftConfig(reference=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        evaluate(config, tmp_path / "neither", tmp_path / "nor", tmp_path / "out", extractors=[])
    assert not (tmp_path / "out").exists()


def test_a_large_smooth_object_is_no_blur_of_the_picture() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, size=(64, 128, 3), dtype=np.uint8)
    busy = np.stack([np.roll(picture, 2 * frame, axis=1) for frame in range(12)])
    covered = busy.copy()
    covered[5:, 10:60, 20:64] = 90
    for frames, reference in ((covered, busy), (busy, covered)):
        (fault,) = find_paired_faults(frames, reference, FPS)
        assert fault.onset_frame == 5
        assert fault.size == pytest.approx(50 * 44, rel=0.1)
        assert fault.kind in (FaultKind.ADDED_OBJECT, FaultKind.REMOVED_OBJECT)


def test_boxes_of_one_side_alone_say_who_has_the_object() -> None:
    """A shape whose outline is no stronger in one video than in the other."""
    rng = np.random.default_rng(0)
    busy = rng.integers(60, 200, size=(12, 64, 128, 3), dtype=np.uint8)
    busy[:] = busy[0]
    other = busy.copy()
    other[5:, 20:40, 40:70] = rng.integers(60, 200, size=(20, 30, 3), dtype=np.uint8)
    box = Boxes2D(
        xyxy_px=np.array([[40.0, 20, 70, 40]]),
        class_ids=np.array([ObjectClass.CAR.id]),
        depth_m=np.array([10.0]),
        visibility=np.array([1.0]),
    )
    there, nowhere = [box] * 12, [box.select(np.array([False]))] * 12
    for own, wanted, kind in (
        (there, nowhere, FaultKind.ADDED_OBJECT),
        (nowhere, there, FaultKind.REMOVED_OBJECT),
    ):
        faults = find_paired_faults(other, busy, FPS, boxes=own, reference_boxes=wanted)
        objects = [fault for fault in faults if fault.xyxy_px is not None]
        assert objects, faults
        assert {(fault.kind, fault.object_class) for fault in objects} == {(kind, ObjectClass.CAR)}
        assert objects[0].onset_frame == 5
