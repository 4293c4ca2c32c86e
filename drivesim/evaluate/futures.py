"""What the futures of one start frame do: spread in feature space, and shares of left, straight and right."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row
from drivesim.core.motion import MotionSegment, motion_at
from drivesim.core.wording import number_of
from drivesim.evaluate.diversity import frames_at
from drivesim.evaluate.ego_motion import EgoMotionConfig, EgoTurn, ego_turn, yaw_steps_deg
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.feature_diversity import FeatureDiversity, measure_feature_diversity
from drivesim.evaluate.modes import ModeShare, mode_shares
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.rollout_folder import asked_motion
from drivesim.evaluate.videos import Video


@dataclass(kw_only=True, slots=True)
class Told:
    """Futures that were told to drive one way."""

    seconds: float  # from the start on, for which they were told
    asked_deg: float  # degrees to the left that they were told to turn in that time
    driven_deg: list[float]  # degrees that each of them turns in that time


@dataclass(kw_only=True, slots=True)
class Futures:
    """The futures of one start frame."""

    name: str  # of the first future
    features: FeatureDiversity | None  # None = no network that sees clips
    yaw_deg: list[float]  # degrees that each future turns to the left in all
    turns: list[ModeShare]  # of left, straight, right
    told: list[Told] = field(default_factory=list)  # those that were told how to drive, by what they were told


def measure_futures(
    starts: Mapping[str, Sequence[Video]],
    extractors: Sequence[Extractor],
    protocol: ProtocolConfig,
    size_hw: tuple[int, int],
    rows: Path,
) -> list[Futures]:
    """Every group of futures; a group that cannot be measured is a row with its cause in `rows`."""
    network = next((extractor for extractor in extractors if extractor.kind is FeatureKind.CLIP), None)
    found = []
    for name, videos in starts.items():
        try:
            features = None
            if network is not None:
                features = measure_feature_diversity(name, videos, network, protocol, size_hw)
            steps = [_yaw_steps_deg(video) for video in videos]
        except (ValueError, OSError) as error:
            append_row(rows, {"set": "futures", "name": name, "ok": False, "error": str(error)})
            continue
        turns = [ego_turn(yaw).value for yaw in steps]
        found.append(
            Futures(
                name=name,
                features=features,
                yaw_deg=[round(float(yaw.sum()), 2) for yaw in steps],
                turns=mode_shares(turns, [turn.value for turn in EgoTurn]),
                told=_told([asked_motion(video.path) for video in videos], steps, _looked_at_fps(videos[0])),
            )
        )
    return found


def _told(motions: Sequence[Sequence[MotionSegment]], steps: Sequence[NDArray[np.float64]], fps: float) -> list[Told]:
    """How far futures turn while they were told how to drive, beside what they were told."""
    found = []
    for number, motion in enumerate(motions):
        mine = [yaw for other, yaw in zip(motions, steps, strict=True) if other == motion]
        told_steps = int(min(min(map(len, mine)), sum(segment.seconds for segment in motion) * fps + 1e-6))
        if not told_steps or motion in motions[:number]:
            continue
        seconds = told_steps / fps
        ((_, yaw_rate),) = motion_at(motion, np.array([seconds]), seconds)
        driven_deg = [round(float(yaw[:told_steps].sum()), 2) for yaw in mine]
        asked_deg = round(float(np.degrees(yaw_rate)) * seconds, 2)
        found.append(Told(seconds=seconds, asked_deg=asked_deg, driven_deg=driven_deg))
    return found


def _looked_at_fps(video: Video) -> float:
    """Frames as far apart as those that the measure was tried on: nearer ones damp it."""
    fps = EgoMotionConfig().fps
    return min(fps, video.own_fps() or fps)


def _yaw_steps_deg(video: Video) -> NDArray[np.float64]:
    return yaw_steps_deg(frames_at(video, _looked_at_fps(video)), EgoMotionConfig())


def futures_section(entries: Sequence[Futures]) -> str:
    """Lines for the report, one a start frame; nothing where there are none."""
    return "".join(f"<p>{html.escape(_line(entry))}</p>" for entry in entries)


def _line(entry: Futures) -> str:
    shares = ", ".join(f"{turn.mode} {turn.count} ({turn.low:.0%} to {turn.high:.0%})" for turn in entry.turns)
    text = f"{entry.name} and the others of its start frame, by the way they drive: {shares}."
    for told in entry.told:
        driven = ", ".join(f"{yaw:.0f}" for yaw in told.driven_deg)
        text += (
            f" {number_of(len(told.driven_deg), 'future')} told to turn {told.asked_deg:.0f} degrees to the left in "
            f"{told.seconds:.3g} s: {driven} (below 0: to the right)."
        )
    if entry.features is not None:
        spread = entry.features
        text += (
            f" In features of {spread.extractor} they are {spread.futures:.3g} apart, re-encodings of one "
            f"{spread.reencodings:.3g}: {spread.ratio:.3g} times as much."
        )
    return text
