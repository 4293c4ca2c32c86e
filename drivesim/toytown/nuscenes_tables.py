"""Writes scenes as nuScenes v1.0 tables with images, so that nuscenes-devkit loads them unchanged."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import ObjectClass
from drivesim.core.camera import Camera
from drivesim.core.seeds import derive_seed
from drivesim.toytown.config import TownConfig
from drivesim.toytown.episode import Episode, simulate
from drivesim.toytown.renderer import render

VERSION = "v1.0-toytown"
LOOK = 1  # counts up when the same settings make other pictures or tables: scenes on disk are then written anew
JPEG_QUALITY = 95
FIRST_US = 1_600_000_000_000_000  # timestamp of scene 0
CATEGORIES: dict[ObjectClass, str] = {
    ObjectClass.CAR: "vehicle.car",
    ObjectClass.TRUCK: "vehicle.truck",
    ObjectClass.BUS: "vehicle.bus.rigid",
    ObjectClass.MOTORCYCLE: "vehicle.motorcycle",
    ObjectClass.BICYCLE: "vehicle.bicycle",
    ObjectClass.PEDESTRIAN: "human.pedestrian.adult",
}
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "pedestrian.moving",
    "pedestrian.standing",
)
VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
PER_SCENE = ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def write_nuscenes(
    config: TownConfig,
    out_dir: Path | str,
    on_progress: Callable[[int, int], None] | None = None,
    num_workers: int = 1,
) -> None:
    """Simulates, draws and writes all scenes of a town.

    Can be stopped and called again: scenes that are whole are kept. The files are the same for
    every number of workers.

    Args:
        config: the town.
        out_dir: the data root; gets `samples/`, `sweeps/`, `maps/` and the folder `v1.0-toytown`.
        on_progress: called with (scenes done, scenes in all) after each scene.
        num_workers: processes that draw; 1 = this one.
    """
    root = Path(out_dir)
    for folder in ("samples/CAM_FRONT", "sweeps/CAM_FRONT", "maps", VERSION, "parts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    scenes = range(config.first_scene, config.first_scene + config.num_scenes)
    for done, _ in enumerate(_write_scenes(config, root, scenes, num_workers), start=1):
        if on_progress is not None:
            on_progress(done, config.num_scenes)
    tables = _fixed_tables(config)
    for scene_index in scenes:
        part = json.loads(_part_path(config, root, scene_index).read_text())
        for name in PER_SCENE:
            tables.setdefault(name, []).extend(part[name])
    _write_file(root / "maps" / "toytown.png", _png(np.full((8, 8), 255, dtype=np.uint8)))
    for name, rows in tables.items():
        _write_file(root / VERSION / f"{name}.json", json.dumps(rows, indent=0).encode())


def _write_scenes(config: TownConfig, root: Path, scenes: Iterable[int], num_workers: int) -> Iterator[int]:
    if num_workers <= 1:
        for scene_index in scenes:
            yield _write_scene(config, root, scene_index)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_write_scene, config, root, scene_index) for scene_index in scenes]
        for future in futures:
            yield future.result()


def _part_path(config: TownConfig, root: Path, scene_index: int) -> Path:
    """The rows of one finished scene; its name tells the settings that they belong to."""
    settings = asdict(config)
    for name in ("num_scenes", "first_scene"):
        settings.pop(name)
    key = derive_seed(json.dumps(settings, sort_keys=True), LOOK)
    return root / "parts" / f"{config.scene_name(scene_index)}-{key:016x}.json"


def _write_scene(config: TownConfig, root: Path, scene_index: int) -> int:
    """Images and rows of one scene, unless it is whole already."""
    part = _part_path(config, root, scene_index)
    if part.exists():
        return scene_index
    for outdated in part.parent.glob(f"{config.scene_name(scene_index)}-*.json"):
        if outdated != part:  # which another process may have finished meanwhile
            outdated.unlink(missing_ok=True)  # its pictures, drawn with other settings, are about to be replaced
    cv2.setNumThreads(1)
    episode = simulate(config, scene_index)
    camera = Camera.front(config.size_hw)
    tables = _scene_tables(config, episode, camera)
    for frame, row in enumerate(tables["sample_data"]):
        picture = cv2.cvtColor(render(episode, frame, camera), cv2.COLOR_RGB2BGR)
        written, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert written
        _write_file(root / row["filename"], data.tobytes())
    _write_file(part, json.dumps(tables).encode())
    return scene_index


def _write_file(path: Path, data: bytes) -> None:
    """All or nothing; a file that holds these bytes already is left alone, since another command may be reading it."""
    if path.exists() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _png(picture: NDArray[np.uint8]) -> bytes:
    written, data = cv2.imencode(".png", picture)
    assert written
    return data.tobytes()


def _token(*key: int | str) -> str:
    return f"{derive_seed('toytown', *key):016x}{derive_seed('token', 'toytown', *key):016x}"


def _fixed_tables(config: TownConfig) -> Tables:
    """Tables that do not depend on a scene."""
    camera = Camera.front(config.size_hw)
    log = {
        "token": _token("log"),
        # What reads the tables tells towns apart by them alone; look 1 was drawn before it stood here.
        "logfile": "toytown" if LOOK == 1 else f"toytown look {LOOK}",
        "vehicle": "toytown",
        "date_captured": "2020-09-13",
        "location": "toytown",
    }
    return {
        "category": [{"token": _token("category", n), "name": n, "description": ""} for n in CATEGORIES.values()],
        "attribute": [{"token": _token("attribute", n), "name": n, "description": ""} for n in ATTRIBUTES],
        "visibility": [{"token": str(i + 1), "level": v, "description": ""} for i, v in enumerate(VISIBILITIES)],
        "sensor": [{"token": _token("sensor"), "channel": "CAM_FRONT", "modality": "camera"}],
        "calibrated_sensor": [
            {
                "token": _token("calibrated_sensor"),
                "sensor_token": _token("sensor"),
                "translation": camera.translation_m.tolist(),
                "rotation": camera.rotation_wxyz.tolist(),
                "camera_intrinsic": camera.intrinsic.tolist(),
            }
        ],
        "log": [log],
        "map": [
            {
                "token": _token("map"),
                "log_tokens": [log["token"]],
                "category": "semantic_prior",
                "filename": "maps/toytown.png",
            }
        ],
    }


def _scene_tables(config: TownConfig, episode: Episode, camera: Camera) -> Tables:
    """Rows of one scene: a sample at each key frame, sample data and an ego pose at every frame."""
    index, keys = episode.scene_index, _key_frames(config, episode)
    num_samples = len(keys)
    tables: Tables = {name: [] for name in PER_SCENE}
    tables["scene"].append(
        {
            "token": _token("scene", index),
            "name": episode.name,
            "description": episode.description(),
            "log_token": _token("log"),
            "nbr_samples": num_samples,
            "first_sample_token": _token("sample", index, 0),
            "last_sample_token": _token("sample", index, num_samples - 1),
        }
    )
    for number, frame in enumerate(keys):
        tables["sample"].append(
            {
                "token": _token("sample", index, number),
                "timestamp": _timestamp_us(episode, frame),
                "scene_token": _token("scene", index),
                **_chain("sample", index, number, num_samples),
            }
        )
    for frame in range(len(episode)):
        _add_frame(tables, episode, frame, keys, camera)
    _add_annotations(tables, episode, keys)
    return tables


def _key_frames(config: TownConfig, episode: Episode) -> list[int]:
    """Frames that are annotated; the last one too, since the devkit interpolates between key frames only."""
    every = round(config.fps / config.key_fps)
    return sorted({*range(0, len(episode), every), len(episode) - 1})


def _chain(kind: str, index: int, number: int, count: int) -> Row:
    """Tokens of the rows before and after; empty at the ends."""
    return {
        "prev": _token(kind, index, number - 1) if number > 0 else "",
        "next": _token(kind, index, number + 1) if number + 1 < count else "",
    }


def _timestamp_us(episode: Episode, frame: int) -> int:
    return FIRST_US + episode.scene_index * 1_000_000_000 + round(float(episode.times_s[frame]) * 1e6)


def _add_frame(tables: Tables, episode: Episode, frame: int, keys: list[int], camera: Camera) -> None:
    """Sample data and ego pose; sweeps belong to the key frame that follows, as in nuScenes."""
    index, is_key = episode.scene_index, frame in keys
    sample = bisect_left(keys, frame)
    timestamp = _timestamp_us(episode, frame)
    x, y, yaw = (float(value) for value in episode.ego_path[frame])
    folder = "samples" if is_key else "sweeps"
    tables["ego_pose"].append(
        {
            "token": _token("sample_data", index, frame),
            "timestamp": timestamp,
            "rotation": _quaternion(yaw),
            "translation": [x, y, 0.0],
        }
    )
    tables["sample_data"].append(
        {
            "token": _token("sample_data", index, frame),
            "sample_token": _token("sample", index, sample),
            "ego_pose_token": _token("sample_data", index, frame),
            "calibrated_sensor_token": _token("calibrated_sensor"),
            "timestamp": timestamp,
            "fileformat": "jpg",
            "is_key_frame": is_key,
            "height": camera.size_hw[0],
            "width": camera.size_hw[1],
            "filename": f"{folder}/CAM_FRONT/{episode.name}__CAM_FRONT__{timestamp}.jpg",
            **_chain("sample_data", index, frame, len(episode)),
        }
    )


def _quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def _add_annotations(tables: Tables, episode: Episode, keys: list[int]) -> None:
    """Annotations at key frames, chained by actor, and an instance for each actor that is ever near."""
    seen: dict[int, list[tuple[int, float]]] = {}
    for number, frame in enumerate(keys):
        boxes = episode.boxes[frame]
        assert boxes.visibility is not None
        for name, visibility in zip(boxes.track_ids, boxes.visibility, strict=True):
            seen.setdefault(int(str(name).rsplit("-", 1)[1]), []).append((number, float(visibility)))
    for actor, sightings in sorted(seen.items()):
        tokens = [_token("annotation", episode.scene_index, actor, number) for number, _ in sightings]
        for position, (number, visibility) in enumerate(sightings):
            row = _annotation(episode, actor, keys[number], visibility)
            row["token"] = tokens[position]
            row["sample_token"] = _token("sample", episode.scene_index, number)
            row["prev"] = tokens[position - 1] if position > 0 else ""
            row["next"] = tokens[position + 1] if position + 1 < len(tokens) else ""
            tables["sample_annotation"].append(row)
        tables["instance"].append(
            {
                "token": _token("instance", episode.scene_index, actor),
                "category_token": _token("category", CATEGORIES[episode.actors[actor].object_class]),
                "nbr_annotations": len(tokens),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )


def _annotation(episode: Episode, actor: int, frame: int, visibility: float) -> Row:
    """An annotation but for its tokens."""
    x, y, yaw = (float(value) for value in episode.motion.pose[frame, actor])
    size = episode.actors[actor].size_m
    return {
        "instance_token": _token("instance", episode.scene_index, actor),
        "visibility_token": str(1 + int(np.digitize(visibility, [0.4, 0.6, 0.8]))),
        "attribute_tokens": [_token("attribute", _attribute(episode, actor, frame))],
        "translation": [x, y, size[2] / 2],
        "size": list(size),
        "rotation": _quaternion(yaw),
        "num_lidar_pts": 1,
        "num_radar_pts": 0,
    }


def _attribute(episode: Episode, actor: int, frame: int) -> str:
    who = episode.actors[actor]
    moves = bool(episode.motion.speed[frame, actor] > 0.2)
    if who.object_class is ObjectClass.PEDESTRIAN:
        return "pedestrian.moving" if moves else "pedestrian.standing"
    if who.object_class in (ObjectClass.BICYCLE, ObjectClass.MOTORCYCLE):
        return "cycle.with_rider"
    if who.way is None:
        return "vehicle.parked"
    return "vehicle.moving" if moves else "vehicle.stopped"
