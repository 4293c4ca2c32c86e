"""Curves over a video's time: one pass, a few numbers a frame.

Legend: T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from enum import Enum

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drivesim.core.wording import number_of
from drivesim.evaluate.picture_statistics import PictureStatistics, StepMeter, StepStatistics, picture_statistics
from drivesim.evaluate.videos import Frame

SMOOTHING_FRAMES = 5  # medians and means of neighbouring frames run over so many

Curve = NDArray[np.float64]  # (T,)


class Measure(str, Enum):
    """What is followed over time."""

    SHARPNESS = "sharpness"  # log of fine detail's share of the variance
    CONTRAST = "contrast"  # log of the standard deviation of grey levels
    BRIGHTNESS = "brightness"  # log of the mean grey level
    SATURATION = "saturation"  # log of colour's share of the strongest channel
    LIGHT = "light"  # log of the gain since the first frame, what motion brings into view left out
    FLICKER = "flicker"  # size of the gain from frame to frame, log, median over neighbours
    MOTION = "motion"  # log of 1 + grey levels that change from frame to frame
    DISORDER = "disorder"  # share of frames that are nearer to an older frame than to the one before

    @property
    def full_name(self) -> str:
        """The name with what it is of."""
        return f"{self.value}: {_OF[self]}"

    @property
    def unit(self) -> str:
        """What a curve's numbers are; ln(x / start) of 0.1 is a tenth more than in the first frame."""
        return _UNITS.get(self, "ln(value / start)")


_OF = {
    Measure.SHARPNESS: "share of fine detail",
    Measure.CONTRAST: "spread of grey levels",
    Measure.BRIGHTNESS: "mean grey level",
    Measure.SATURATION: "share of colour",
    Measure.LIGHT: "gain of what stays in view",
    Measure.FLICKER: "gain from frame to frame",
    Measure.MOTION: "grey levels of change a frame",
    Measure.DISORDER: "frames out of order",
}
_UNITS = {  # of those that are no changes since the first frame
    Measure.LIGHT: "ln(gain)",
    Measure.FLICKER: "|ln(gain)|",
    Measure.MOTION: "ln(1 + levels)",
    Measure.DISORDER: "share of frames",
}


# Measures that start from anywhere and do not spread with time; the others are changes since the first frame.
STEADY = frozenset({Measure.FLICKER, Measure.MOTION, Measure.DISORDER})


@dataclass(kw_only=True, slots=True)
class VideoCurves:
    """The raw numbers of one video, all (T,); steps at frame 0 are 0."""

    brightness: Curve  # mean grey level, 0..255
    contrast: Curve  # standard deviation of grey levels
    sharpness: Curve  # share of the variance, 0..1
    saturation: Curve  # 0..1
    light: Curve  # log gain since the frame before
    motion: Curve  # grey levels of change since the frame before
    out_of_order: Curve  # 1 = an older frame is nearer than the frame before, 0 = not

    def __len__(self) -> int:
        """T."""
        return len(self.brightness)

    def beginning(self, num_frames: int) -> VideoCurves:
        """The curves of the first frames."""
        return VideoCurves(**{part.name: getattr(self, part.name)[:num_frames] for part in fields(self)})


@dataclass(slots=True)
class CurveMeter:
    """Takes the frames of one video one by one."""

    _pictures: list[PictureStatistics] = field(default_factory=list)
    _steps: list[StepStatistics] = field(default_factory=list)
    _step_meter: StepMeter = field(default_factory=StepMeter)

    def update(self, frame_HWC: Frame) -> None:
        """Adds the next uint8 RGB frame (H, W, 3)."""
        self._pictures.append(picture_statistics(frame_HWC))
        step = self._step_meter.update(frame_HWC)
        self._steps.append(step or StepStatistics(light=0.0, motion=0.0, out_of_order=False))

    def compute(self) -> VideoCurves:
        """The curves so far.

        Raises:
            ValueError: fewer than two frames, which have no course.
        """
        if len(self._pictures) < 2:
            raise ValueError(
                f"a video of {number_of(len(self._pictures), 'frame')} has no course; at least 2 are needed"
            )
        pictures = {
            name: np.array([getattr(picture, name) for picture in self._pictures], dtype=np.float64)
            for name in ("brightness", "contrast", "sharpness", "saturation")
        }
        steps = {
            name: np.array([getattr(step, name) for step in self._steps], dtype=np.float64)
            for name in ("light", "motion", "out_of_order")
        }
        return VideoCurves(**pictures, **steps)


def video_curves(frames: Iterable[Frame]) -> VideoCurves:
    """The curves of a video's frames, each uint8 RGB (H, W, 3)."""
    meter = CurveMeter()
    for frame in frames:
        meter.update(frame)
    return meter.compute()


def course(curves: VideoCurves, measure: Measure) -> Curve:
    """(T,) a measure as it is held against real video: a logarithm or a share, smoothed over neighbours."""
    return _COURSES[measure](curves)


def smoothed(values: Curve, how: Callable[..., Curve], num_frames: int = SMOOTHING_FRAMES) -> Curve:
    """(T,) `how` (np.median, np.mean) over a window centred on each frame, cut at the ends."""
    if len(values) < num_frames:
        return np.full(len(values), float(how(values)))
    middle = how(sliding_window_view(values, num_frames), axis=-1)
    half = num_frames // 2
    starts = [how(values[: half + 1 + index]) for index in range(half)]
    ends = [how(values[len(values) - num_frames + 1 + index :]) for index in range(num_frames - half - 1)]
    return np.concatenate([starts, middle, ends])


def log_of(values: Curve) -> Curve:
    """Logarithms; a share or level of 0, as in a black picture, counts as 1e-6."""
    return np.log(np.maximum(values, 1e-6))


def _since_start(values: Curve) -> Curve:
    logs = log_of(values)
    return smoothed(logs - logs[0], np.median)


_COURSES: dict[Measure, Callable[[VideoCurves], Curve]] = {
    Measure.SHARPNESS: lambda curves: _since_start(curves.sharpness),
    Measure.CONTRAST: lambda curves: _since_start(curves.contrast),
    Measure.BRIGHTNESS: lambda curves: _since_start(curves.brightness),
    Measure.SATURATION: lambda curves: _since_start(curves.saturation),
    Measure.LIGHT: lambda curves: smoothed(np.cumsum(curves.light), np.median),
    Measure.FLICKER: lambda curves: smoothed(np.abs(curves.light), np.median),
    Measure.MOTION: lambda curves: smoothed(np.log1p(curves.motion), np.median),
    Measure.DISORDER: lambda curves: smoothed(curves.out_of_order, np.mean, 2 * SMOOTHING_FRAMES),
}
