"""Drift: how videos change over their time, measure by measure, against what real video does.

Legend: T frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row
from drivesim.core.wording import number_of
from drivesim.evaluate.curves import STEADY, Measure, VideoCurves, course
from drivesim.evaluate.detector import Detector
from drivesim.evaluate.drift_pass import UNKNOWN_FPS, CourseReader, Courses
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.faults import Fault, find_faults, natural_limits, series_of
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.frechet_curve import FrechetCurve, frechet_curve, joined
from drivesim.evaluate.object_faults import add_object_faults
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.real_band import MIN_VIDEOS, RealBand, leaves_at, real_band
from drivesim.evaluate.reference_faults import reference_faults
from drivesim.evaluate.seams import SeamMeter, Seams
from drivesim.evaluate.videos import Video


@dataclass(kw_only=True, slots=True)
class DriftConfig:
    """What is measured over time; all but the Fréchet curve takes about 1 ms a frame of 64 x 128."""

    enabled: bool = True  # False = no curves, no faults
    share: float = 0.9  # of real videos that must stay inside the band over its whole length
    confidence: float = 0.95  # of the band
    frechet_window_s: float | None = None  # sliding window; runs the clip network again; None = no such curve
    frechet_step_s: float = 2.0  # from one window to the next
    max_real: int = 200  # real videos that the band is made from, at most, in their order
    objects: bool = False  # also looks for road users that come or go at once: some 15 ms a frame more
    reference: str | None = None  # folder of what generated videos should equal, by name; faults are then against it
    first_border_frame: int | None = None  # where the second chunk of a rollout begins; None = chunks are not known
    chunk_frames: int = 8  # frames of every later chunk

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        for name in ("share", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"drift.{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("frechet_window_s", "frechet_step_s", "max_real", "first_border_frame", "chunk_frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"drift.{name} is {value}; it must be above 0")


@dataclass(kw_only=True, slots=True)
class DriftCurve:
    """One measure of all generated videos beside real video."""

    measure: Measure
    generated: NDArray[np.float64]  # (T,) mean over the videos that are so long
    band: RealBand | None  # None = too few real videos
    leaves_s: dict[str, float | None]  # by video: when it leaves the band; None = never


@dataclass(kw_only=True, slots=True)
class Drift:
    """All curves of an evaluation."""

    fps: float
    num_generated: int
    num_real: int  # real videos as long as the band, which it was made from
    curves: list[DriftCurve]
    faults: dict[str, list[Fault]]  # by generated video; videos without any are left out
    seams: Seams | None  # None = no borders known, or fewer than two of them
    real_seams: Seams | None  # the same places in real video, where there is no join
    frechet: FrechetCurve | None  # None = not asked for
    frechet_floor: FrechetCurve | None  # one half of the real videos against the other
    warnings: list[str]
    figure: Path | None = None  # the picture of all curves


def measure_drift(
    config: DriftConfig,
    generated: Sequence[Video],
    real: Sequence[Video],
    *,
    protocol: ProtocolConfig,
    size_hw: tuple[int, int],
    extractors: Sequence[Extractor],
    rows: Path,
) -> Drift | None:
    """The drift of an evaluation's videos, one more pass over them.

    Args:
        config: What is measured.
        generated: What is followed over time.
        real: What it is held against.
        protocol: Rate, crop and filter of the frames.
        size_hw: Their size.
        extractors: The first one that sees clips gives the Fréchet curve, if that is asked for.
        rows: A drift that cannot be measured is a row with its cause here.

    Returns:
        None = switched off, no generated video on disk, or none that can be measured.
    """
    if not config.enabled or not generated:
        return None
    network = None
    if config.frechet_window_s is not None:
        network = next((extractor for extractor in extractors if extractor.kind is FeatureKind.CLIP), None)
    reader = CourseReader(
        protocol=protocol,
        size_hw=size_hw,
        extractor=network,
        bin_s=config.frechet_step_s,
        detector=Detector.shipped() if config.objects else None,
    )
    given = 0 if protocol.count_context else protocol.context_frames
    made = reader.read(generated, given)
    natural = reader.read(real[: config.max_real])
    if not made.curves:
        append_row(rows, {"set": "drift", "name": "all", "ok": False, "error": "; ".join(made.problems[:3])})
        return None
    drift = drift_of(config, made, natural, protocol.fps or UNKNOWN_FPS, protocol.covariance)
    if config.objects and drift.num_real >= MIN_VIDEOS:
        add_object_faults(drift.faults, made.detections, list(natural.detections.values()), size_hw)
    if config.reference is not None:
        against, problems = reference_faults(generated, config.reference, reader, made.detections)
        drift.faults = {name: faults for name, faults in (drift.faults | against).items() if faults}
        drift.warnings += problems
    return drift


def drift_of(config: DriftConfig, made: Courses, natural: Courses, fps: float, covariance: Covariance) -> Drift:
    """The drift of generated videos (`made`) from what one pass over each side kept."""
    longest = max(len(curves) for curves in made.curves.values())
    usable = _as_long(list(natural.curves.values()), longest)
    borders_s = _borders_s(config, longest, fps)
    frechet, floor = _frechet(config, made, natural, covariance)
    return Drift(
        fps=fps,
        num_generated=len(made.curves),
        num_real=len(usable),
        curves=[_curve(config, measure, made, usable, fps) for measure in Measure],
        faults=_faults(made.curves, usable, config, fps),
        seams=_seams(made.curves.values(), fps, borders_s, config.confidence),
        real_seams=_seams(natural.curves.values(), fps, borders_s, config.confidence),
        frechet=frechet,
        frechet_floor=floor,
        warnings=made.problems + natural.problems + _band_warnings(usable, longest),
    )


def _curve(config: DriftConfig, measure: Measure, made: Courses, real: Sequence[VideoCurves], fps: float) -> DriftCurve:
    courses = {name: course(curves, measure) for name, curves in made.curves.items()}
    band = None
    if len(real) >= MIN_VIDEOS:
        natural = [course(curves, measure) for curves in real]
        band = real_band(natural, config.share, config.confidence, is_steady=measure in STEADY)
    leaves = {} if band is None else {name: leaves_at(curve, band) for name, curve in courses.items()}
    return DriftCurve(
        measure=measure,
        generated=_mean(list(courses.values())),
        band=band,
        leaves_s={name: None if frame is None else frame / fps for name, frame in leaves.items()},
    )


def _borders_s(config: DriftConfig, num_frames: int, fps: float) -> list[float]:
    first = config.first_border_frame
    return [] if first is None else [frame / fps for frame in range(first, num_frames, config.chunk_frames)]


def _frechet(
    config: DriftConfig, made: Courses, natural: Courses, covariance: Covariance
) -> tuple[FrechetCurve | None, FrechetCurve | None]:
    """The curve, and its floor: every other real video against the rest."""
    if config.frechet_window_s is None or not made.features or not natural.features:
        return None, None
    num_bins = max(1, round(config.frechet_window_s / config.frechet_step_s))
    real = joined(natural.features)
    curve = frechet_curve(joined(made.features), real, num_bins, covariance)
    if len(natural.features) < 2:
        return curve, None
    odd, even = joined(natural.features[1::2]), joined(natural.features[::2])
    return curve, frechet_curve(odd, even, num_bins, covariance)


def _as_long(real: list[VideoCurves], num_frames: int) -> list[VideoCurves]:
    """Beginnings of real videos, all of one length: the generated videos', or the real videos' median where shorter."""
    if not real:
        return []
    length = min(num_frames, int(np.median([len(curves) for curves in real])))
    return [curves.beginning(length) for curves in real if len(curves) >= length]


def _band_warnings(usable: Sequence[VideoCurves], num_frames: int) -> list[str]:
    if len(usable) < MIN_VIDEOS:
        return [f"{number_of(len(usable), 'real video')}: no band of real video, which needs {MIN_VIDEOS}"]
    if len(usable[0]) < num_frames:
        return [
            f"generated videos of up to {number_of(num_frames, 'frame')}, real ones of {len(usable[0])}: beyond "
            "that, the band stays as it is at its end; give longer real videos"
        ]
    return []


def _mean(courses: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(T,) mean at each frame over the curves that reach it."""
    longest = max(len(curve) for curve in courses)
    total, count = np.zeros(longest), np.zeros(longest)
    for curve in courses:
        total[: len(curve)] += curve
        count[: len(curve)] += 1
    return total / count


def _faults(
    made: dict[str, VideoCurves], real: Sequence[VideoCurves], config: DriftConfig, fps: float
) -> dict[str, list[Fault]]:
    """Faults by video; none are named without real videos to say what is natural."""
    if len(real) < MIN_VIDEOS:
        return {}
    limits = natural_limits(real, config.share, config.confidence)
    found = {name: find_faults(series_of(curves), limits, fps) for name, curves in made.items()}
    return {name: faults for name, faults in found.items() if faults}


def _seams(videos: Iterable[VideoCurves], fps: float, borders_s: Sequence[float], confidence: float) -> Seams | None:
    meter = SeamMeter()
    for curves in videos:
        meter.update(curves.motion, fps, borders_s)
    return meter.compute(confidence)
