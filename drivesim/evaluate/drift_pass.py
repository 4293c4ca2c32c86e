"""One pass over videos for their curves: a few numbers a frame, and sums of clip features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from drivesim.evaluate.clips import fit, resample
from drivesim.evaluate.curves import CurveMeter, VideoCurves
from drivesim.evaluate.detector import Detections, Detector
from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.frechet_curve import BinnedStatistics
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.videos import Frame, Video

UNKNOWN_FPS = 4.0  # of frames that carry no rate


@dataclass(kw_only=True, slots=True)
class Courses:
    """What one pass over a set of videos keeps."""

    curves: dict[str, VideoCurves] = field(default_factory=dict)  # by the video's name
    features: list[BinnedStatistics] = field(default_factory=list)  # one a video; empty without a network
    detections: dict[str, list[Detections]] = field(default_factory=dict)  # one a frame; empty without a detector
    problems: list[str] = field(default_factory=list)  # one a video that could not be read


@dataclass(kw_only=True, slots=True)
class CourseReader:
    """Reads videos frame by frame; memory holds one clip and a few numbers a frame."""

    protocol: ProtocolConfig
    size_hw: tuple[int, int]  # of the frames that are measured
    extractor: Extractor | None = None  # of clips' features over time; None = curves alone
    bin_s: float = 2.0  # time bins of those features
    detector: Detector | None = None  # of road users; None = none are looked for

    def read(self, videos: Iterable[Video], num_given: int = 0) -> Courses:
        """The curves of all frames, and the features of the clips behind the first `num_given` frames.

        A video that cannot be read, is too slow for the protocol or has a single frame is a problem, not an error.
        """
        found = Courses()
        for video in videos:
            try:
                curves, binned, detections = self._read_video(video, num_given)
            except (ValueError, OSError) as error:
                found.problems.append(f"no curves of {video.name}: {error}")
                continue
            found.curves[video.name] = curves
            if self.detector is not None:
                found.detections[video.name] = detections
            if binned is not None:
                found.features.append(binned)
        return found

    def frames(self, video: Video) -> Iterator[Frame]:
        """A video's frames (H, W, 3) at the protocol's rate and size, one in memory at a time.

        Raises:
            ValueError: unreadable, or too slow for the protocol.
        """
        protocol = self.protocol
        timed = video.timed_pictures(protocol.untimed_fps or protocol.fps)
        return (fit(frame, self.size_hw, protocol) for frame in resample(timed, protocol.fps, video.name))

    def _read_video(
        self, video: Video, num_given: int
    ) -> tuple[VideoCurves, BinnedStatistics | None, list[Detections]]:
        protocol = self.protocol
        meter = CurveMeter()
        clips = None if self.extractor is None else _ClipFeatures(self.extractor, protocol, self.bin_s)
        detections: list[Detections] = []
        for index, fitted in enumerate(self.frames(video)):
            meter.update(fitted)
            if self.detector is not None:
                detections += self.detector(fitted[None])
            if clips is not None and index >= num_given:
                clips.update(index, fitted)
        return meter.compute(), None if clips is None else clips.binned, detections


class _ClipFeatures:
    """Features of one video's clips, which do not overlap, by the time at which they begin."""

    def __init__(self, extractor: Extractor, protocol: ProtocolConfig, bin_s: float) -> None:
        self.extractor, self.protocol = extractor, protocol
        self.binned = BinnedStatistics(extractor.feature_dim, bin_s)
        self._clip: list[Frame] = []

    def update(self, index: int, frame_HWC: Frame) -> None:
        """Adds frame number `index` of the video."""
        self._clip.append(frame_HWC)
        span = self.protocol.span_frames
        if len(self._clip) == span:
            features = self.extractor(np.stack(self._clip[:: self.protocol.frame_stride])[None]).numpy()
            time_s = (index + 1 - span) / (self.protocol.fps or UNKNOWN_FPS)
            self.binned.update(np.array([time_s]), features)
            self._clip.clear()
