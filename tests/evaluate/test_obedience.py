"""Obedience against hand-counted cases and an independent computation, and from folders of scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.core.files import read_json, read_rows
from drivesim.core.picture import save_png
from drivesim.core.scene import Scene
from drivesim.evaluate.box_matching import match_picture
from drivesim.evaluate.detector import Detections
from drivesim.evaluate.obedience import Measure, ObedienceConfig, ObedienceMeter, ObedienceRow, Wanted, with_ceiling
from drivesim.evaluate.obedience_report import obedience_lines, obedience_section
from drivesim.evaluate.obedience_run import evaluate_obedience, scene_folders
from drivesim.evaluate.overlaps import overlap_matrix
from drivesim.evaluate.scene_measures import AveragePrecision, Ratio, estimate

SIZE_HW = (128, 256)
CAR, BUS, PERSON = ObjectClass.CAR.id, ObjectClass.BUS.id, ObjectClass.PEDESTRIAN.id


def boxes_of(*rows: tuple[int, float, float, float, float], depth_m: float = 10.0) -> Boxes2D:
    return Boxes2D(
        xyxy_px=np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 4),
        class_ids=np.array([row[0] for row in rows], dtype=np.int64),
        depth_m=np.full(len(rows), depth_m),
        visibility=np.full(len(rows), np.nan),
    )


def detected(boxes: Boxes2D, scores: list[float], night: float = 0.1) -> Detections:
    return Detections(boxes=boxes, scores=np.array(scores), night=night)


def row(rows: list[ObedienceRow], measure: Measure, kind: str = "all") -> ObedienceRow:
    (found,) = [entry for entry in rows if entry.measure is measure and entry.kind == kind]
    return found


def test_overlaps_of_known_boxes() -> None:
    first = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    second = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    np.testing.assert_allclose(overlap_matrix(first, second), [[1, 1 / 3, 0], [0, 0, 0]])
    assert overlap_matrix(first, np.zeros((0, 4))).shape == (2, 0)


def test_the_stronger_of_two_detections_gets_the_wanted_box_and_classes_do_not_mix() -> None:
    wanted = boxes_of((CAR, 10, 10, 50, 40), (BUS, 100, 10, 150, 60))
    found = detected(boxes_of((CAR, 10, 10, 50, 44), (CAR, 10, 10, 50, 40), (CAR, 100, 10, 150, 60)), [0.9, 0.8, 0.7])
    matched = match_picture(wanted, found, SIZE_HW)
    np.testing.assert_allclose(matched.found_overlap, [30 / 34, 0, 0])
    assert matched.wanted_score.tolist() == [0.9, 0.0]


def test_tiny_boxes_may_be_found_or_not() -> None:
    wanted = boxes_of((PERSON, 10, 10, 12, 13), (CAR, 50, 50, 90, 80))
    for found in (detected(boxes_of(), []), detected(boxes_of((PERSON, 10, 10, 12, 13)), [0.9])):
        matched = match_picture(wanted, found, SIZE_HW)
        assert len(matched.found_class) == 0
        assert matched.wanted_class.tolist() == [CAR]


def test_average_precision_by_hand() -> None:
    # right, wrong, right, and one that is never found: the area is 1/3 * 1 + 1/3 * 2/3.
    number = AveragePrecision(
        scene_N=np.array([0, 0, 1]), is_right_N=np.array([True, False, True]), num_wanted_S=np.array([2.0, 1.0])
    )
    assert number.value(np.ones(2)) == pytest.approx(1 / 3 + 2 / 9)
    assert number.value(np.array([1.0, 0.0])) == pytest.approx(1 / 2)
    assert np.isnan(number.value(np.zeros(2)))


def precision_by_threshold(scores: np.ndarray, is_right: np.ndarray, num_wanted: int) -> float:  # type: ignore[type-arg]
    """Slowly: at each recall that is reached, the best precision of any threshold that reaches it."""
    points = [
        (is_right[scores >= limit].sum() / num_wanted, is_right[scores >= limit].mean()) for limit in np.unique(scores)
    ]
    area, before = 0.0, 0.0
    for recall in sorted({point[0] for point in points}):
        area += (recall - before) * max(precision for reached, precision in points if reached >= recall)
        before = recall
    return area


def test_average_precision_against_thresholds_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores, is_right = rng.permutation(40) / 40, rng.random(40) < 0.6
        order = np.argsort(-scores)
        number = AveragePrecision(
            scene_N=np.zeros(40, dtype=np.int64), is_right_N=is_right[order], num_wanted_S=np.array([30.0])
        )
        assert number.value(np.ones(1)) == pytest.approx(precision_by_threshold(scores, is_right, 30))


def test_an_interval_by_scene_is_wider_than_pictures_would_say_and_holds_the_mean() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=40)
    number = Ratio(above_S=25 * means, below_S=np.full(40, 25.0))  # 25 equal pictures a scene
    found = estimate(number, 40, level=0.95, resamples=2000, seed=0)
    half_width = 1.96 * means.std(ddof=1) / np.sqrt(40)
    assert found.value == pytest.approx(means.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half_width, rel=0.1)
    assert np.isnan(estimate(Ratio(above_S=means[:2], below_S=np.ones(2)), 2, level=0.95, resamples=20, seed=0).low)


def measured(pictures: list[tuple[Wanted, Detections]]) -> list[ObedienceRow]:
    meter = ObedienceMeter(ObedienceConfig(resamples=50))
    for wanted, found in pictures:
        meter.update(wanted, found, SIZE_HW)
    return meter.compute()


def test_omitted_and_invented_objects_are_counted_by_class_size_and_distance() -> None:
    boxes = boxes_of((CAR, 10, 10, 60, 60), (PERSON, 100, 60, 104, 70))
    boxes.depth_m = np.array([8.0, 40.0])
    bus = boxes_of((BUS, 150, 20, 220, 90), depth_m=20.0)
    asked = Wanted(scene="a", boxes=boxes, is_night=False, num_cars=1)
    found_car = boxes_of((CAR, 10, 10, 60, 60), (BUS, 150, 20, 220, 90))
    found_car.depth_m = np.array([8.0, 20.0])
    rows = measured(
        [
            (asked, detected(found_car, [0.9, 0.8])),
            (asked, detected(boxes, [0.9, 0.2])),  # the person too weakly to count, though average precision sees it
            (Wanted(scene="b", boxes=bus, is_night=True, num_cars=1), detected(bus, [0.9], night=0.9)),
            (Wanted(scene="c", boxes=boxes_of(), is_night=True, num_cars=0), detected(boxes_of(), [])),
        ]
    )
    assert row(rows, Measure.OMITTED).made.value == pytest.approx(2 / 5)
    assert row(rows, Measure.OMITTED, "pedestrian").made.value == 1
    assert row(rows, Measure.OMITTED, "car").made.value == 0
    assert row(rows, Measure.OMITTED, "small").made.value == 1
    assert row(rows, Measure.OMITTED, "far").made.value == 1
    assert row(rows, Measure.OMITTED, "near").made.value == 0
    assert row(rows, Measure.INVENTED).made.value == pytest.approx(1 / 4)
    assert row(rows, Measure.INVENTED, "bus").made.value == pytest.approx(1 / 4)
    assert row(rows, Measure.INVENTED, "middle").made.value == pytest.approx(1 / 4)
    assert row(rows, Measure.OVERLAP).made.value == 1
    assert row(rows, Measure.PRECISION, "pedestrian").made.value == pytest.approx(1 / 2)
    assert row(rows, Measure.PRECISION, "bus").made.value == 1
    assert row(rows, Measure.PRECISION).made.value == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert row(rows, Measure.NIGHT).made.value == pytest.approx(3 / 4)
    assert row(rows, Measure.CARS).made.value == pytest.approx(1 / 4)
    assert row(rows, Measure.CARS_BIAS).made.value == pytest.approx(1 / 4)


def test_what_nobody_asked_for_is_not_measured() -> None:
    rows = measured([(Wanted(scene="a", boxes=None, is_night=True, num_cars=None), detected(boxes_of(), []))])
    assert [entry.measure for entry in rows] == [Measure.NIGHT]
    with pytest.raises(ValueError, match="no pictures"):
        ObedienceMeter().compute()


def test_ceilings_stand_beside_the_numbers_that_they_belong_to() -> None:
    boxes = boxes_of((CAR, 10, 10, 60, 60))
    asked = Wanted(scene="a", boxes=boxes, is_night=None, num_cars=None)
    made, real = measured([(asked, detected(boxes_of(), []))]), measured([(asked, detected(boxes, [0.9]))])
    rows = with_ceiling(made, real)
    omitted = row(rows, Measure.OMITTED, "car")
    assert omitted.ceiling is not None
    assert (omitted.made.value, omitted.ceiling.value) == (1, 0)
    assert all(entry.ceiling is not None for entry in rows)
    assert "real pictures 0.000" in "\n".join(obedience_lines(rows))
    assert "omitted" in obedience_section(rows)


class BlobDetector:
    """Finds the one bright rectangle of a dark picture and calls it a car."""

    fingerprint = "none"

    def __call__(self, frames_THWC: np.ndarray) -> list[Detections]:  # type: ignore[type-arg]
        found = []
        for frame in frames_THWC:
            rows, columns = np.nonzero(frame.mean(axis=-1) > 200)
            boxes = boxes_of()
            if len(rows):
                boxes = boxes_of((CAR, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            found.append(detected(boxes, [0.9] * len(boxes), night=float(frame.mean() < 60)))
        return found


def write_scenes(folder: Path, shifts_px: list[int], *, name: str = "frame_000.png") -> None:
    for index, shift in enumerate(shifts_px):
        scene = Scene(name=f"scene {index}", size_hw=SIZE_HW, boxes_2d=boxes_of((CAR, 40, 40, 100, 80)), is_night=True)
        scene.save(folder / str(index) / "scene.yaml")
        picture = np.zeros((64, 128, 3), dtype=np.uint8)
        picture[20:40, 20 + shift : 50 + shift] = 255
        save_png(folder / str(index) / name, picture)
        save_png(folder / str(index) / "frame_000_boxes.png", np.zeros((8, 16, 3), dtype=np.uint8))  # for eyes


def test_a_folder_of_scenes_is_measured_with_its_ceiling(tmp_path: Path) -> None:
    write_scenes(tmp_path / "made", [0, 0, 60, 0])
    write_scenes(tmp_path / "real", [0, 0, 0, 0], name="real.png")
    (tmp_path / "made" / "3" / "frame_001.png").write_bytes(b"no picture")
    detector = BlobDetector()
    found = evaluate_obedience(
        ObedienceConfig(resamples=50), tmp_path / "made", tmp_path / "real", tmp_path / "out", detector  # type: ignore[arg-type]
    )  # fmt: skip
    omitted = row(found.rows, Measure.OMITTED)
    assert omitted.ceiling is not None
    assert (omitted.made.value, omitted.ceiling.value) == (0.25, 0)
    assert row(found.rows, Measure.OMITTED, "near").made.value == 0.25  # the scene file tells the distance
    assert row(found.rows, Measure.NIGHT).made.value == 1
    card = read_json(tmp_path / "out" / "obedience.json")["card"]
    assert card["generated"]["num_pictures"] == 4
    assert card["generated"]["num_left_out"] == 1
    failed = [entry for entry in read_rows(tmp_path / "out" / "rows.jsonl") if not entry["ok"]]
    assert [entry["name"] for entry in failed] == ["3/frame_001.png"]
    assert [warning for warning in found.warnings if "other scenes" in warning] == []
    page = found.report.read_text(encoding="utf-8")
    assert "omitted" in page and page.count("<figure>") == 4


def test_scenes_of_one_name_in_several_folders_are_several_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "made", [0, 0, 60, 60])
    for path in scene_folders(tmp_path / "made"):
        text = (path / "scene.yaml").read_text().splitlines(keepends=True)
        (path / "scene.yaml").write_text("".join(line for line in text if not line.startswith("name:")))
        assert Scene.load(path / "scene.yaml").name == "scene"  # as written by hand
    config, made, detector = ObedienceConfig(resamples=50), tmp_path / "made", BlobDetector()
    found = evaluate_obedience(config, made, None, tmp_path / "out", detector)  # type: ignore[arg-type]
    omitted = row(found.rows, Measure.OMITTED).made
    assert omitted.value == 0.5 and omitted.low < 0.5 < omitted.high
    assert [entry["scene"] for entry in read_rows(tmp_path / "out" / "rows.jsonl")] == ["0", "1", "2", "3"]


def test_ceilings_of_other_scenes_are_told_and_empty_folders_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "made", [0, 0, 0])
    write_scenes(tmp_path / "real", [0])
    (tmp_path / "real" / "0" / "scene.yaml").write_text("size: [128, 256]\n")
    detector = BlobDetector()
    found = evaluate_obedience(
        ObedienceConfig(resamples=50), tmp_path / "made", tmp_path / "real", tmp_path / "out", detector  # type: ignore[arg-type]
    )  # fmt: skip
    assert any("other scenes" in warning for warning in found.warnings)
    assert scene_folders(tmp_path / "nothing") == []
    for picture in (tmp_path / "real").rglob("*.png"):
        picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no real picture of a scene can be read"):
        evaluate_obedience(ObedienceConfig(), tmp_path / "made", tmp_path / "real", tmp_path / "out", detector)  # type: ignore[arg-type]


def test_folders_without_scenes_and_pictures_are_refused_with_what_makes_them(tmp_path: Path) -> None:
    write_scenes(tmp_path / "made", [0])
    with pytest.raises(FileNotFoundError, match="real=.*nothere: no such folder"):
        evaluate_obedience(ObedienceConfig(), tmp_path / "made", tmp_path / "nothere", tmp_path / "out")
    write_scenes(tmp_path / "real", [0])
    for picture in (tmp_path / "real").rglob("*.png"):
        picture.unlink()
    with pytest.raises(ValueError, match="real=.*drivesim prepare .* export.scenes_every_s="):
        evaluate_obedience(ObedienceConfig(), tmp_path / "made", tmp_path / "real", tmp_path / "out")
    with pytest.raises(ValueError, match="generated=.*drivesim design"):
        evaluate_obedience(ObedienceConfig(), tmp_path / "real", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
