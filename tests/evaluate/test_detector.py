"""The detector's maps become boxes, and the shipped weights see toytown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.core.boxes import CLASSES, ObjectClass
from drivesim.core.files import sha256_file
from drivesim.evaluate.detector import WEIGHTS, Detector, DetectorConfig, read_maps
from drivesim.evaluate.detector_network import INPUT_HW, STRIDE_PX, DetectorMaps, DetectorNetwork
from drivesim.evaluate.obedience import Measure, ObedienceConfig, ObedienceMeter, Wanted
from tests.evaluate.town_videos import FPS, boxes_of, drive

GRID_HW = (INPUT_HW[0] // STRIDE_PX, INPUT_HW[1] // STRIDE_PX)
SHOWN_SCENES = range(40, 46)


def maps_with(*objects: tuple[ObjectClass, int, int, float]) -> DetectorMaps:
    """Objects of 16 x 24 pixels by class, row, column and logit."""
    logits = torch.full((1, len(CLASSES), *GRID_HW), -9.0)
    for object_class, row, column, logit in objects:
        logits[0, object_class.id, row, column] = logit
    sides = torch.tensor([12.0, 8.0, 12.0, 8.0])[None, :, None, None].expand(1, 4, *GRID_HW)
    return DetectorMaps(
        objects_BKhw=logits,
        sides_B4hw=sides,
        log_depth_Bhw=torch.full((1, *GRID_HW), 20.0).log(),
        night_B=torch.tensor([2.0]),
    )


def test_peaks_become_boxes_strongest_first_and_weak_ones_are_left_out() -> None:
    car, bus = (ObjectClass.CAR, 10, 20, 1.0), (ObjectClass.BUS, 20, 40, 3.0)
    (found,) = read_maps(maps_with(car, bus, (ObjectClass.CAR, 25, 5, -5.0)), DetectorConfig())
    assert [CLASSES[index] for index in found.boxes.class_ids] == [ObjectClass.BUS, ObjectClass.CAR]
    np.testing.assert_allclose(found.boxes.xyxy_px[1], [82 - 12, 42 - 8, 82 + 12, 42 + 8])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))], rtol=1e-6)
    np.testing.assert_allclose(found.boxes.depth_m, 20.0, rtol=1e-5)
    assert found.night == pytest.approx(1 / (1 + np.exp(-2)))
    assert len(found.confident(0.8)) == 1


def test_of_two_detections_of_one_object_the_stronger_stays_and_neighbours_are_kept() -> None:
    one = [(ObjectClass.CAR, 10, 20, 2.0), (ObjectClass.BUS, 10, 21, 1.5)]  # 5 / 7 of each other
    (found,) = read_maps(maps_with(*one, (ObjectClass.CAR, 10, 23, 1.0)), DetectorConfig())
    assert [CLASSES[index].value for index in found.boxes.class_ids] == ["car", "car"]


def test_pictures_of_any_size_and_shape_are_seen_in_their_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(network=DetectorNetwork().eval(), fingerprint="none")
    monkeypatch.setattr(DetectorNetwork, "forward", lambda self, pictures: maps_with((ObjectClass.CAR, 10, 20, 2.0)))
    (found,) = detector(np.zeros((1, 512, 1024, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes.xyxy_px, [[280, 136, 376, 200]])
    (found,) = detector(np.zeros((1, 128, 192, 3), dtype=np.uint8))  # the middle 96 rows
    np.testing.assert_allclose(found.boxes.xyxy_px, [[52.5, 41.5, 70.5, 53.5]])
    with pytest.raises(ValueError, match=r"\(T, H, W, 3\)"):
        detector(np.zeros((128, 256, 3), dtype=np.uint8))


def test_weights_come_back_as_they_were_saved_and_others_are_refused(tmp_path: Path) -> None:
    network = DetectorNetwork().eval()
    network.save(tmp_path / "weights.safetensors")
    loaded = DetectorNetwork.load(tmp_path / "weights.safetensors")
    picture = torch.rand(1, 3, *INPUT_HW) * 2 - 1
    torch.testing.assert_close(loaded(picture).objects_BKhw, network(picture).objects_BKhw, atol=0.05, rtol=0.02)
    with pytest.raises(FileNotFoundError, match="weights of the detector"):
        DetectorNetwork.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="not the weights of this detector"):
        DetectorNetwork.load(WEIGHTS.parent / "toytown_clip.safetensors")


def test_settings_that_find_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        DetectorConfig(score=1.0)
    with pytest.raises(ValueError, match=r"above detector\.score"):
        DetectorConfig(score=0.1, lowest_score=0.2)


def test_the_shipped_detector_is_small_and_on_its_card() -> None:
    assert WEIGHTS.stat().st_size <= 2 * 10**6
    card = Path(__file__).resolve().parents[2] / "evaluation" / "toytown-detector" / "README.md"
    assert sha256_file(WEIGHTS) in card.read_text(encoding="utf-8")


def test_the_shipped_detector_sees_held_out_drives() -> None:
    detector = Detector.shipped()
    assert detector.fingerprint == sha256_file(WEIGHTS)
    meter = ObedienceMeter(ObedienceConfig(resamples=20))
    for scene in SHOWN_SCENES:
        video = drive(scene)
        every = slice(0, None, int(FPS) * 2)
        for boxes, found in zip(boxes_of(video)[every], detector(video.frames_THWC[every]), strict=True):
            episode = video.episode
            wanted = Wanted(scene=episode.name, boxes=boxes, is_night=episode.is_night, num_cars=boxes.num_cars())
            meter.update(wanted, found, (64, 128))
    rows = {(row.measure, row.kind): row.made.value for row in meter.compute()}
    assert rows[Measure.NIGHT, "all"] > 0.9
    assert rows[Measure.PRECISION, "car"] > 0.6
    assert rows[Measure.OMITTED, "large"] < 0.25
    assert rows[Measure.OVERLAP, "all"] > 0.7
