"""Captions of driving clips from what the world knows of them: light, way, number of cars.

Axes: T frames, P phrasings.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import COUNTED_AS_CARS, UNKNOWN
from drivesim.core.seeds import numpy_generator
from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions

CAPTION_FORMAT = 1  # of what is said and how; part of the caches' key
PHRASINGS = 6  # a frame
WAY_S = 2.0  # a clip's way is told from what happens in so many seconds
TURN_DEG = 12.0  # a way with more yaw than this within WAY_S is a turn
STANDSTILL_M = 1.0  # a way shorter than this within WAY_S is none
MIN_CAR_HEIGHT = 1 / 16  # of the picture's height: cars that look smaller than this are not counted
MANY_CARS = 6  # from this number on captions say "many"
_NUMBERS = ("no", "one", "two", "three", "four", "five")


class Way(str, Enum):
    """What the ego car does; the value is what captions say, in several words where there are."""

    LEFT = "left turn"
    RIGHT = "right turn"
    STRAIGHT = "straight on"
    STANDING = "standing"


_WAYS = {
    Way.LEFT: ("left turn", "turning left", "turn left"),
    Way.RIGHT: ("right turn", "turning right", "turn right"),
    Way.STRAIGHT: ("straight on", "driving straight", "straight ahead"),
    Way.STANDING: ("standing", "standing still", "waiting"),
}
_LIGHTS = {True: ("night", "at night", "in the dark"), False: ("day", "by day", "in daylight")}
_SUBJECTS = ("a drive", "a street", "a car ride", "driving")


def ways(path_T3: NDArray[np.float64], fps: float) -> list[Way]:
    """The way from each frame on.

    Args:
        path_T3: x_m, y_m, yaw_rad of the ego car.
        fps: frames a second.
    """
    step = max(1, round(WAY_S * fps))
    last = len(path_T3) - 1
    yaw_T = np.unwrap(path_T3[:, 2])
    found = []
    for frame in range(len(path_T3)):
        first = max(0, min(frame, last - step))  # near the end: the last WAY_S
        end = min(last, first + step)
        turned_deg = np.degrees(yaw_T[end] - yaw_T[first])
        way_m = np.linalg.norm(np.diff(path_T3[first : end + 1, :2], axis=0), axis=1).sum()
        if way_m < STANDSTILL_M:
            found.append(Way.STANDING)
        elif abs(turned_deg) > TURN_DEG:
            found.append(Way.LEFT if turned_deg > 0 else Way.RIGHT)
        else:
            found.append(Way.STRAIGHT)
    return found


def cars_in_sight(conditions: Conditions) -> NDArray[np.int64]:
    """(T,) cars, trucks and buses that are large enough to be seen; UNKNOWN without boxes."""
    if not conditions.has_boxes:
        return np.full(len(conditions), UNKNOWN, dtype=np.int64)
    heights_N = conditions.boxes_N4[:, 3] - conditions.boxes_N4[:, 1]
    counted_N = np.isin(conditions.classes_N, [c.id for c in COUNTED_AS_CARS]) & (heights_N >= MIN_CAR_HEIGHT)
    before = np.concatenate([[0], np.cumsum(counted_N)])
    return np.asarray(before[conditions.offsets[1:]] - before[conditions.offsets[:-1]], dtype=np.int64)


def label_captions(name: str, conditions: Conditions, path_T3: NDArray[np.float64], fps: float) -> Captions:
    """Captions of a drive such as "a drive at night, left turn, three cars"; the same for the same drive.

    Args:
        name: of the drive; keys the choice of words.
        conditions: light and boxes.
        path_T3: x_m, y_m, yaw_rad of the ego car at each frame.
        fps: frames a second.
    """
    cars_T = cars_in_sight(conditions)
    way_T = ways(path_T3, fps)
    rows = []
    for frame in range(len(conditions)):
        rng = numpy_generator("label captions", name, frame)
        rows.append([phrase(conditions.is_night, way_T[frame], int(cars_T[frame]), rng) for _ in range(PHRASINGS)])
    return Captions.of_frames(rows)


def phrase(is_night: int, way: Way, num_cars: int, rng: np.random.Generator) -> str:
    """One way to say it; each fact is left out now and then, so that a prompt may leave it out, too."""
    facts = [_WAYS[way][rng.integers(3)]] if rng.random() < 0.85 else []
    if num_cars != UNKNOWN and rng.random() < 0.85:
        facts.append(_cars(num_cars))
    if rng.random() < 0.3:
        facts = facts[::-1]
    light = _LIGHTS[bool(is_night)][rng.integers(3)] if is_night != UNKNOWN and rng.random() < 0.9 else ""
    if rng.random() < 0.4:
        return ", ".join(([light] if light else []) + facts) or _SUBJECTS[0]
    subject = _SUBJECTS[rng.integers(len(_SUBJECTS))]
    if light in ("day", "night"):
        light = f"at {light}" if light == "night" else f"by {light}"
    return ", ".join([f"{subject} {light}".strip(), *facts])


def _cars(number: int) -> str:
    if number >= MANY_CARS:
        return "many cars"
    return f"{_NUMBERS[number]} {'car' if number == 1 else 'cars'}"
