"""Whether futures repeat real clips: nearest real neighbours of every generated video, from the stored features."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.core.wording import number_of
from drivesim.evaluate.controls import Variant
from drivesim.evaluate.copying import nearest_real
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.scorer import Key, Side

_NUM_SHOWN = 8  # videos that a terminal and a report name


@dataclass(kw_only=True, slots=True)
class VideoNeighbours:
    """One generated video among the real ones."""

    name: str
    ratio: float  # median distance of its clips to their nearest real clips, over `RealNeighbours.distance`
    nearest: str  # real video that holds the nearest clip of all
    num_clips: int
    num_copies: int  # clips that lie nearer to a real one than real drives ever do to each other


@dataclass(kw_only=True, slots=True)
class RealNeighbours:
    """All generated videos, by one network."""

    extractor: str
    distance: float  # median distance of a real clip to the nearest one of another drive
    quartiles: tuple[float, float]  # of real clips' own ratios: what is natural
    videos: list[VideoNeighbours]


def real_neighbours(
    sets: Mapping[Side, Mapping[Key, FeatureSet]], extractors: Sequence[Extractor]
) -> tuple[list[RealNeighbours], list[str]]:
    """The neighbours by each network that sees clips, and why there are none for some.

    Args:
        sets: What `Scorer` has filled.
        extractors: In the order of the keys of `sets`.
    """
    found, problems = [], []
    for index, extractor in enumerate(extractors):
        if extractor.kind is not FeatureKind.CLIP:
            continue
        generated, real = (sets[side][index, Variant.PLAIN] for side in (Side.GENERATED, Side.REAL))
        real_MD, drives = real.vectors()
        if len(set(drives)) < 2:
            problems.append(f"{extractor.name}: no nearest real neighbours: they take real videos of 2 drives or more")
            continue
        generated_ND, _ = generated.vectors()
        neighbours = nearest_real(generated_ND, real_MD, drives.tolist())
        middle = float(np.median(neighbours.real_distance))
        if middle <= 0:
            problems.append(f"{extractor.name}: no nearest real neighbours: most real clips are copies of each other")
            continue
        owners = [video.name for video in real.videos for _ in range(len(video.features()))]
        videos, start = [], 0
        for video in generated.videos:
            mine = slice(start, start + len(video.features()))
            start = mine.stop
            distance = neighbours.distance[mine]
            if len(distance):
                videos.append(
                    VideoNeighbours(
                        name=video.name,
                        ratio=float(np.median(distance)) / middle,
                        nearest=owners[int(neighbours.index[mine][distance.argmin()])],
                        num_clips=len(distance),
                        num_copies=int(neighbours.is_copy[mine].sum()),
                    )
                )
        low, high = (float(end) for end in np.quantile(neighbours.real_distance / middle, [0.25, 0.75]))
        found.append(RealNeighbours(extractor=extractor.name, distance=middle, quartiles=(low, high), videos=videos))
    return found, problems


def neighbour_lines(entries: Sequence[RealNeighbours]) -> Iterator[str]:
    """A line of explanation a network, and a line a video: those nearest to real clips."""
    for entry in entries:
        yield f"distance to the nearest real clip {_measured(entry)}"
        shown = _nearest(entry)
        for video in shown:
            copies = (
                f"; {video.num_copies} of {number_of(video.num_clips, 'clip')} are copies" if video.num_copies else ""
            )
            yield f"{video.ratio:12.3f}  {video.name}: nearest {video.nearest}{copies}"
        if more := _left_out(entry):
            yield f"{'':12}  {more}"


def _measured(entry: RealNeighbours) -> str:
    low, high = entry.quartiles
    return (
        f"by {entry.extractor}, over that of real clips to other drives (half of them {low:.2f} to {high:.2f}; "
        "far below 1 is copying):"
    )


def _nearest(entry: RealNeighbours) -> list[VideoNeighbours]:
    """The videos to show, nearest first."""
    return sorted(entry.videos, key=lambda video: video.ratio)[:_NUM_SHOWN]


def _left_out(entry: RealNeighbours) -> str:
    """What there is to say of the others; "" = there are none."""
    rest = len(entry.videos) - _NUM_SHOWN
    if rest <= 0:
        return ""
    copied = sum(video.num_copies > 0 for video in entry.videos)
    return f"and {rest} videos that are farther; {copied} of all {len(entry.videos)} hold copies (scores.json has them)"


def neighbour_section(entries: Sequence[RealNeighbours]) -> str:
    """A table a network for the report; nothing where there are none."""
    tables = "".join(_table(entry) for entry in entries if entry.videos)
    return f"<h2>Do they repeat real clips?</h2>{tables}" if tables else ""


def _table(entry: RealNeighbours) -> str:
    rows = "".join(
        f'<tr><th>{html.escape(video.name)}</th><td class="value">{video.ratio:.3f}</td>'
        f"<td>{html.escape(video.nearest)}</td><td>{video.num_copies} of {video.num_clips}</td></tr>"
        for video in _nearest(entry)
    )
    head = "<tr><th></th><td>distance over real</td><td>nearest real video</td><td>clips that are copies</td></tr>"
    return (
        f'<p class="soft">Distance of clips to their nearest real clips {html.escape(_measured(entry))}</p>'
        f'<section class="metric"><table>{head}{rows}</table><p>{_left_out(entry)}</p></section>'
    )
