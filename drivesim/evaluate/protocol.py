"""What makes two scores comparable: the protocol, and the card that is written with every score."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from enum import Enum
from importlib import metadata
from typing import Any

from drivesim.evaluate.extractors import ClassScores, Extractor, ExtractorConfig
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.metric_kinds import metric_titles

_LIBRARIES = ("torch", "numpy", "av", "opencv-python-headless", "torchmetrics")

_MERE_NAMES = ("name", "data_set")  # of the protocol: the other fields hold what they stand for
_FOLLOWING = ("name", "codecs", "prompts_sha256")  # of the real set: mere names, and what its bytes or texts decide
_OF_SCORES = ("name", "metrics", "class_scores")  # of networks: what follows from the bytes, or changes no other score


class ResizeFilter(str, Enum):
    """How frames are brought to the protocol's size before any extractor sees them."""

    AREA = "area"  # average when shrinking (antialiased), bicubic when growing
    BILINEAR = "bilinear"  # half-pixel centres, no antialias
    BICUBIC = "bicubic"  # half-pixel centres, no antialias
    BILINEAR_ANTIALIAS = "bilinear-antialias"  # Pillow's: the kernel is as wide as the picture shrinks
    BICUBIC_ANTIALIAS = "bicubic-antialias"  # the same, cubic (a = -0.5)


class Crop(str, Enum):
    """What happens to frames of another shape than the protocol's."""

    CENTRE = "centre"  # the largest centred part of the right shape, which is then resized
    NONE = "none"  # squashed
    AFTER_CENTRE = "after-centre"  # resized first (`resize_hw`), then the middle is cut out
    AFTER_BOTTOM = "after-bottom"  # resized first, then the lowest rows of the middle columns are cut out


AFTER_CROPS = (Crop.AFTER_CENTRE, Crop.AFTER_BOTTOM)


class ClipChoice(str, Enum):
    """Which clips of a video are scored."""

    ALL = "all"  # one every `spacing_frames`
    FIRST = "first"  # the first one alone
    RANDOM = "random"  # one, at a start that follows from `seed` and the video's name


