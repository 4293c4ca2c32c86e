"""Obedience: whether pictures show the boxes and labels that were asked for, as far as a detector can tell.

Every number stands beside its ceiling, the same detector's on real pictures with their own boxes and labels.

Legend: N objects or pictures, S scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import CLASSES, Boxes2D
from drivesim.evaluate.box_matching import DISTANCES, SIZES, MatchedPicture, match_picture
from drivesim.evaluate.detector import Detections, DetectorConfig
from drivesim.evaluate.scene_measures import AveragePrecision, Estimate, MeanOf, Ratio, SceneMeasure, estimate

Array = NDArray[Any]

ALL = "all"


class Measure(str, Enum):
    """What is measured. The unit stands behind each."""

    PRECISION = "average precision"  # 0..1, by class; of all: mean over the classes that were asked for
    OVERLAP = "overlap of matches"  # mean intersection over union of found boxes with the wanted ones, 0..1
    OMITTED = "omitted"  # share of the wanted objects that are not found
    INVENTED = "invented"  # found objects a picture that nobody wanted
    NIGHT = "day or night"  # share of the pictures that are what was asked for
    CARS = "error of the number of cars"  # mean absolute difference, cars
    CARS_BIAS = "cars too many"  # mean difference, cars; below 0 = too few


_LABELS = (Measure.NIGHT, Measure.CARS, Measure.CARS_BIAS)


@dataclass(kw_only=True, slots=True)
class ObedienceConfig:
    """How obedience is measured."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)  # what it finds, and what counts as found
    min_overlap: float = 0.5  # intersection over union from which on a found box is the wanted one
    level: float = 0.95  # of the intervals
    resamples: int = 500  # scenes are drawn with replacement so many times
    seed: int = 0  # of those draws
    num_shown: int = 12  # pictures in the report

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        for name in ("min_overlap", "level"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"obedience.{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.resamples < 20:
            raise ValueError(f"obedience.resamples is {self.resamples}; it must be at least 20")


@dataclass(kw_only=True, slots=True)
class Wanted:
    """What a picture was asked to show."""

    scene: str  # pictures of one scene are not independent
    boxes: Boxes2D | None  # in pixels of the picture; None = nothing was said of boxes
    is_night: bool | None  # None = nothing was said
    num_cars: int | None  # None = nothing was said


@dataclass(kw_only=True, slots=True)
class ObedienceRow:
    """One number."""

    measure: Measure
    kind: str  # ALL, a class, a size or a distance
    made: Estimate
    num: int  # objects or pictures that it stands on
    ceiling: Estimate | None = None  # of real pictures; None = none were given


class ObedienceMeter:
    """Collects pictures one by one; keeps a few numbers an object."""

    def __init__(self, config: ObedienceConfig | None = None) -> None:
        self.config = config or ObedienceConfig()
        self._scenes: dict[str, int] = {}
        self._matched: list[MatchedPicture] = []  # of the pictures whose boxes are known
        self._matched_scenes: list[int] = []  # the scene of each of them
        self._labels: dict[Measure, list[tuple[int, float]]] = {measure: [] for measure in _LABELS}  # scene, value

    @property
    def num_scenes(self) -> int:
        """Scenes so far."""
        return len(self._scenes)

    def update(self, wanted: Wanted, detections: Detections, size_hw: tuple[int, int]) -> None:
        """Adds a picture of `size_hw` by what was asked for and what was found in it."""
        scene = self._scenes.setdefault(wanted.scene, len(self._scenes))
        if wanted.boxes is not None:
            self._matched.append(match_picture(wanted.boxes, detections, size_hw, self.config.min_overlap))
            self._matched_scenes.append(scene)
        if wanted.is_night is not None:
            self._labels[Measure.NIGHT].append((scene, float((detections.night > 0.5) == wanted.is_night)))
        if wanted.num_cars is not None:
            too_many = detections.confident(self.config.detector.score).num_cars() - wanted.num_cars
            self._labels[Measure.CARS].append((scene, float(abs(too_many))))
            self._labels[Measure.CARS_BIAS].append((scene, float(too_many)))

    def compute(self) -> list[ObedienceRow]:
        """All numbers that the pictures have something to say on.

        Raises:
            ValueError: no pictures.
        """
        if not self._scenes:
            raise ValueError("no pictures; obedience of nothing cannot be measured")
        rows = [] if not self._matched else [*self._precision_rows(), *self._box_rows()]
        for measure, values in self._labels.items():
            if values:
                scenes_N, values_N = np.array(values).T
                rows.append(self._row(measure, ALL, self._mean(scenes_N, values_N), len(values)))
        return [row for row in rows if row.num > 0]

    def _row(self, measure: Measure, kind: str, number: SceneMeasure, num: int) -> ObedienceRow:
        config = self.config
        made = estimate(number, self.num_scenes, level=config.level, resamples=config.resamples, seed=config.seed)
        return ObedienceRow(measure=measure, kind=kind, made=made, num=num)

    def _sums(self, scenes_N: Array, values_N: Array) -> Array:
        """(S,) sums of values over each scene."""
        return np.bincount(scenes_N.astype(int), weights=values_N, minlength=self.num_scenes)

    def _mean(self, scenes_N: Array, values_N: Array) -> Ratio:
        return Ratio(above_S=self._sums(scenes_N, values_N), below_S=self._sums(scenes_N, np.ones(len(values_N))))

    def _all(self, name: str) -> Array:
        """One field of all pictures' objects, one behind the other; "found" and "wanted" give the scene of each."""
        if name in ("found", "wanted"):
            counts = [len(getattr(matched, f"{name}_class")) for matched in self._matched]
            return np.repeat(np.array(self._matched_scenes), counts)
        return np.concatenate([getattr(matched, name) for matched in self._matched])

    def _precision_rows(self) -> list[ObedienceRow]:
        scores_N, classes_N = self._all("found_score"), self._all("found_class")
        scenes_N, is_right_N = self._all("found"), self._all("found_overlap") > 0
        order = np.argsort(-scores_N, kind="stable")
        rows, parts = [], []
        for class_id, object_class in enumerate(CLASSES):
            is_wanted = self._all("wanted_class") == class_id
            mine = order[classes_N[order] == class_id]
            number = AveragePrecision(
                scene_N=scenes_N[mine].astype(np.int64),
                is_right_N=is_right_N[mine],
                num_wanted_S=self._sums(self._all("wanted"), is_wanted.astype(np.float64)),
            )
            if is_wanted.any():
                parts.append(number)
                rows.append(self._row(Measure.PRECISION, object_class.value, number, int(is_wanted.sum())))
        total = sum(row.num for row in rows)
        return [self._row(Measure.PRECISION, ALL, MeanOf(parts=parts), total), *rows]

    def _box_rows(self) -> list[ObedienceRow]:
        limit = self.config.detector.score
        is_there = self._all("found_score") >= limit
        overlaps, is_omitted = self._all("found_overlap"), self._all("wanted_score") < limit
        matches = np.flatnonzero(is_there & (overlaps > 0))
        pictures_S = self._sums(np.array(self._matched_scenes), np.ones(len(self._matched)))
        number = self._mean(self._all("found")[matches], overlaps[matches])
        rows = [self._row(Measure.OVERLAP, ALL, number, len(matches))]
        for kind, name, index in _kinds():
            wanted = np.flatnonzero(self._all(f"wanted_{name}") == index if name else np.ones(len(is_omitted), bool))
            number = self._mean(self._all("wanted")[wanted], is_omitted[wanted].astype(np.float64))
            rows.append(self._row(Measure.OMITTED, kind, number, len(wanted)))
            is_of_kind = self._all(f"found_{name}") == index if name else np.ones(len(is_there), bool)
            invented_S = self._sums(self._all("found"), (is_of_kind & is_there & (overlaps == 0)).astype(np.float64))
            number = Ratio(above_S=invented_S, below_S=pictures_S)
            rows.append(self._row(Measure.INVENTED, kind, number, len(self._matched)))
        return rows


def _kinds() -> list[tuple[str, str, int]]:
    """Name of each kind of object, what tells it apart ("" = nothing), and its number among those."""
    names = {"class": [object_class.value for object_class in CLASSES], "size": SIZES, "distance": DISTANCES}
    return [(ALL, "", 0), *((kind, name, index) for name, kinds in names.items() for index, kind in enumerate(kinds))]


def with_ceiling(made: list[ObedienceRow], real: list[ObedienceRow]) -> list[ObedienceRow]:
    """The rows with those of real pictures beside them; where real pictures say nothing there is no ceiling."""
    ceilings = {(row.measure, row.kind): row.made for row in real}
    return [
        ObedienceRow(
            measure=row.measure,
            kind=row.kind,
            made=row.made,
            num=row.num,
            ceiling=ceilings.get((row.measure, row.kind)),
        )
        for row in made
    ]
