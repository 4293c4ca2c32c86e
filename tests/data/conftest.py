"""Tiny driving data made on the spot: nuScenes tables with known geometry, and videos with known pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pyquaternion import Quaternion

VERSION = "v1.0-handmade"
SIZE_HW = (90, 160)
NUM_FRAMES = 13  # of each scene; every fourth is a key frame
STEP_US = 100_000

MakeTables = Callable[..., Path]
MakeVideo = Callable[..., Path]


def _write_picture(path: Path, frame: int, scene: int) -> None:
    """Bands that no other frame or scene has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1000 * scene + frame)
    coarse = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(coarse, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC)).save(path)


class Tables:
    """nuScenes tables of a few scenes: the ego drives a bend, one car ahead, one crosses, a person stands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("attribute", "instance", "ego_pose", "scene", "sample", "sample_data")
        }
        self.rows["sample_annotation"] = []
        names = ["vehicle.car", "human.pedestrian.adult", "movable_object.barrier"]
        self.rows["category"] = [{"token": f"c{i}", "name": n, "description": ""} for i, n in enumerate(names)]
        self.rows["visibility"] = [{"token": str(i), "level": "", "description": ""} for i in (1, 2, 3, 4)]
        self.rows["sensor"] = [
            {"token": "s0", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "s1", "channel": "LIDAR_TOP", "modality": "lidar"},
        ]
        # Looks ahead, a little to the left and down.
        to_ego = Quaternion(axis=(0, 0, 1), degrees=3) * Quaternion(0.5, -0.5, 0.5, -0.5)
        self.rows["calibrated_sensor"] = [
            {
                "token": "k0",
                "sensor_token": "s0",
                "translation": [1.5, 0.1, 1.5],
                "rotation": list(to_ego),
                "camera_intrinsic": [[120.0, 0, 82.0], [0, 121.0, 44.0], [0, 0, 1]],
            }
        ]
        self.rows["log"] = [
            {"token": "l0", "logfile": "log", "vehicle": "v", "date_captured": "2020-01-01", "location": "x"}
        ]
        self.rows["map"] = [{"token": "m0", "log_tokens": ["l0"], "category": "", "filename": "maps/blank.png"}]
        (root / "maps").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(root / "maps" / "blank.png")

    def add_scene(self, number: int, name: str, description: str) -> None:
        samples = [f"{name}-sample{k}" for k in range(0, NUM_FRAMES, 4)]
        self.rows["scene"].append(
            {
                "token": f"t-{name}",
                "name": name,
                "description": description,
                "log_token": "l0",
                "nbr_samples": len(samples),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
            }
        )
        for index, token in enumerate(samples):
            self.rows["sample"].append(
                {
                    "token": token,
                    "timestamp": 4 * index * STEP_US,
                    "prev": samples[index - 1] if index else "",
                    "next": samples[index + 1] if index + 1 < len(samples) else "",
                    "scene_token": f"t-{name}",
                }
            )
            self._add_annotations(name, samples, index)
        for frame in range(NUM_FRAMES):
            self._add_frame(number, name, samples, frame)

    def _add_frame(self, number: int, name: str, samples: list[str], frame: int) -> None:
        is_key = frame % 4 == 0
        filename = f"{'samples' if is_key else 'sweeps'}/CAM_FRONT/{name}-{frame:03}.png"
        _write_picture(self.root / filename, frame, number)
        yaw = 0.02 * frame
        place = [100 + 0.8 * frame, -20 + 0.1 * frame, 0.3]
        self.rows["ego_pose"].append(
            {
                "token": f"p-{name}-{frame}",
                "timestamp": frame * STEP_US,
                "translation": place,
                "rotation": list(Quaternion(axis=(0, 0, 1), radians=yaw)),
            }
        )
        self.rows["sample_data"].append(
            {
                "token": f"d-{name}-{frame}",
                # As in nuScenes: a sweep belongs to the key frame that follows it.
                "sample_token": samples[min((frame + 3) // 4, len(samples) - 1)],
                "ego_pose_token": f"p-{name}-{frame}",
                "calibrated_sensor_token": "k0",
                "timestamp": frame * STEP_US,
                "fileformat": "png",
                "is_key_frame": is_key,
                "height": SIZE_HW[0],
                "width": SIZE_HW[1],
                "filename": filename,
                "prev": f"d-{name}-{frame - 1}" if frame else "",
                "next": f"d-{name}-{frame + 1}" if frame + 1 < NUM_FRAMES else "",
            }
        )

    def _add_annotations(self, name: str, samples: list[str], index: int) -> None:
        time_s = 0.4 * index
        objects = [
            ("c0", [115 + 8 * time_s, -19.0, 1.0], [1.9, 4.5, 1.6], 0.05 * index, "4"),  # ahead
            ("c0", [125.0, -28 + 9 * time_s, 1.1], [2.0, 4.8, 1.7], 1.5 + 0.1 * index, "2"),  # crosses
            ("c1", [108.0, -17.5, 1.1], [0.7, 0.7, 1.8], 0.0, "1"),  # stands, and is passed
            ("c2", [120.0, -18.0, 0.8], [0.5, 2.0, 1.0], 0.0, "4"),  # a barrier: no class of ours
            ("c0", [90.0, -21.0, 1.0], [1.9, 4.5, 1.6], 0.0, "3"),  # behind
        ]
        for number, (category, place, size, yaw, visibility) in enumerate(objects):
            instance = f"i-{name}-{number}"
            if index == 0:
                self.rows["instance"].append({"token": instance, "category_token": category, "nbr_annotations": 4})
            self.rows["sample_annotation"].append(
                {
                    "token": f"a-{name}-{number}-{index}",
                    "sample_token": samples[index],
                    "instance_token": instance,
                    "visibility_token": visibility,
                    "attribute_tokens": [],
                    "translation": place,
                    "size": size,
                    "rotation": list(Quaternion(axis=(0, 0, 1), radians=yaw)),
                    "prev": f"a-{name}-{number}-{index - 1}" if index else "",
                    "next": f"a-{name}-{number}-{index + 1}" if index + 1 < len(samples) else "",
                    "num_lidar_pts": 1,
                    "num_radar_pts": 0,
                }
            )

    def write(self) -> None:
        folder = self.root / VERSION
        folder.mkdir(exist_ok=True)
        for table, rows in self.rows.items():
            (folder / f"{table}.json").write_text(json.dumps(rows))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two scenes, `lane-day` and `lane-dark`; not yet written, so that a test can break them first."""
    made = Tables(tmp_path / "tables")
    made.add_scene(1, "lane-day", "Straight on, a car crosses")
    made.add_scene(2, "lane-dark", "Night, straight on")
    return made