def _default_extractors() -> list[ExtractorConfig]:
    return [ExtractorConfig(name="toytown-clip"), ExtractorConfig(name="toytown-frame")]


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """How videos become clips and clips become a score."""

    name: str = "drivesim-keyframes"  # for people; the card holds all that counts
    num_frames: int = 8  # frames of a clip
    fps: float | None = None  # rate at which clips are sampled by timestamps; None = every frame of each video
    frame_stride: int = 1  # every how manieth of those frames a clip takes
    spacing_frames: int | None = None  # from one clip's start to the next's; None = clips do not overlap
    clip_choice: ClipChoice = ClipChoice.ALL  # which clips of a video
    max_clips: int | None = None  # clips a side at most, in the videos' order; None = all
    size_hw: tuple[int, int] | None = None  # height and width before the extractors; None = the generated videos'
    resize: ResizeFilter = ResizeFilter.AREA  # filter towards size_hw
    crop: Crop = Crop.CENTRE  # for videos of another shape than size_hw
    resize_hw: tuple[int, int] | None = None  # before an AFTER crop; None = the frame's shape, just covering size_hw
    context_frames: int = 1  # given frames at the front of each generated video, at the protocol's rate
    count_context: bool = False  # True = given frames are scored as if they were generated
    untimed_fps: float | None = None  # rate of arrays and PNG folders, which carry none; None = the protocol's fps
    truncate_real: bool = False  # real pixels lose their fraction in float32 as LVDM's do: 63 levels are one lower
    covariance: Covariance = Covariance.UNBIASED  # 1 / (N - 1) or 1 / N
    root_eps: float | None = None  # smaller singular values are not rooted (TensorFlow-GAN: 1e-10); None = all are
    extractors: list[ExtractorConfig] = field(default_factory=_default_extractors)  # a score each
    seed: int = 0  # of the shuffled and noisy controls and of random clips
    data_set: str | None = None  # what the real videos are, as published results call it; None = nothing published

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        for name in ("num_frames", "frame_stride", "spacing_frames", "max_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"protocol.{name} is {value}; it must be at least 1")
        for name in ("size_hw", "resize_hw"):
            size = getattr(self, name)
            if size is not None and min(size) < 1:
                raise ValueError(f"protocol.{name} is {list(size)}; height and width must be at least 1")
        for name in ("fps", "untimed_fps", "root_eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"protocol.{name} is {value}; it must be above 0")
        if self.context_frames < 0:
            raise ValueError(f"protocol.context_frames is {self.context_frames}; it must not be negative")
        if self.resize_hw is not None:
            if self.crop not in AFTER_CROPS:
                valid = ", ".join(crop.name for crop in AFTER_CROPS)
                raise ValueError(f"protocol.resize_hw is for protocol.crop {valid}, not for {self.crop.name}")
            if self.size_hw is not None and any(a < b for a, b in zip(self.resize_hw, self.size_hw, strict=True)):
                raise ValueError(f"protocol.resize_hw {self.resize_hw} is smaller than protocol.size_hw {self.size_hw}")
        if not self.extractors:
            raise ValueError("protocol.extractors is empty; name at least one, such as toytown-clip")

    @property
    def span_frames(self) -> int:
        """Frames from a clip's first to its last, both counted."""
        return (self.num_frames - 1) * self.frame_stride + 1


@dataclass(kw_only=True, slots=True)
class SetCard:
    """One side of a score."""

    name: str  # folder, or what the caller calls it
    num_videos: int = 0  # scored
    num_left_out: int = 0  # unreadable, too short, of the wrong rate
    num_clips: int = 0
    sha256: str = ""  # of the videos' own digests in order; "" = nothing was read
    prompts_sha256: str = ""  # of their prompts in order; "" = there are none
    codecs: dict[str, int] = field(default_factory=dict)  # videos by what their pixels have been through


@dataclass(kw_only=True, slots=True)
class ProtocolCard:
    """Everything that a score depends on."""

    protocol: dict[str, Any]  # the resolved ProtocolConfig
    extractors: list[dict[str, Any]]  # name, names of scores, weights' sha256, whether standard
    generated: SetCard
    real: SetCard
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def comparable_sha256(self) -> str:
        """Digest of `comparable_fields`: two scores with the same one may be compared."""
        return hashlib.sha256(json.dumps(comparable_fields(self.as_dict()), sort_keys=True).encode()).hexdigest()


def comparable_fields(card: dict[str, Any]) -> dict[str, Any]:
    """What two cards must have in common, by dotted names: of the generated side its codecs alone, no mere names.

    Args:
        card: `ProtocolCard.as_dict()`, as `scores.json` has it.
    """
    fields = {f"protocol.{name}": value for name, value in card["protocol"].items() if name not in _MERE_NAMES}
    fields |= {f"real.{name}": value for name, value in card["real"].items() if name not in _FOLLOWING}
    fields["generated.codecs"] = sorted(card["generated"]["codecs"])  # a codec's traces move a score like a filter's
    for network in card["extractors"]:
        own = {name: value for name, value in network.items() if name not in _OF_SCORES}
        fields |= {f"extractors.{network['name']}.{name}": value for name, value in own.items()}
        if network["knows_texts"]:
            fields |= {f"{side}.prompts_sha256": card[side]["prompts_sha256"] for side in ("generated", "real")}
    return fields


def make_card(
    config: ProtocolConfig, extractors: list[Extractor], size_hw: tuple[int, int], generated: SetCard, real: SetCard
) -> ProtocolCard:
    """The card of a finished evaluation; `size_hw` is what the config's None became."""
    protocol = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(config).items()}
    del protocol["extractors"]  # paths and devices do not matter; the networks follow by their bytes
    protocol["value_range"] = "8 bits, 0 to 255, floats rounded"  # `as_uint8`; networks scale as their kind does
    protocol["size_hw"] = list(size_hw)
    protocol["resize_hw"] = None if config.resize_hw is None else list(config.resize_hw)  # as JSON gives it back
    networks = [
        {
            "name": extractor.name,
            "metrics": metric_titles(extractor),
            "kind": extractor.kind.value,
            "feature_dim": extractor.feature_dim,
            "weights_sha256": extractor.fingerprint,
            "is_standard": extractor.is_standard,
            "is_published": getattr(extractor, "is_published", extractor.is_standard),
            "knows_texts": hasattr(extractor, "texts"),
        }
        | _classes_of(extractor)
        for extractor in extractors
    ]
    return ProtocolCard(
        protocol=protocol, extractors=networks, generated=generated, real=real, versions=library_versions()
    )


def _classes_of(extractor: Extractor) -> dict[str, str]:
    """What a classifier's features are; nothing of other networks."""
    class_scores: ClassScores | None = getattr(extractor, "class_scores", None)
    return {} if class_scores is None else {"class_scores": class_scores.value}


def library_versions() -> dict[str, str]:
    """Versions of all that touches pixels or features."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "not installed as a package"
    return versions
