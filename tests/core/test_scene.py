"""Scene files: what is read, what is refused and how, and that saving loses nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.boxes import MAX_BOXES, ObjectClass
from drivesim.core.camera import Camera
from drivesim.core.scene import Scene

GOOD = """\
name: test
time: night
size: [128, 256]
num_cars: 3
camera: {fov_deg: 70, height_m: 1.4}
boxes:
  - {class: car, at: [20, 0]}
  - class: pedestrian
    at: [10, -2]
    heading_deg: 90
  - {class: truck, box: [10, 20, 60, 70]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "street.yaml"
    path.write_text(text)
    return path


def test_a_scene_is_read_in_full(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, GOOD))
    assert (scene.name, scene.size_hw, scene.is_night, scene.num_cars) == ("test", (128, 256), True, 3)
    assert scene.boxes_2d.xyxy_px.tolist() == [[10, 20, 60, 70]]
    assert scene.boxes_3d is not None
    assert scene.boxes_3d.class_ids.tolist() == [ObjectClass.CAR.id, ObjectClass.PEDESTRIAN.id]
    assert scene.boxes_3d.center_m[:, 2].tolist() == [0.8, 0.875]  # they stand on the road


def test_what_a_scene_leaves_out_is_unknown(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, "boxes: []"))
    assert scene.name == "street"
    assert [scene.is_night, scene.num_cars, scene.camera, scene.boxes_3d] == [None] * 4
    assert len(scene.picture_boxes((64, 128))) == 0


def test_saving_and_loading_gives_the_same_scene(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, GOOD))
    scene.save(tmp_path / "copy.yaml")
    copy = Scene.load(tmp_path / "copy.yaml")
    assert (copy.name, copy.size_hw, copy.is_night, copy.num_cars) == ("test", (128, 256), True, 3)
    assert scene.boxes_3d is not None and copy.boxes_3d is not None
    np.testing.assert_allclose(copy.boxes_3d.rotation_wxyz, scene.boxes_3d.rotation_wxyz, atol=1e-6)
    ours, theirs = scene.picture_boxes((128, 256)), copy.picture_boxes((128, 256))
    np.testing.assert_allclose(theirs.xyxy_px, ours.xyxy_px, atol=1e-3)
    np.testing.assert_array_equal(theirs.class_ids, ours.class_ids)


def test_boxes_in_space_project_by_the_pinhole_formula(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, "boxes:\n  - {class: car, at: [21.5, 2], size: [2, 4, 1.5]}"))
    focal_px = 128 / np.tan(np.radians(32))
    near_m, far_m = 20 - 2, 20 + 2  # the camera stands 1.5 m ahead of the ego origin, 1.5 m high
    expected = [
        128 - 3 / near_m * focal_px,
        64,  # the roof is as high as the camera
        128 - 1 / far_m * focal_px,
        64 + 1.5 / near_m * focal_px,
    ]
    np.testing.assert_allclose(scene.picture_boxes((128, 256)).xyxy_px, [expected], rtol=1e-9)


def test_a_turned_box_is_as_wide_as_it_was_long(tmp_path: Path) -> None:
    text = "boxes:\n  - {class: bus, at: [41.5, 0], heading_deg: 90, size: [2, 10, 3]}"
    left, _, right, _ = Scene.load(write(tmp_path, text)).picture_boxes((128, 256)).xyxy_px[0]
    assert right - left == pytest.approx(10 / 39 * 128 / np.tan(np.radians(32)))


def test_picture_boxes_follow_the_size_of_the_picture(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, GOOD))
    large, small = scene.picture_boxes((128, 256)), scene.picture_boxes((64, 128))
    np.testing.assert_allclose(small.xyxy_px * 2, large.xyxy_px)
    assert large.class_ids.tolist() == [ObjectClass.CAR.id, ObjectClass.PEDESTRIAN.id, ObjectClass.TRUCK.id]


def test_cars_are_counted_unless_the_number_is_given(tmp_path: Path) -> None:
    assert Scene.load(write(tmp_path, GOOD)).count_cars() == 3
    assert Scene.load(write(tmp_path, GOOD.replace("num_cars: 3\n", ""))).count_cars() == 2


