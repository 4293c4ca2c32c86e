"""Obedience of a folder of designed scenes: pictures and scene files in, numbers, card and report out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row, sha256_file, write_json
from drivesim.core.picture import load_picture
from drivesim.core.run_folder import ROWS_FILE
from drivesim.core.scene import Scene
from drivesim.core.wording import number_of
from drivesim.evaluate.detector import Detections, Detector
from drivesim.evaluate.drift_report import plain
from drivesim.evaluate.obedience import ObedienceConfig, ObedienceMeter, ObedienceRow, Wanted, with_ceiling
from drivesim.evaluate.obedience_report import ShownPicture, write_obedience_report
from drivesim.evaluate.protocol import library_versions
from drivesim.evaluate.videos import MOVING_SUFFIXES, PICTURE_SUFFIXES

SCENE_FILE = "scene.yaml"
OBEDIENCE_FILE = "obedience.json"
_MAKERS = {  # of each side's folders
    "generated": "drivesim design scene=FOLDER out=FOLDER",
    "real": "drivesim prepare data=... export=videos export.scenes_every_s=30 out=FOLDER, as FOLDER/scenes",
}
_DRAWN_OVER = "_boxes"  # ends the name of a copy with boxes drawn over it, which is for eyes alone


@dataclass(kw_only=True, slots=True)
class SceneSetCard:
    """What one side consists of."""

    name: str
    num_scenes: int = 0
    num_pictures: int = 0
    num_left_out: int = 0
    sha256: str = ""  # of all pictures' digests, in order
    scenes_sha256: list[str] = field(default_factory=list)  # of the scene files, sorted


@dataclass(kw_only=True, slots=True)
class ObedienceCard:
    """All that two measures of obedience must have in common to be compared, and what they were made of."""

    detector_sha256: str
    config: ObedienceConfig
    generated: SceneSetCard
    real: SceneSetCard | None
    libraries: dict[str, str]


@dataclass(kw_only=True, slots=True)
class Obedience:
    """All that an evaluation of obedience found."""

    rows: list[ObedienceRow]
    card: ObedienceCard
    warnings: list[str]
    report: Path


def scene_folders(folder: str | Path) -> list[Path]:
    """The folders with a scene file at or below a folder, in order of their names; none where it is a file."""
    return sorted(path.parent for path in Path(folder).rglob(SCENE_FILE)) if Path(folder).is_dir() else []


def is_of_scenes(folder: str | Path) -> bool:
    """Whether a folder holds scenes with pictures, and no videos: those are scored as videos."""
    has_videos = any(path.suffix.lower() in MOVING_SUFFIXES for path in Path(folder).rglob("*"))
    return bool(scene_folders(folder)) and not has_videos


def evaluate_obedience(
    config: ObedienceConfig,
    generated: str | Path,
    real: str | Path | None,
    out_dir: str | Path,
    detector: Detector | None = None,
) -> Obedience:
    """Measures how well pictures show what their scene files ask for.

    Each scene is a folder with `scene.yaml` and pictures of it by any generator. Writes `obedience.json`,
    `rows.jsonl` (a row a picture) and `report.html` into `out_dir`; a picture or scene that cannot be read is a row
    with its cause.

    Args:
        config: How.
        generated: Folder of scenes.
        real: Folder of scenes with real pictures, for the ceilings; None = no ceilings.
        out_dir: Made when needed.
        detector: In place of the shipped one.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder without scenes that have pictures, or no picture on one side can be read.
    """
    out_dir = Path(out_dir)
    sides = _sides(generated, real)
    detector = detector or Detector.shipped(config.detector)
    rows = out_dir / ROWS_FILE
    rows.unlink(missing_ok=True)
    meters = {side: ObedienceMeter(config) for side in sides}
    cards = {side: SceneSetCard(name=folder.name) for side, folder in sides.items()}
    shown: list[ShownPicture] = []
    for side, folder in sides.items():
        for picture in _read(folder, cards[side], rows, side):
            (found,) = detector(picture.picture_HWC[None])
            meters[side].update(picture.wanted, found, picture.size_hw)
            append_row(rows, _row(side, picture, found, config))
            if side == "generated" and len(shown) < config.num_shown:
                shown.append(picture.shown(found, config))
        if cards[side].num_pictures == 0:
            raise ValueError(f"{folder}: no {side} picture of a scene can be read; {rows} says why")
    computed = meters["generated"].compute()
    if real is not None:
        computed = with_ceiling(computed, meters["real"].compute())
    result = Obedience(
        rows=computed,
        card=ObedienceCard(
            detector_sha256=detector.fingerprint,
            config=config,
            generated=cards["generated"],
            real=cards.get("real"),
            libraries=library_versions(),
        ),
        warnings=_warnings(cards),
        report=out_dir / "report.html",
    )
    write_json(out_dir / OBEDIENCE_FILE, plain(result))
    write_obedience_report(result.rows, result.warnings, asdict(result.card), shown, result.report)
    return result


def _sides(generated: str | Path, real: str | Path | None) -> dict[str, Path]:
    """The folders by side; raises errors as `_check_side`."""
    sides = {"generated": Path(generated)} | ({} if real is None else {"real": Path(real)})
    for side, folder in sides.items():
        _check_side(side, folder)
    return sides


def _check_side(side: str, folder: Path) -> None:
    """Raises an error for a folder that holds nothing to look at; says what makes one that does."""
    if not folder.exists():
        raise FileNotFoundError(f"{side}={folder}: no such folder")
    if any(_pictures(scene) for scene in scene_folders(folder)):
        return
    what = f"no scene with a picture in it, which is a folder with {SCENE_FILE} and PNG or JPEG files"
    raise ValueError(f"{side}={folder}: {what}; such folders come from {_MAKERS[side]}")


@dataclass(kw_only=True, slots=True)
class _ScenePicture:
    """A picture with what it was asked to show."""

    name: str
    picture_HWC: NDArray[np.uint8]
    wanted: Wanted

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.picture_HWC.shape[0], self.picture_HWC.shape[1]

    def shown(self, found: Detections, config: ObedienceConfig) -> ShownPicture:
        assert self.wanted.boxes is not None, "a scene file always says something of boxes"
        boxes = found.confident(config.detector.score)
        return ShownPicture(name=self.name, picture_HWC=self.picture_HWC, wanted=self.wanted.boxes, found=boxes)


def _read(folder: Path, card: SceneSetCard, rows: Path, side: str) -> Iterator[_ScenePicture]:
    """Every picture of every scene; counts them on the card."""
    digests = []
    for scene_folder in scene_folders(folder):
        name = scene_folder.relative_to(folder).as_posix()
        try:
            scene = Scene.load(scene_folder / SCENE_FILE)
        except (ValueError, OSError) as error:
            card.num_left_out += 1
            append_row(rows, {"set": side, "name": name, "ok": False, "error": str(error)})
            continue
        card.num_scenes += 1
        card.scenes_sha256.append(sha256_file(scene_folder / SCENE_FILE))
        for path in _pictures(scene_folder):
            picture_name = path.relative_to(folder).as_posix()
            try:
                picture_HWC = load_picture(path)
                _check_shape(picture_HWC, scene)
            except (ValueError, OSError) as error:
                card.num_left_out += 1
                append_row(rows, {"set": side, "name": picture_name, "ok": False, "error": str(error)})
                continue
            card.num_pictures += 1
            digests.append(sha256_file(path))
            wanted = Wanted(
                scene=name,  # of the folder: names in scene files need not differ
                boxes=scene.picture_boxes((picture_HWC.shape[0], picture_HWC.shape[1])),
                is_night=scene.is_night,
                num_cars=scene.count_cars(),
            )
            yield _ScenePicture(name=picture_name, picture_HWC=picture_HWC, wanted=wanted)
    card.scenes_sha256.sort()
    card.sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()


def _pictures(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    return sorted(path for path in found if not path.stem.endswith(_DRAWN_OVER))


def _check_shape(picture_HWC: NDArray[np.uint8], scene: Scene) -> None:
    height, width = picture_HWC.shape[:2]
    if height * scene.size_hw[1] != width * scene.size_hw[0]:
        raise ValueError(f"a picture of {height} x {width} does not have the shape of its scene, {scene.size_hw}")


def _row(side: str, picture: _ScenePicture, found: Detections, config: ObedienceConfig) -> dict[str, object]:
    boxes = found.confident(config.detector.score)
    return {
        "set": side,
        "name": picture.name,
        "ok": True,
        "scene": picture.wanted.scene,
        "boxes_wanted": 0 if picture.wanted.boxes is None else len(picture.wanted.boxes),
        "boxes_found": len(boxes),
        "cars_wanted": picture.wanted.num_cars,
        "cars_found": boxes.num_cars(),
        "night_wanted": picture.wanted.is_night,
        "night_found": round(found.night, 4),
    }


def _warnings(cards: dict[str, SceneSetCard]) -> list[str]:
    warnings = [
        f"left out of {card.name}: {card.num_left_out}; {ROWS_FILE} says why"
        for card in cards.values()
        if card.num_left_out
    ]
    if "real" not in cards:
        warnings.append("no ceilings: give real pictures of the same scenes as real=FOLDER")
    elif set(cards["generated"].scenes_sha256) - set(cards["real"].scenes_sha256):
        warnings.append("the real pictures are of other scenes: the ceilings are those of other boxes and labels")
    if cards["generated"].num_scenes < 3:
        warnings.append(f"no intervals: {number_of(cards['generated'].num_scenes, 'scene')}, 3 are needed")
    return warnings
