"""Start frames by what a person types: a scene, a picture, a video, or a moment of one (VIDEO@SECONDS)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drivesim.core.scene import Scene
from drivesim.families.drive import DriveFacts
from drivesim.rollout.start import Start, is_scene, start_from_file
from drivesim.simulator import Simulator

FindScene = Callable[[str], Path]  # a scene file, or one that ships with drivesim by its name


def scene_of(start: str, find_scene: FindScene) -> Scene | None:
    """The scene that a start names; None = it names a picture or a video."""
    return Scene.load(find_scene(start)) if is_scene(start) else None


def make_start(text: str, simulator: Simulator, *, seed: int, is_night: bool | None, find_scene: FindScene) -> Start:
    """The start frame for a model.

    Args:
        text: A scene, a picture, a video, or VIDEO@SECONDS.
        simulator: Of the model.
        seed: Of the design.
        is_night: Of a picture or video; None = unknown.
        find_scene: Finds scenes by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: neither a scene, a picture nor a video, or unusable; says why.
    """
    path, _, moment = text.rpartition("@")
    start_s = _number(moment) if path and not Path(text).is_file() else None
    if start_s is not None:
        return start_from_file(path, simulator.size_hw, start_s=start_s, conditions=DriveFacts(is_night=is_night))
    scene = scene_of(text, find_scene)
    if scene is None:
        return start_from_file(text, simulator.size_hw, conditions=DriveFacts(is_night=is_night))
    return simulator.start(scene, seed=seed)


def _number(text: str) -> float | None:
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        return None