# What is wrong, the text, the line it must name, and words that the message must hold.
MISTAKES = {
    "wrong key": (GOOD.replace("time:", "tiem:"), 2, ["tiem", "did you mean 'time'", "num_cars"]),
    "wrong key in a box": (GOOD.replace("heading_deg", "heading"), 10, ["boxes[1].heading", "heading_deg"]),
    "wrong key in the camera": (GOOD.replace("fov_deg", "fov"), 5, ["camera.fov", "fov_deg", "height_m"]),
    "unknown class": (GOOD.replace("pedestrian", "lorry"), 8, ["boxes[1].class", "'lorry'", "car, truck, bus"]),
    "no class": (GOOD.replace("class: truck, ", ""), 11, ["boxes[2]", "'class' is missing"]),
    "neither metres nor pixels": (GOOD.replace(", at: [20, 0]", ""), 7, ["boxes[0]", "'at:", "'box:"]),
    "metres and pixels": (GOOD.replace("{class: truck,", "{class: truck, at: [9, 0],"), 11, ["boxes[2]"]),
    "pixels with a heading": (GOOD.replace("70]}", "70], heading_deg: 3}"), 11, ["boxes[2].heading_deg", "class, box"]),
    "box right of the picture": (
        GOOD.replace("10, 20, 60, 70", "256, 20, 300, 70"),
        11,
        ["boxes[2].box", "outside", "128 x 256"],
    ),
    "box left of the picture": (GOOD.replace("10, 20, 60, 70", "-60, 20, 0, 70"), 11, ["boxes[2].box", "outside"]),
    "box of no area": (GOOD.replace("60, 70", "10, 70"), 11, ["boxes[2].box", "no area"]),
    "box upside down": (GOOD.replace("60, 70", "60, 5"), 11, ["boxes[2].box", "no area"]),
    "box behind the camera": (GOOD.replace("[20, 0]", "[-20, 0]"), 7, ["boxes[0].at", "outside the picture"]),
    "box beside the picture": (GOOD.replace("[20, 0]", "[5, 30]"), 7, ["boxes[0].at", "outside the picture"]),
    "a picture that is not 2:1": (GOOD.replace("[128, 256]", "[256, 256]"), 3, ["size", "twice the height"]),
    "a tag that YAML does not know": (GOOD.replace("num_cars: 3", "num_cars: !foo 3"), 4, ["num_cars", "'3'"]),
    "a date that is none": (GOOD.replace("num_cars: 3", "num_cars: 2024-13-45"), 4, ["num_cars", "2024-13-45"]),
    "box of no volume": (GOOD.replace("[20, 0]", "[20, 0], size: [2, 0, 1]"), 7, ["boxes[0].size", "volume"]),
    "three numbers for a box": (GOOD.replace("60, 70", "60"), 11, ["boxes[2].box", "left, top, right, bottom"]),
    "a word for a number": (GOOD.replace("[10, 20", "[ten, 20"), 11, ["boxes[2].box[0]", "'ten'"]),
    "not a number": (GOOD.replace("[20, 0]", "[.nan, 0]"), 7, ["boxes[0].at[0]", "number"]),
    "half a car": (GOOD.replace("num_cars: 3", "num_cars: 2.5"), 4, ["num_cars", "whole number"]),
    "minus one car": (GOOD.replace("num_cars: 3", "num_cars: -1"), 4, ["num_cars", "zero or more"]),
    "an hour for a time": (GOOD.replace("night", "noon"), 2, ["time", "'noon'", "day, night"]),
    "one number for a size": (GOOD.replace("[128, 256]", "128"), 3, ["size", "list"]),
    "a tiny picture": (GOOD.replace("[128, 256]", "[1, 2]"), 3, ["size", "16"]),
    "no angle of view": (GOOD.replace("fov_deg: 70", "fov_deg: 0"), 5, ["camera", "fov_deg"]),
    "a key twice": (GOOD.replace("time: night", "time: night\ntime: day"), 3, ["time", "twice"]),
    "a list for a scene": ("- car\n", 1, ["mapping", "boxes"]),
    "a mapping for boxes": ("boxes: {class: car}\n", 1, ["boxes", "list"]),
    "no YAML": ("name: [\n", 2, ["not valid YAML"]),
    "nothing": ("", 1, ["empty"]),
    "too many boxes": ("boxes:\n" + "  - {class: car, at: [20, 0]}\n" * (MAX_BOXES + 1), 2, [f"at most {MAX_BOXES}"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_field_and_choices(mistake: str, tmp_path: Path) -> None:
    text, line, words = MISTAKES[mistake]
    with pytest.raises(ValueError) as caught:
        Scene.load(write(tmp_path, text))
    message = str(caught.value)
    assert f"street.yaml:{line}: " in message
    for word in words:
        assert word in message


def test_a_file_of_bytes_is_no_scene(tmp_path: Path) -> None:
    path = tmp_path / "street.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not a text file"):
        Scene.load(path)


def test_a_camera_that_a_file_cannot_say_is_refused(tmp_path: Path) -> None:
    scene = Scene.load(write(tmp_path, GOOD))
    assert scene.camera is not None
    scene.camera = Camera.front((128, 256)).cropped(5, 0, (128, 256))
    with pytest.raises(ValueError, match="level camera"):
        scene.save(tmp_path / "copy.yaml")


def test_every_shipped_scene_loads_and_shows_boxes(repo_root: Path) -> None:
    paths = sorted((repo_root / "conf" / "scenes").glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        scene = Scene.load(path)
        assert scene.name == path.stem
        sizes = np.ptp(scene.picture_boxes((128, 256)).xyxy_px.reshape(-1, 2, 2), axis=1)
        assert len(sizes) and (sizes > 3).all(), f"{path.name} has a box too small to see"


def test_a_pixel_box_may_say_how_far_it_is(tmp_path: Path) -> None:
    text = "boxes:\n  - {class: car, box: [1, 2, 30, 40], depth_m: 12.5}\n  - {class: bus, box: [1, 2, 30, 40]}"
    scene = Scene.load(write(tmp_path, text))
    np.testing.assert_array_equal(scene.boxes_2d.depth_m, [12.5, np.nan])
    scene.save(tmp_path / "again.yaml")
    np.testing.assert_array_equal(Scene.load(tmp_path / "again.yaml").boxes_2d.depth_m, [12.5, np.nan])
    with pytest.raises(ValueError, match=r"depth_m.*above 0"):
        Scene.load(write(tmp_path, text.replace("12.5", "0")))


def test_boxes_in_pixels_end_at_the_picture_s_edges(tmp_path: Path) -> None:
    path = tmp_path / "cut.yaml"
    path.write_text("boxes:\n  - {class: car, box: [-50, 58, 60, 188]}\n  - {class: bus, box: [200, -9, 300, 40]}")
    assert Scene.load(path).boxes_2d.xyxy_px.tolist() == [[0, 58, 60, 128], [200, 0, 256, 40]]
