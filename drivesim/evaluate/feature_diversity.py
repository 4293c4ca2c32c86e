"""How far the futures of one start frame part in a network's eyes, against what a codec does to one of them.

Legend: K futures, N clips of a future, T frames, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.clips import iter_clips
from drivesim.evaluate.diversity import reencodings
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig
from drivesim.evaluate.videos import Video


@dataclass(kw_only=True, slots=True)
class FeatureDiversity:
    """Spread of K futures: the distance of their clips' features, averaged over pairs."""

    name: str
    extractor: str
    num_futures: int
    futures: float  # mean over clips of `curve`
    reencodings: float  # the same for encodings of the first future at `REENCODING_CRF`
    curve: list[float]  # futures' spread clip by clip

    @property
    def ratio(self) -> float:
        """Above 1: the futures differ by more than coding noise."""
        return self.futures / self.reencodings if self.reencodings > 0 else float("inf")


def feature_spread(features_KND: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(N,) Euclidean distance between the features of the n-th clips, averaged over all pairs of K futures.

    Futures of different numbers of clips are compared over the common ones.

    Raises:
        ValueError: fewer than two futures, or one without clips.
    """
    num_clips = min((len(features) for features in features_KND), default=0)
    if len(features_KND) < 2 or num_clips == 0:
        raise ValueError(f"{len(features_KND)} futures of at least {num_clips} clips; a spread needs 2 of 1 clip")
    cut = [np.asarray(features[:num_clips], dtype=np.float64) for features in features_KND]
    return np.asarray(np.mean([np.linalg.norm(a - b, axis=1) for a, b in combinations(cut, 2)], axis=0))


def measure_feature_diversity(
    name: str, futures: Sequence[Video], extractor: Extractor, protocol: ProtocolConfig, size_hw: tuple[int, int]
) -> FeatureDiversity:
    """The spread of futures in feature space beside that of re-encodings of the first one.

    Args:
        name: For the row.
        futures: At least two videos of one start frame.
        extractor: A network that sees clips.
        protocol: How videos become clips; all of them are taken, as random ones are of other moments in each video.
        size_hw: Size of the clips' frames.

    Raises:
        ValueError: a network that sees single frames, or videos too short for a clip.
    """
    if extractor.kind is not FeatureKind.CLIP:
        raise ValueError(f"{extractor.name} sees single frames; the spread of futures needs a network that sees clips")

    protocol = replace(protocol, clip_choice=ClipChoice.ALL)

    def features(video: Video) -> NDArray[np.float64]:
        clips = iter_clips(video, protocol, size_hw, protocol.context_frames)
        return np.concatenate([extractor(clip[None]).numpy().astype(np.float64) for clip in clips])

    curve = feature_spread([features(video) for video in futures])
    with reencodings(futures[0], protocol.fps or 4.0) as encoded:
        noise = feature_spread([features(video) for video in encoded])
    return FeatureDiversity(
        name=name,
        extractor=extractor.name,
        num_futures=len(futures),
        futures=float(curve.mean()),
        reencodings=float(noise[: len(curve)].mean()),
        curve=[float(value) for value in curve],
    )
