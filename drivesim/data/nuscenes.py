"""nuScenes v1.0 tables, real or written by toytown, as a source of front-camera clips with boxes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes3D, class_from_nuscenes
from drivesim.core.camera import Camera, project_boxes, quaternion_from_matrix, rotation_matrix
from drivesim.core.clip import Clip
from drivesim.core.files import sha256_file
from drivesim.core.picture import crop_to_aspect, load_picture, resize_area
from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions
from drivesim.data.label_captions import CAPTION_FORMAT, label_captions
from drivesim.data.sampling import choose_frames, hash_split, native_fps, nearest_frames
from drivesim.data.source import Drive, Problem, ProblemKind, check_split

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

Record = dict[str, Any]  # a row of a nuScenes table

# Visibility token -> share seen: the middle of v0-40, v40-60, v60-80, v80-100.
VISIBILITY_SHARES = {"1": 0.2, "2": 0.5, "3": 0.7, "4": 0.9}
_TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
    "sample", "sample_data", "sample_annotation", "map",
)  # fmt: skip
# Which official split lists hold for which version of the tables.
_OFFICIAL = {
    "v1.0-mini": {"mini_train": "train", "mini_val": "val"},
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-test": {"test": "test"},
}


@dataclass(kw_only=True, slots=True)
class NuScenesConfig:
    """Which tables, which camera, and which scenes are held out."""

    root: str  # folder that holds samples/, sweeps/, maps/ and the folder of tables
    version: str = "v1.0-mini"  # name of the folder of tables
    camera: str = "CAM_FRONT"  # channel
    min_visibility: float = 0.0  # boxes seen less (0..1) are not in the picture's boxes; the lowest level counts as 0.2
    val_scenes: list[str] = field(default_factory=list)  # names; empty = official lists, then val_share
    val_share: float = 0.1  # share held out of the scenes that no list names; chosen by a hash of the name
    captions: bool = False  # make captions of the labels: light, way, number of cars


@dataclass(kw_only=True, slots=True)
class _Scene:
    drive: Drive
    frames: list[Record]  # rows of sample_data in time order
    timestamps_us: NDArray[np.int64]

    @property
    def timestamps_s(self) -> NDArray[np.float64]:
        return (self.timestamps_us - self.timestamps_us[0]) / 1e6


class NuScenesSource:
    """Every scene is a drive: the key frames and sweeps of one camera in time order."""

    mixes_rates = False

    def __init__(self, config: NuScenesConfig) -> None:
        """Loads the tables once; half a minute and 10 GB of memory for all of nuScenes.

        Raises:
            ValueError: no such tables, tables that do not load, no such camera, or unknown val scenes.
        """
        self.config = config
        self.name = config.version
        self._root = Path(config.root).expanduser()
        self._tables = _load_tables(self._root, config.version)
        self.has_boxes = bool(self._tables.sample_annotation)  # v1.0-test has none, though cars drive in its pictures
        channels = {row["channel"] for row in self._tables.sensor if row["modality"] == "camera"}
        if config.camera not in channels:
            raise ValueError(f"{self._root}: no camera {config.camera!r}; there are {', '.join(sorted(channels))}")
        self._problems: list[Problem] = []
        self._scenes = self._list_scenes()
        self._problems += self._leave_out_broken_boxes()

    # ---- drives -------------------------------------------------------------------------------

    def _list_scenes(self) -> dict[str, _Scene]:
        rows_of: dict[str, list[Record]] = {row["token"]: [] for row in self._tables.scene}
        for row in self._tables.sample_data:
            if row["channel"] == self.config.camera:
                rows_of[self._tables.get("sample", row["sample_token"])["scene_token"]].append(row)
        split_of = self._make_splits()
        scenes = {}
        for record in sorted(self._tables.scene, key=lambda row: str(row["name"])):
            rows = sorted(rows_of[record["token"]], key=lambda row: int(row["timestamp"]))
            scene = self._make_scene(record, rows, split_of[record["name"]])
            if scene is not None:
                scenes[scene.drive.name] = scene
        return scenes

    def _make_scene(self, record: Record, rows: list[Record], split: str) -> _Scene | None:
        name = str(record["name"])
        rows = self._keep(rows, lambda row: (self._root / row["filename"]).is_file(), ProblemKind.MISSING_IMAGE, name)
        rows = self._keep(rows, self._has_pose, ProblemKind.MISSING_POSE, name)
        timestamps_us = np.array([row["timestamp"] for row in rows], dtype=np.int64)
        if len(np.unique(timestamps_us)) < 2:
            detail = f"{len(rows)} usable pictures of {self.config.camera}"
            self._problems.append(Problem(where=name, kind=ProblemKind.TOO_SHORT, detail=detail))
            return None
        seconds = (timestamps_us - timestamps_us[0]) / 1e6
        fps = native_fps(seconds)
        drive = Drive(
            name=name,
            split=split,
            duration_s=float(seconds[-1]) + 1.0 / fps,
            fps=fps,
            num_frames=len(rows),
            size_hw=(int(rows[0]["height"]), int(rows[0]["width"])),
            is_night=_is_night(record),
        )
        return _Scene(drive=drive, frames=rows, timestamps_us=timestamps_us)

    def _keep(
        self, rows: list[Record], is_good: Callable[[Record], bool], kind: ProblemKind, scene: str
    ) -> list[Record]:
        """The good rows; one problem for all others of the scene."""
        good = [is_good(row) for row in rows]
        bad = [row["filename"] for row, is_kept in zip(rows, good, strict=True) if not is_kept]
        if bad:
            detail = f"{len(bad)} of {len(rows)}, the first is {bad[0]}"
            self._problems.append(Problem(where=scene, kind=kind, detail=detail))
        return [row for row, is_kept in zip(rows, good, strict=True) if is_kept]

    def _has_pose(self, row: Record) -> bool:
        try:
            pose = self._tables.get("ego_pose", row["ego_pose_token"])
        except KeyError:
            return False
        is_whole = _are_numbers(pose.get("translation"), 3) and _are_numbers(pose.get("rotation"), 4)
        return is_whole and any(pose["rotation"])

    def _make_splits(self) -> dict[str, str]:
        names = [str(row["name"]) for row in self._tables.scene]
        if self.config.val_scenes:
            unknown = sorted(set(self.config.val_scenes) - set(names))
            if unknown:
                raise ValueError(f"val_scenes: {', '.join(unknown)} not among the {len(names)} scenes of {self.name}")
            return {name: "val" if name in self.config.val_scenes else "train" for name in names}
        official = official_splits(self.config.version)
        splits = hash_split([name for name in names if name not in official], self.config.val_share)
        return {name: official.get(name) or splits[name] for name in names}

    # ---- ClipSource ---------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Over all tables, the camera, the splits, and which pictures are there."""
        folder = self._root / self.config.version
        parts = [sha256_file(folder / f"{table}.json") for table in _TABLES]
        parts += [self.config.camera, str(self.config.min_visibility)]
        parts += [] if self.has_boxes else ["boxes unknown"]  # caches of earlier versions say that there are none
        parts += [f"{s.drive.name}:{s.drive.split}:{[r['token'] for r in s.frames]}" for s in self._scenes.values()]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def drives(self, split: str) -> list[Drive]:
        """See `ClipSource`."""
        check_split(split)
        return [scene.drive for scene in self._scenes.values() if scene.drive.split == split]

    def timestamps_s(self, drive: str) -> NDArray[np.float64]:
        """See `ClipSource`."""
        return self._scene(drive).timestamps_s

    def ego_path(self, drive: str, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `MovingSource`; of each time the nearest frame's."""
        scene = self._scene(drive)
        index, _ = nearest_frames(scene.timestamps_s, times_s)
        return _ego_path([self._tables.get("ego_pose", scene.frames[i]["ego_pose_token"]) for i in index])

    def problems(self) -> list[Problem]:
        """Missing pictures and poses, broken boxes, scenes too short to serve."""
        return list(self._problems)

    def read(self, drive: str, *, start_s: float, num_frames: int, fps: float, size_hw: tuple[int, int]) -> Clip:
        """See `ClipSource`."""
        scene = self._scene(drive)
        index = choose_frames(drive, scene.timestamps_s, start_s=start_s, num_frames=num_frames, fps=fps)
        rows = [scene.frames[i] for i in index]
        frames, cameras, boxes_2d, boxes_3d = [], [], [], []
        for row in rows:
            frame, camera = self._picture(row, size_hw)
            frames.append(frame)
            cameras.append(camera)
            if not self.has_boxes:
                continue
            in_camera = self.boxes_in_camera(row["token"])
            boxes_3d.append(in_camera)
            pictured, _ = project_boxes(in_camera, camera)
            # Unknown visibility (nan) is no reason to leave a box out.
            boxes_2d.append(pictured.select(~(pictured.visibility < self.config.min_visibility)))
        clip = Clip(
            name=f"{drive}@{start_s:.3f}s",
            drive=drive,
            frames_THWC=np.stack(frames),
            fps=fps,
            timestamps_us=scene.timestamps_us[index],
            boxes=tuple(boxes_2d) if self.has_boxes else None,
            boxes_3d=tuple(boxes_3d) if self.has_boxes else None,
            is_night=scene.drive.is_night,
            camera=cameras[0],
            ego_path=_ego_path([self._tables.get("ego_pose", row["ego_pose_token"]) for row in rows]),
        )
        clip.validate()
        return clip

    def _scene(self, drive: str) -> _Scene:
        if drive not in self._scenes:
            names = list(self._scenes)
            raise ValueError(f"{self.name}: no scene {drive!r} that can be read; there are {', '.join(names[:5])} ...")
        return self._scenes[drive]

    # ---- pictures and boxes -------------------------------------------------------------------

    def _picture(self, row: Record, size_hw: tuple[int, int]) -> tuple[NDArray[np.uint8], Camera]:
        frame = load_picture(self._root / row["filename"])
        height, width = frame.shape[:2]
        if (height, width) != (row["height"], row["width"]):
            expected = f"{row['width']} x {row['height']}"
            raise ValueError(f"{row['filename']}: {width} x {height} pixels, the table says {expected}")
        cropped, (top, left) = crop_to_aspect(frame, size_hw[1] / size_hw[0])
        camera = self.native_camera(row["token"]).cropped(top, left, (cropped.shape[0], cropped.shape[1]))
        return resize_area(cropped, size_hw), camera.resized(size_hw)

    def native_camera(self, sample_data_token: str) -> Camera:
        """The camera of a picture at its own size."""
        row = self._tables.get("sample_data", sample_data_token)
        calibration = self._tables.get("calibrated_sensor", row["calibrated_sensor_token"])
        return Camera(
            intrinsic=np.array(calibration["camera_intrinsic"], dtype=np.float64),
            size_hw=(int(row["height"]), int(row["width"])),
            translation_m=np.array(calibration["translation"], dtype=np.float64),
            rotation_wxyz=np.array(calibration["rotation"], dtype=np.float64),
        )

    def boxes_in_camera(self, sample_data_token: str) -> Boxes3D:
        """All boxes of our classes at a picture's time, in its camera's axes, seen by it or not.

        Between key frames they are interpolated as `NuScenes.get_boxes` does.
        """
        row = self._tables.get("sample_data", sample_data_token)
        kept = []
        for box in self._tables.get_boxes(sample_data_token):
            object_class = class_from_nuscenes(box.name)
            annotation = self._tables.get("sample_annotation", box.token)
            if object_class is not None:
                kept.append((box, object_class.id, annotation))
        if not kept:
            return _no_boxes()
        pose = self._tables.get("ego_pose", row["ego_pose_token"])
        camera = self.native_camera(sample_data_token)
        to_global = rotation_matrix(np.array(pose["rotation"])) @ rotation_matrix(camera.rotation_wxyz)
        ego_m = (np.stack([box.center for box, _, _ in kept]) - pose["translation"]) @ rotation_matrix(
            np.array(pose["rotation"])
        )
        turns = [quaternion_from_matrix(to_global.T @ box.rotation_matrix) for box, _, _ in kept]
        shares = [VISIBILITY_SHARES.get(annotation["visibility_token"], np.nan) for _, _, annotation in kept]
        return Boxes3D(
            center_m=camera.ego_to_camera(ego_m),
            size_m=np.stack([box.wlh for box, _, _ in kept]).astype(np.float64),
            rotation_wxyz=np.stack(turns),
            class_ids=np.array([class_id for _, class_id, _ in kept], dtype=np.int64),
            track_ids=np.array([annotation["instance_token"] for _, _, annotation in kept], dtype=np.str_),
            visibility=np.array(shares, dtype=np.float64),
        )

    def _leave_out_broken_boxes(self) -> list[Problem]:
        """Takes them from their key frames: the devkit's `Box` fails on them, there and in the sweeps between."""
        broken: dict[str, list[str]] = {}
        for annotation in self._tables.sample_annotation:
            if not _is_whole(annotation):
                sample = self._tables.get("sample", annotation["sample_token"])
                sample["anns"].remove(annotation["token"])
                scene = str(self._tables.get("scene", sample["scene_token"])["name"])
                broken.setdefault(scene, []).append(annotation["token"])
        return [
            Problem(
                where=scene,
                kind=ProblemKind.BROKEN_BOX,
                detail=f"{len(tokens)} boxes without volume, place or direction, the first is {tokens[0]}; left out",
            )
            for scene, tokens in broken.items()
        ]


class CaptionedNuScenes(NuScenesSource):
    """The same drives with captions made of their labels."""

    has_captions = True

    @property
    def fingerprint(self) -> str:
        """Other than that of the same drives without captions."""
        return hashlib.sha256(f"{super().fingerprint}|captions {CAPTION_FORMAT}".encode()).hexdigest()

    def captions(self, drive: str, conditions: Conditions, fps: float) -> Captions:
        """See `CaptionedSource`."""
        return label_captions(drive, conditions, self.ego_path(drive, np.arange(len(conditions)) / fps), fps)


def _load_tables(root: Path, version: str) -> NuScenes:
    """The devkit's tables; it takes seconds to import, so only those who have tables pay."""
    folder = root / version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        raise ValueError(f"{folder}: no such folder of tables; {root} has {', '.join(found) or 'none'}")
    missing = [table for table in _TABLES if not (folder / f"{table}.json").is_file()]
    if missing:
        raise ValueError(f"{folder}: no table {', '.join(f'{table}.json' for table in missing)}")
    from nuscenes.nuscenes import NuScenes

    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: nuscenes-devkit cannot load these tables: {error!r}") from error


def official_splits(version: str) -> dict[str, str]:
    """Our split of each scene that nuScenes' own lists name; none for tables that only have its format."""
    from nuscenes.utils.splits import create_splits_scenes

    lists = create_splits_scenes()
    return {scene: ours for theirs, ours in _OFFICIAL.get(version, {}).items() for scene in lists[theirs]}


def _is_night(scene: Record) -> bool | None:
    """nuScenes writes 'Night, ...' into a scene's description and nothing for day."""
    description = str(scene["description"]).strip().lower()
    return "night" in description if description else None


def _is_whole(annotation: Record) -> bool:
    if not all(_are_numbers(annotation.get(name), n) for name, n in (("translation", 3), ("size", 3), ("rotation", 4))):
        return False
    return bool(min(annotation["size"]) > 0 and any(annotation["rotation"]))


def _are_numbers(values: Any, count: int) -> bool:
    """Whether a field of a table is a list of `count` finite numbers: JSON may hold NaN, or null anywhere."""
    if not isinstance(values, list) or len(values) != count:
        return False
    try:
        return math.isfinite(sum(values))  # of a million boxes: a look at each number takes twice as long
    except TypeError:
        return False


def _no_boxes() -> Boxes3D:
    return Boxes3D(
        center_m=np.zeros((0, 3)),
        size_m=np.zeros((0, 3)),
        rotation_wxyz=np.zeros((0, 4)),
        class_ids=np.zeros(0, dtype=np.int64),
        visibility=np.zeros(0),
    )


def _ego_path(poses: list[Record]) -> NDArray[np.float64]:
    """(T, 3) x_m, y_m, yaw_rad of ego poses in the first one's system (x forward, y left)."""
    turns = rotation_matrix(np.array([pose["rotation"] for pose in poses], dtype=np.float64))
    places = np.array([pose["translation"] for pose in poses], dtype=np.float64)
    relative = (places - places[0]) @ turns[0]
    forward = (turns[0].T @ turns)[:, :, 0]
    return np.stack([relative[:, 0], relative[:, 1], np.arctan2(forward[:, 1], forward[:, 0])], axis=1)
