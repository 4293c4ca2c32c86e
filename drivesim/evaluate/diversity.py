"""How far the futures of one start frame part, against what a codec alone does to one of them.

Legend: K videos, T frames, H x W pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.video_writing import VideoWriter
from drivesim.core.wording import number_of
from drivesim.evaluate.clips import resample
from drivesim.evaluate.videos import Frame, Video

REENCODING_CRF = (18, 23, 28, 33)  # x264 qualities from visually lossless to plainly worse
_SAME_START = 12.0  # mean grey levels by which two encodings of one start frame may differ


@dataclass(kw_only=True, slots=True)
class Diversity:
    """Spread of K futures: the root mean square difference of pixels, averaged over pairs."""

    name: str  # of the first future
    num_futures: int
    futures: float  # grey levels of 255, over the common length
    reencodings: float  # the same for encodings of the first future at `REENCODING_CRF`
    curve: list[float]  # futures' spread frame by frame

    @property
    def ratio(self) -> float:
        """Above 1: the futures differ by more than coding noise."""
        return self.futures / self.reencodings if self.reencodings > 0 else float("inf")


def pairwise_spread(videos: Sequence[Iterable[Frame]]) -> NDArray[np.float64]:
    """(T,) root mean square difference in grey levels, averaged over all pairs, for the common length.

    Raises:
        ValueError: fewer than two videos, or frames of different sizes.
    """
    if len(videos) < 2:
        raise ValueError(f"{number_of(len(videos), 'video')}; a spread needs at least 2")
    spread = []
    for frames in zip(*videos, strict=False):  # the shortest video ends it
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"videos of different sizes: {sorted({frame.shape for frame in frames})}")
        pictures = [frame.astype(np.float32) for frame in frames]
        spread.append(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(pictures, 2)]))
    return np.array(spread, dtype=np.float64)


def measure_diversity(name: str, futures: Sequence[Video], fps: float) -> Diversity:
    """The spread of futures beside that of as many re-encodings of the first one.

    Args:
        name: For the row.
        futures: At least two videos of one start frame.
        fps: Frames a second that are looked at; frames that carry no times are taken to have it.

    Raises:
        ValueError: fewer than two videos, of different sizes, unreadable, or with fewer frames a second.
    """
    curve = pairwise_spread([frames_at(video, fps) for video in futures])
    with reencodings(futures[0], fps) as encoded:
        noise = pairwise_spread([frames_at(video, fps) for video in encoded])
    return Diversity(
        name=name,
        num_futures=len(futures),
        futures=float(curve.mean()),
        reencodings=float(noise[: len(curve)].mean()),
        curve=[float(value) for value in curve],
    )


@contextmanager
def reencodings(video: Video, fps: float) -> Iterator[list[Video]]:
    """A video at `fps` frames a second, encoded at each of `REENCODING_CRF`; the files are gone after the block."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"crf_{crf}.mp4" for crf in REENCODING_CRF]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(VideoWriter(path, fps, crf=crf))
                for path, crf in zip(paths, REENCODING_CRF, strict=True)
            ]
            for frame in frames_at(video, fps):
                for writer in writers:
                    writer.write(frame)
        yield [Video(name=path.name, path=path) for path in paths]


def same_starts(videos: Sequence[Video]) -> dict[str, list[Video]]:
    """Videos in one folder, or in memory, whose first frames are one picture, by the first one's name.

    Single ones are left out.
    """
    groups: list[tuple[Path | None, Frame, list[Video]]] = []
    for video in videos:
        first = next((frame for _, frame in video.timed_frames(None)), None)
        if first is None:
            continue
        beside = None if video.path is None else video.path.parent
        for folder, start, members in groups:
            if folder == beside and _alike(start, first):
                members.append(video)
                break
        else:
            groups.append((beside, first, [video]))
    return {members[0].name: members for _, _, members in groups if len(members) > 1}


def _alike(a: Frame, b: Frame) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(np.float32) - b).mean()) < _SAME_START


def frames_at(video: Video, fps: float) -> Iterator[Frame]:
    """A video's frames at `fps` frames a second, one in memory at a time.

    Raises:
        ValueError: unreadable, or fewer frames a second.
    """
    return resample(video.timed_pictures(fps), fps, video.name)
