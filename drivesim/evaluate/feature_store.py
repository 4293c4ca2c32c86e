"""Features of clips on disk, one file a video, found again by content, preprocessing and weights.

Legend: C clips, V vectors a clip (1, or one a frame), D features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from drivesim.core.files import atomic_path, write_json
from drivesim.evaluate.controls import NOISE_LEVELS, Variant
from drivesim.evaluate.extractors import Extractor, FeatureKind
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig, library_versions

_FORMAT = 2  # raised when the way from a video to its features changes
_CLIP_FIELDS = ("num_frames", "fps", "frame_stride", "spacing_frames", "clip_choice", "untimed_fps")
_PICTURE_FIELDS = ("resize", "crop", "resize_hw")
_DIGITS = 32  # of a digest in a name


@dataclass(kw_only=True, slots=True)
class Recipe:
    """How features come from a video's bytes: equal recipes and equal bytes give equal features."""

    extractor: dict[str, Any]
    clips: dict[str, Any]  # which clips
    pictures: dict[str, Any]  # how frames are brought to size
    variant: dict[str, Any]  # what is done to a clip, and the seed where it is random
    libraries: dict[str, str]
    format: int = _FORMAT

    @property
    def digest(self) -> str:
        """Names the recipe's folder in a store."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:_DIGITS]


def make_recipe(
    extractor: Extractor,
    protocol: ProtocolConfig,
    size_hw: tuple[int, int],
    skip_frames: int,
    variant: Variant,
    *,
    truncates: bool = False,
) -> Recipe:
    """The recipe of one extractor's features of one variant; counts, covariance and names have no part in it."""
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(protocol).items()}
    seed = {"seed": protocol.seed}
    is_random = protocol.clip_choice is ClipChoice.RANDOM
    return Recipe(
        extractor={
            "name": extractor.name,
            "metric": extractor.metric_name,
            "kind": extractor.kind.value,
            "feature_dim": extractor.feature_dim,
            "weights_sha256": extractor.fingerprint,
        },
        clips={name: plain[name] for name in _CLIP_FIELDS} | {"skip_frames": skip_frames} | (seed if is_random else {}),
        pictures={name: plain[name] for name in _PICTURE_FIELDS}
        | {"size_hw": list(size_hw)}
        | ({"truncates": True} if truncates else {}),  # absent otherwise: earlier stores stay valid
        variant={"name": variant.value}
        | (seed if variant.is_random else {})
        | ({"levels": NOISE_LEVELS} if variant is Variant.NOISY else {}),
        libraries=library_versions(),
    )


@dataclass(kw_only=True, slots=True)
class ClipFeatures:
    """What an extractor says of one video."""

    features_CVD: NDArray[np.float32]
    starts_s: NDArray[np.float64]  # (C,) when each clip begins in the video
    source_hw: tuple[int, int] | None = None  # size of the video's own frames; None = not known


@dataclass(kw_only=True, slots=True)
class StoredVideo:
    """Features of one video's clips, in a file; read when asked for."""

    path: Path
    name: str
    sha256: str
    drive: str  # clips of one drive are no independent samples
    clips: slice  # those that count, of all in the file
    prompt: str | None = None  # the text that the video was made from; None = not known

    def source_hw(self) -> tuple[int, int] | None:
        """Size of the video's own frames; None = a store of an earlier version does not know."""
        with safe_open(self.path, framework="numpy") as file:
            size = (file.metadata() or {}).get("source_hw")
        if size is None:
            return None
        height, width = size.split("x")
        return int(height), int(width)

    def features(self) -> NDArray[np.float32]:
        """(C, V, D) of the clips that count."""
        with safe_open(self.path, framework="numpy") as file:
            features: NDArray[np.float32] = file.get_tensor("features_CVD")[self.clips]
        return features

    def starts_s(self) -> NDArray[np.float64]:
        """(C,) when each clip begins in its video."""
        with safe_open(self.path, framework="numpy") as file:
            starts: NDArray[np.float64] = file.get_tensor("starts_s")[self.clips]
        return starts


class FeatureStore:
    """A folder of folders, one a recipe, of files, one a video; whole files or none, so any kill leaves it sound."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, recipe: str, sha256: str, name: str | None) -> Path:
        """Where features lie.

        Args:
            recipe: Its digest.
            sha256: Of the video.
            name: Of the video, where something random follows from it; None = nothing does.
        """
        key = sha256 if name is None else hashlib.sha256(f"{sha256} {name}".encode()).hexdigest()
        return self.folder / recipe / f"{key[:_DIGITS]}.safetensors"

    def has(self, path: Path) -> bool:
        """Whether whole features are there; a damaged file is none and is made again."""
        try:
            self.num_clips(path)
        except (FileNotFoundError, SafetensorError):
            return False
        return True

    def num_clips(self, path: Path) -> int:
        """Clips of a stored video, from the file's head alone."""
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("features_CVD").get_shape()[0])

    def save(self, path: Path, recipe: Recipe, features: ClipFeatures, origin: dict[str, str]) -> None:
        """Writes a video's features, with the recipe in plain text beside the first ones.

        Args:
            path: From `path`.
            recipe: How they came to be.
            features: Of all clips of the video.
            origin: Name, digest and drive of the video, for a reader; the store itself goes by `path`.
        """
        described = path.parent / "recipe.json"
        if not described.is_file():
            write_json(described, asdict(recipe))
        arrays: dict[str, NDArray[Any]] = {
            "features_CVD": np.ascontiguousarray(features.features_CVD),
            "starts_s": features.starts_s,
        }
        if features.source_hw is not None:
            origin = origin | {"source_hw": "{}x{}".format(*features.source_hw)}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata=origin)


@dataclass(kw_only=True, slots=True, eq=False)
class FeatureSet:
    """One side of a distance: stored videos in their order. Equal to itself alone, so that it can be a key."""

    kind: FeatureKind
    feature_dim: int  # D
    videos: list[StoredVideo]

    def half(self, parity: int) -> FeatureSet:
        """Every other drive, from number `parity` on; of one drive every other video, of one video every other clip."""
        if len(self.videos) != 1:
            drives = list(dict.fromkeys(video.drive for video in self.videos))
            chosen = set(drives[parity::2])
            videos = [video for video in self.videos if video.drive in chosen]
            if len(drives) == 1:
                videos = self.videos[parity::2]
            return FeatureSet(kind=self.kind, feature_dim=self.feature_dim, videos=videos)
        (video,) = self.videos
        part = StoredVideo(
            path=video.path,
            name=video.name,
            sha256=video.sha256,
            drive=video.drive,
            clips=slice(parity, video.clips.stop, 2),
            prompt=video.prompt,
        )
        return FeatureSet(kind=self.kind, feature_dim=self.feature_dim, videos=[part])

    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """All vectors (N, D), and the drive of each (N,)."""
        each = [video.features().reshape(-1, self.feature_dim) for video in self.videos]
        names = np.array([video.drive for video in self.videos], dtype=np.str_)
        drives = np.repeat(names, [len(part) for part in each])
        empty = np.zeros((0, self.feature_dim), dtype=np.float32)
        return np.concatenate([empty, *each]), drives