def picture(number: int, seed: int = 0, size_hw: tuple[int, int] = (64, 128)) -> np.ndarray:
    """Frame `number` of a made-up drive: soft blobs that move, and the number's two digits as grey blocks."""
    rng = np.random.default_rng(seed)
    canvas = np.full((*size_hw, 3), 60, dtype=np.uint8)
    for _ in range(12):
        x, y = rng.uniform(0, size_hw[1]), rng.uniform(0, size_hw[0])
        dx, dy = rng.uniform(-2, 2, 2)
        color = tuple(int(c) for c in rng.integers(80, 255, 3))
        center = (int(x + dx * number) % size_hw[1], int(y + dy * number) % size_hw[0])
        cv2.circle(canvas, center, 9, color, -1)
    height, width = size_hw[0] // 4, size_hw[1] // 4
    canvas[:height, :width] = 10 + 24 * (number // 10)
    canvas[:height, width : 2 * width] = 10 + 24 * (number % 10)
    return canvas


@pytest.fixture
def shown_numbers() -> Callable[[np.ndarray], list[int]]:
    """Reads the numbers that `picture` wrote into frames (T, H, W, 3)."""

    def read(frames: np.ndarray) -> list[int]:
        height, width = frames.shape[1] // 4, frames.shape[2] // 4
        blocks = frames[:, 2 : height - 2, : 2 * width].reshape(len(frames), height - 4, 2, width, 3)
        digits = ((blocks[..., 4:-4, :].mean(axis=(1, 3, 4)) - 10) / 24).round().astype(int)
        return [int(number) for number in digits @ [10, 1]]

    return read


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes a video whose frame k is `picture(k)` at times_ms[k]."""

    def make(
        name: str,
        times_ms: list[int],
        *,
        seed: int = 0,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        size_hw: tuple[int, int] = (64, 128),
    ) -> Path:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        faststart = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
        with av.open(str(path), "w", options=faststart) as container:
            stream = container.add_stream(codec, rate=Fraction(1000))
            stream.height, stream.width, stream.pix_fmt = *size_hw, "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            stream.codec_context.thread_count = 1
            stream.options = options or {"crf": "12", "g": "10", "preset": "veryfast"}
            for number, time_ms in enumerate(times_ms):
                frame = av.VideoFrame.from_ndarray(picture(number, seed, size_hw), format="rgb24")
                frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
