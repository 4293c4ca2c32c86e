"""Moments of real drives as scene files with their pictures: what designed pictures are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from drivesim.core.boxes import Boxes2D
from drivesim.core.clip import Clip
from drivesim.core.files import read_json, write_json
from drivesim.core.picture import save_png
from drivesim.core.scene import Scene
from drivesim.data.conditions import nearest_boxes
from drivesim.data.export import ExportConfig
from drivesim.data.frames import file_stem
from drivesim.data.source import ClipSource, drives_of

SCENE_FILE = "scene.yaml"
REAL_PICTURE = "real.png"
RECORD = "export.json"  # beside the folders: what they were made from


def export_scenes(source: ClipSource, config: ExportConfig, out_dir: Path) -> Iterator[tuple[str, str | None]]:
    """Writes a folder with `scene.yaml` and `real.png` every `scenes_every_s` seconds of the drives of a split.

    A folder that has both is left as it is, so that an export that was stopped goes on; those that an earlier call
    wrote from other data or with another config are emptied first.

    Args:
        source: Of drives with boxes.
        config: Which drives, how often, and the size of the pictures.
        out_dir: Folder of those folders, which are named after drive and time.

    Yields:
        A scene's name, and why it was left out (None = it was not).

    Raises:
        ValueError: the source knows no boxes, or no drive in the split.
    """
    if not source.has_boxes:
        raise ValueError(f"{source.name} has no boxes; leave export.scenes_every_s out")
    assert config.scenes_every_s is not None, "the caller has looked"
    _remove_others(source, config, out_dir)
    for drive in drives_of(source, config.split):
        for time_s in np.arange(0.0, drive.duration_s, config.scenes_every_s):
            name = f"{file_stem(drive.name)}_{time_s:07.2f}"
            folder = out_dir / name
            if (folder / SCENE_FILE).exists() and (folder / REAL_PICTURE).exists():
                yield name, None
                continue
            try:
                size_hw = (config.size_hw[0], config.size_hw[1])
                clip = source.read(drive.name, start_s=float(time_s), num_frames=1, fps=config.fps, size_hw=size_hw)
                scene_of(clip, name).save(folder / SCENE_FILE)
            except (ValueError, OSError) as error:
                yield name, str(error)
            else:
                save_png(folder / REAL_PICTURE, clip.frames_THWC[0])
                yield name, None


def _remove_others(source: ClipSource, config: ExportConfig, out_dir: Path) -> None:
    """Leaves only scenes that this export would write the same again, and notes what it is."""
    # A list as JSON gives it back, so that the record can be compared.
    spec = {**asdict(config), "size_hw": list(config.size_hw)}
    record = {"source": source.fingerprint, "config": spec}
    path = out_dir / RECORD
    if path.exists() and read_json(path) != record:
        for scene in out_dir.glob(f"*/{SCENE_FILE}"):
            scene.unlink()
            (scene.parent / REAL_PICTURE).unlink(missing_ok=True)
    write_json(path, record)


def scene_of(clip: Clip, name: str) -> Scene:
    """The first frame's boxes and labels as a scene in pixels of the frame.

    Raises:
        ValueError: nothing is known of its boxes.
    """
    if clip.boxes is None:
        raise ValueError(f"{clip.name}: nothing is known of its boxes")
    boxes = clip.boxes[0]
    nearest = boxes.select(nearest_boxes(boxes))
    drawn = Boxes2D(
        xyxy_px=nearest.xyxy_px,
        class_ids=nearest.class_ids,
        depth_m=nearest.depth_m,
        visibility=np.full(len(nearest), np.nan),
    )
    return Scene(
        name=name,
        size_hw=clip.size_hw,
        boxes_2d=drawn,
        is_night=clip.is_night,
        num_cars=boxes.num_cars(),
    )
