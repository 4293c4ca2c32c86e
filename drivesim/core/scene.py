"""A scene: what a person designs before the first frame exists, and its YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from drivesim.core.boxes import CLASSES, MAX_BOXES, Boxes2D, Boxes3D, ObjectClass
from drivesim.core.camera import Camera, project_boxes, quaternion_from_matrix, rotation_matrix
from drivesim.core.files import atomic_path
from drivesim.core.yaml_fields import Field

DEFAULT_SIZE_HW = (128, 256)
DEFAULT_FOV_DEG = 64.0
DEFAULT_HEIGHT_M = 1.5

# Width, length, height of a box whose file gives none.
DEFAULT_SIZE_M: dict[ObjectClass, tuple[float, float, float]] = {
    ObjectClass.CAR: (1.9, 4.5, 1.6),
    ObjectClass.TRUCK: (2.5, 7.5, 3.2),
    ObjectClass.BUS: (2.6, 11.0, 3.3),
    ObjectClass.MOTORCYCLE: (0.8, 2.1, 1.5),
    ObjectClass.BICYCLE: (0.6, 1.8, 1.7),
    ObjectClass.PEDESTRIAN: (0.65, 0.65, 1.75),
}

_SCENE_KEYS = ("name", "time", "size", "num_cars", "camera", "boxes")
_BOX_KEYS_2D = ("class", "box", "depth_m")
_BOX_KEYS_3D = ("class", "at", "heading_deg", "size")
_TIMES = ("day", "night")


@dataclass(kw_only=True, slots=True)
class Scene:
    """Boxes, camera and labels of one start frame. None = left to the model."""

    name: str
    size_hw: tuple[int, int]  # the picture that the pixel boxes refer to
    boxes_2d: Boxes2D  # in pixels of size_hw
    boxes_3d: Boxes3D | None = None  # ego axes: x forward, y left, z up, origin on the road
    camera: Camera | None = None  # for pictures of size_hw; always there when boxes_3d is
    is_night: bool | None = None
    num_cars: int | None = None  # None = as many as the boxes show

    @classmethod
    def load(cls, path: str | Path) -> Scene:
        """Reads a scene file.

        Raises:
            ValueError: it does not describe a scene; names file, line, field and valid choices.
            OSError: it cannot be opened.
        """
        path = Path(path)
        fields = Field.from_file(path).mapping(_SCENE_KEYS)
        size_hw = _read_size(fields["size"]) if "size" in fields else DEFAULT_SIZE_HW
        camera = _read_camera(fields["camera"], size_hw) if "camera" in fields else None
        box_fields = fields["boxes"].items() if "boxes" in fields else []
        if len(box_fields) > MAX_BOXES:
            raise fields["boxes"].error(f"{len(box_fields)} boxes; at most {MAX_BOXES}")
        in_space = [field for field in box_fields if _is_in_space(field)]
        if in_space and camera is None:
            camera = Camera.front(size_hw, DEFAULT_FOV_DEG, DEFAULT_HEIGHT_M)
        boxes_3d = _join_3d([_read_box_3d(field, camera) for field in in_space if camera is not None])
        return cls(
            name=fields["name"].text() if "name" in fields else path.stem,
            size_hw=size_hw,
            boxes_2d=_read_boxes_2d([field for field in box_fields if field not in in_space], size_hw),
            boxes_3d=boxes_3d,
            camera=camera,
            is_night=fields["time"].choice(_TIMES, "time") == "night" if "time" in fields else None,
            num_cars=fields["num_cars"].count() if "num_cars" in fields else None,
        )

    def save(self, path: str | Path) -> None:
        """Writes the scene file that `load` reads back.

        Raises:
            ValueError: a tilted box, or a camera other than `Camera.front`, which the file cannot say.
        """
        values: dict[str, object] = {"name": self.name}
        if self.is_night is not None:
            values["time"] = "night" if self.is_night else "day"
        values["size"] = list(self.size_hw)
        if self.num_cars is not None:
            values["num_cars"] = self.num_cars
        if self.camera is not None:
            values["camera"] = _camera_values(self.camera, self.size_hw)
        values["boxes"] = _box_values_2d(self.boxes_2d) + _box_values_3d(self.boxes_3d)
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, default_flow_style=None), encoding="utf-8")

    def picture_boxes(self, size_hw: tuple[int, int]) -> Boxes2D:
        """All boxes as seen in a picture of `size_hw` (pixels), those in space first, nearest last."""
        drawn = self.boxes_2d.scaled(self.size_hw, size_hw)
        if self.boxes_3d is None or self.camera is None:
            return drawn
        projected, _ = project_boxes(ego_boxes_to_camera(self.boxes_3d, self.camera), self.camera.resized(size_hw))
        projected = projected.select(np.argsort(-projected.depth_m, kind="stable"))
        return Boxes2D(
            xyxy_px=np.concatenate([projected.xyxy_px, drawn.xyxy_px]),
            class_ids=np.concatenate([projected.class_ids, drawn.class_ids]),
            depth_m=np.concatenate([projected.depth_m, drawn.depth_m]),
            visibility=np.concatenate([projected.visibility, drawn.visibility]),
        )

    def count_cars(self) -> int:
        """The label "number of cars": as given, else cars, trucks and buses in the picture."""
        return self.picture_boxes(self.size_hw).num_cars() if self.num_cars is None else self.num_cars


def ego_boxes_to_camera(boxes: Boxes3D, camera: Camera) -> Boxes3D:
    """The same boxes in camera axes instead of ego axes."""
    to_camera = rotation_matrix(camera.rotation_wxyz).T
    rotations = [quaternion_from_matrix(to_camera @ rotation_matrix(wxyz)) for wxyz in boxes.rotation_wxyz]
    return Boxes3D(
        center_m=camera.ego_to_camera(boxes.center_m),
        size_m=boxes.size_m,
        rotation_wxyz=np.array(rotations, dtype=np.float64).reshape(-1, 4),
        class_ids=boxes.class_ids,
        track_ids=boxes.track_ids,
        visibility=boxes.visibility,
    )


def _read_size(field: Field) -> tuple[int, int]:
    height, width = (item.count() for item in field.items()) if len(field.items()) == 2 else (0, 0)
    if height < 16 or width < 16:
        raise field.error("expected [height, width] in pixels, 16 or more each")
    if width != 2 * height:  # boxes of another shape would be squashed into the model's picture
        raise field.error(f"{height} x {width} pixels; the width must be twice the height, as in [128, 256]")
    return height, width


def _read_camera(field: Field, size_hw: tuple[int, int]) -> Camera:
    values = {name: value.number() for name, value in field.mapping(("fov_deg", "height_m")).items()}
    fov_deg = values.get("fov_deg", DEFAULT_FOV_DEG)
    height_m = values.get("height_m", DEFAULT_HEIGHT_M)
    if not 10 <= fov_deg <= 150:
        raise field.error(f"fov_deg is {fov_deg:g}; valid: 10 to 150")
    if not 0.2 <= height_m <= 10:
        raise field.error(f"height_m is {height_m:g}; valid: 0.2 to 10")
    return Camera.front(size_hw, fov_deg, height_m)


def _is_in_space(field: Field) -> bool:
    """Whether a box is given in metres (`at`) or in pixels (`box`); both or neither is refused."""
    keys = field.mapping(("class", "box", "depth_m", "at", "heading_deg", "size"), required=("class",))
    if ("at" in keys) == ("box" in keys):
        raise field.error("a box needs either 'box: [left, top, right, bottom]' or 'at: [x_forward_m, y_left_m]'")
    return "at" in keys


def _read_class(field: Field) -> int:
    return ObjectClass(field.choice([c.value for c in CLASSES], "class")).id


def _read_boxes_2d(box_fields: list[Field], size_hw: tuple[int, int]) -> Boxes2D:
    height, width = size_hw
    rows, class_ids, depths = [], [], []
    for field in box_fields:
        keys = field.mapping(_BOX_KEYS_2D, required=("class", "box"))
        depths.append(_read_depth(keys["depth_m"]) if "depth_m" in keys else np.nan)
        class_ids.append(_read_class(keys["class"]))
        left, top, right, bottom = keys["box"].numbers(("left", "top", "right", "bottom"))
        if right <= left or bottom <= top:
            raise keys["box"].error(
                "the box has no area; expected [left, top, right, bottom] with left < right and top < bottom"
            )
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise keys["box"].error(
                f"the box is outside the picture of {height} x {width} pixels; "
                f"valid: 0 to {width} across, 0 to {height} down"
            )
        rows.append([max(left, 0), max(top, 0), min(right, width), min(bottom, height)])  # as cameras see it
    return Boxes2D(
        xyxy_px=np.array(rows, dtype=np.float64).reshape(-1, 4),
        class_ids=np.array(class_ids, dtype=np.int64),
        depth_m=np.array(depths, dtype=np.float64),
        visibility=np.full(len(rows), np.nan),
    )


def _read_depth(field: Field) -> float:
    """How far a pixel box is: models do not see it, scores by distance go by it."""
    depth_m = field.number()
    if depth_m <= 0:
        raise field.error(f"depth_m is {depth_m:g}; must be above 0")
    return depth_m


def _read_box_3d(field: Field, camera: Camera) -> Boxes3D:
    keys = field.mapping(_BOX_KEYS_3D, required=("class", "at"))
    class_id = _read_class(keys["class"])
    x_m, y_m = keys["at"].numbers(("x_forward_m", "y_left_m"))
    heading_rad = np.radians(keys["heading_deg"].number()) if "heading_deg" in keys else 0.0
    size_m = DEFAULT_SIZE_M[CLASSES[class_id]]
    if "size" in keys:
        width_m, length_m, height_m = keys["size"].numbers(("width_m", "length_m", "height_m"))
        size_m = (width_m, length_m, height_m)
    if min(size_m) <= 0:
        raise keys["size"].error("the box has no volume; expected [width_m, length_m, height_m] above zero")
    box = Boxes3D(
        center_m=np.array([[x_m, y_m, size_m[2] / 2]]),
        size_m=np.array([size_m], dtype=np.float64),
        rotation_wxyz=np.array([[np.cos(heading_rad / 2), 0.0, 0.0, np.sin(heading_rad / 2)]]),
        class_ids=np.array([class_id], dtype=np.int64),
    )
    seen, _ = project_boxes(ego_boxes_to_camera(box, camera), camera)
    if len(seen) == 0:
        raise keys["at"].error(
            f"the box is outside the picture: {x_m:g} m ahead, {y_m:g} m to the left; the camera looks straight ahead"
        )
    return box


def _join_3d(boxes: list[Boxes3D]) -> Boxes3D | None:
    if not boxes:
        return None
    return Boxes3D(
        center_m=np.concatenate([box.center_m for box in boxes]),
        size_m=np.concatenate([box.size_m for box in boxes]),
        rotation_wxyz=np.concatenate([box.rotation_wxyz for box in boxes]),
        class_ids=np.concatenate([box.class_ids for box in boxes]),
    )


def _rounded(values: NDArray[np.float64], decimals: int = 4) -> list[float]:
    return [round(float(value), decimals) for value in values]


def _camera_values(camera: Camera, size_hw: tuple[int, int]) -> dict[str, float]:
    fov_deg = float(np.degrees(2 * np.arctan(size_hw[1] / 2 / camera.intrinsic[0, 0])))
    height_m = float(camera.translation_m[2])
    front = Camera.front(size_hw, fov_deg, height_m)
    if not (
        np.allclose(front.intrinsic, camera.intrinsic)
        and np.allclose(front.translation_m, camera.translation_m)
        and np.allclose(front.rotation_wxyz, camera.rotation_wxyz)
    ):
        raise ValueError("a scene file can only say a level camera that looks straight ahead (Camera.front)")
    return {"fov_deg": round(fov_deg, 6), "height_m": round(height_m, 6)}


def _box_values_2d(boxes: Boxes2D) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for class_id, xyxy, depth_m in zip(boxes.class_ids, boxes.xyxy_px, boxes.depth_m, strict=True):
        depth = {} if np.isnan(depth_m) else {"depth_m": round(float(depth_m), 4)}
        rows.append({"class": CLASSES[class_id].value, "box": _rounded(xyxy)} | depth)
    return rows


def _box_values_3d(boxes: Boxes3D | None) -> list[dict[str, object]]:
    if boxes is None:
        return []
    rows: list[dict[str, object]] = []
    for index, class_id in enumerate(boxes.class_ids):
        w, x, y, z = boxes.rotation_wxyz[index]
        if abs(x) > 1e-3 or abs(y) > 1e-3 or abs(boxes.center_m[index, 2] - boxes.size_m[index, 2] / 2) > 1e-3:
            raise ValueError(f"boxes_3d[{index}] is tilted or off the road; a scene file holds upright boxes on it")
        heading_deg = float(np.degrees(2 * np.arctan2(z, w)))
        rows.append(
            {
                "class": CLASSES[class_id].value,
                "at": _rounded(boxes.center_m[index, :2]),
                "heading_deg": round(heading_deg, 4),
                "size": _rounded(boxes.size_m[index]),
            }
        )
    return rows
