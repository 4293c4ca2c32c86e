"""Networks that turn frames into feature vectors, and the only place that may call a score FVD or FID.

Legend: B clips, T frames, H x W pixels, C channels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.devices import exact_float32
from drivesim.core.files import sha256_file
from drivesim.core.picture import resize_area
from drivesim.core.weights_files import Checksum, checked_file
from drivesim.evaluate.clip_network import INPUT_HW, ClipNetwork
from drivesim.evaluate.frames import as_uint8
from drivesim.evaluate.i3d import I3D, MIN_FRAMES, NUM_CLASSES, NetworkResize, network_input
from drivesim.evaluate.metric_kinds import MetricKind, check_kinds, chosen_kinds

I3D_GIT_BLOB_SHA1 = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
I3D_KINETICS_GIT_BLOB_SHA1 = "a867b87ac3a9097d200598b1d48a1b890d8ec744"
_SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "toytown_clip.safetensors"
_WHERE_I3D = (
    "i3d_torchscript.pt is the network of StyleGAN-V's FVD; get it from the StyleGAN-V project "
    "(https://github.com/universome/stylegan-v) and give its path as `weights`"
)
_WHERE_INCEPTION = (
    "inception-2015-12-05.pt is NVIDIA's TorchScript copy of the FID network "
    "(https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt); "
    "give its path or that URL as `weights`"
)
_WHERE_I3D_KINETICS = (
    "i3d_pretrained_400.pt is the network of VideoGPT's and TATS's FVD; get it from the TATS project "
    "(https://github.com/songweige/TATS) and give its path as `weights`"
)
_WHERE_C3D = (
    "c3d_ucf101.pt is the network of StyleGAN-V's video Inception Score; get it from the StyleGAN-V project "
    "(https://github.com/universome/stylegan-v) and give its path as `weights`"
)
_WHERE_TOYTOWN = "evaluation/toytown-clip/README.md says how the network is trained"


class FeatureKind(str, Enum):
    """What one feature vector stands for."""

    CLIP = "clip"
    FRAME = "frame"


class ClassScores(str, Enum):
    """What the features of a classifier are; it says so by an attribute `class_scores`, None = no classes."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


class Extractor(Protocol):
    """A network for a score; anything of this form can be handed to `evaluate`.

    Some attributes may be absent: `class_scores` of a classifier; `metrics`, the scores that are made of its features
    (`metric_kinds`), which otherwise are the Fréchet distance alone; `is_published`, whether its bytes are those of a
    network that others score with, which otherwise are the standard ones alone.
    """

    name: str
    kind: FeatureKind
    feature_dim: int  # D
    min_frames: int  # clips shorter than this are refused
    fingerprint: str  # sha256 of the weight file
    is_standard: bool  # the network by which FVD or FID is defined, checked by its bytes
    metric_name: str  # what a distance of its features may be called

    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """float32 (B, D) for clips, (B * T, D) for frames."""
        ...


@dataclass(kw_only=True, slots=True)
class ExtractorConfig:
    """Which network, and where its weights are."""

    name: str = "toytown-clip"  # one of `EXTRACTORS`, or clip-vit-b-32
    metrics: list[MetricKind] = field(default_factory=list)  # empty = what the network is mostly used for
    weights: str | None = None  # path or URL; None = shipped with the package, where it is
    sha256: str | None = None  # checksum of other weights than the standard ones
    git_blob_sha1: str | None = None  # the same as git's blob id
    feature_dim: int | None = None  # of other weights; None = that of the standard ones
    device: str = "cpu"  # a torch device
    cache_folder: str = "~/.cache/drivesim"  # for downloaded weights
    resize: NetworkResize | None = None  # of I3D, for frames that are not 224 x 224; None = SQUASH
    batch_norm_eps: float | None = None  # of i3d-kinetics400; None = 1e-3, TensorFlow's; VideoGPT and TATS use 1e-5


def make_extractor(config: ExtractorConfig, others: Mapping[str, ExtractorMaker] | None = None) -> Extractor:
    """The network of a config, loaded and checked.

    Args:
        config: Which one.
        others: Further networks by their names, such as those of libraries that evaluation itself does not use.

    Raises:
        ValueError: an unknown name, weights with another checksum, or scores that its features do not give.
        FileNotFoundError: weights that are not there or cannot be downloaded.
    """
    makers = EXTRACTORS | dict(others or {})
    if config.name not in makers:
        raise ValueError(f"unknown extractor {config.name!r}; choose from {', '.join(makers)}")
    if config.resize is not None and not config.name.startswith("i3d-"):
        raise ValueError(f"extractor {config.name}: resize is a setting of i3d-torchscript and i3d-kinetics400 alone")
    if config.batch_norm_eps is not None and config.name != "i3d-kinetics400":
        raise ValueError(f"extractor {config.name}: batch_norm_eps is a setting of i3d-kinetics400 alone")
    extractor = makers[config.name](config)
    check_kinds(extractor)
    return extractor


class ToytownExtractor:
    """Our own small network, trained on toytown: works offline; never FVD, never FID."""

    is_standard = False

    def __init__(self, config: ExtractorConfig, kind: FeatureKind) -> None:
        path = _toytown_weights(config)
        self.network = ClipNetwork.load(path).to(config.device)
        self.fingerprint = sha256_file(path)
        self.metrics = chosen_kinds(config.metrics, (MetricKind.FRECHET,))
        self.name = f"toytown-{kind.value}"
        self.kind = kind
        self.metric_name = f"Fréchet {kind.value} distance ({self.name})"
        self.min_frames = 2 if kind is FeatureKind.CLIP else 1
        sizes = self.network.config
        self.feature_dim = sizes.clip_features if kind is FeatureKind.CLIP else sizes.frame_features
        self.device = config.device

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """float32 (B, D) or (B * T, D); frames of any size are area-resized to 64 x 128."""
        frames = resize_area(_checked(frames_BTHWC, self), INPUT_HW)
        scaled = torch.from_numpy(frames).to(self.device).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        if self.kind is FeatureKind.CLIP:
            return self.network.clip_features(scaled).float().cpu()
        return self.network.frame_features(scaled).flatten(0, 1).float().cpu()


class TorchScriptExtractor:
    """A published TorchScript network, such as I3D for FVD or Inception for FID, by its file's bytes."""

    def __init__(self, config: ExtractorConfig, standard: StandardNetwork) -> None:
        path = _checked_weights(config, standard)
        self.network: Any = torch.jit.load(str(path), map_location=config.device).eval()  # type: ignore[no-untyped-call]
        self.fingerprint = sha256_file(path)
        self.is_standard = standard.is_made_of(path)
        self.resize = config.resize  # None = the network's own
        self.name = config.name if self.resize is None else f"{config.name}, {self.resize.value}"
        self.kind = standard.kind
        self.class_scores = standard.class_scores
        self.metrics = chosen_kinds(config.metrics, standard.metrics)
        self.min_frames = standard.min_frames
        self.feature_dim = config.feature_dim or standard.feature_dim
        published = self.is_standard or standard.checksum is None
        self.metric_name = standard.metric_name if published else _other_metric_name(self)
        self.call_options = dict(standard.call_options)
        if self.resize is not None:  # done here, in floats, before the network sees them
            self.call_options |= {"rescale": False, "resize": False}
        self.device = config.device

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """float32 (B, D) or (B * T, D); range and resize are the network's own unless one is set."""
        checked = _checked(frames_BTHWC, self)
        if self.resize is not None:
            return self._features(network_input(checked, self.resize, self.device))
        frames = torch.from_numpy(checked).to(self.device)
        if self.kind is FeatureKind.CLIP:
            pictures = frames.permute(0, 4, 1, 2, 3)
        else:
            pictures = frames.flatten(0, 1).permute(0, 3, 1, 2)
        return self._features(pictures)

    def _features(self, pictures: Tensor) -> Tensor:
        features = self.network(pictures.contiguous(), **self.call_options)
        if features.ndim == 1:  # a batch of one comes back squeezed
            features = features[None]
        if features.shape[1:] != (self.feature_dim,):
            found = tuple(features.shape)
            raise ValueError(f"{self.name}: features of shape {found}, expected (N, {self.feature_dim})")
        return torch.as_tensor(features).float().cpu()


class I3DExtractor:
    """Our own I3D with a plain state dict, such as the published port that grew out of an ImageNet network.

    FVD is defined by the network trained on Kinetics from scratch, so a distance by this one is never called FVD.
    """

    is_standard = False
    kind = FeatureKind.CLIP
    class_scores = ClassScores.LOGITS
    feature_dim = NUM_CLASSES
    min_frames = MIN_FRAMES

    def __init__(self, config: ExtractorConfig) -> None:
        path = _checked_weights(config, I3D_KINETICS)
        self.metrics = chosen_kinds(config.metrics, I3D_KINETICS.metrics)
        eps = 1e-3 if config.batch_norm_eps is None else config.batch_norm_eps
        self.resize = config.resize or NetworkResize.SQUASH
        self.network = I3D.load(path, eps).to(config.device)
        self.fingerprint = sha256_file(path)
        self.device = config.device
        # Settings that change features stand in the name, and so on the card and beside every score.
        settings = [f"eps {eps:g}"] if eps != 1e-3 else []
        settings += [self.resize.value] if self.resize is not NetworkResize.SQUASH else []
        self.name = ", ".join([config.name, *settings])
        published = I3D_KINETICS.is_made_of(path)
        self.metric_name = f"{I3D_KINETICS.metric_name} ({self.name})" if published else _other_metric_name(self)
        self.is_published = published

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """float32 (B, 400) logits; frames of any size are brought to 224 x 224 as the config says."""
        clips = network_input(_checked(frames_BTHWC, self), self.resize, self.device)
        logits: Tensor = self.network(clips)
        return logits.float().cpu()


@dataclass(kw_only=True, slots=True)
class StandardNetwork:
    """A published network, and what a distance by it is called."""

    metric_name: str
    kind: FeatureKind
    feature_dim: int
    min_frames: int
    checksum: Checksum | None  # None = unknown here: the user's config must state one
    where_to_get: str
    class_scores: ClassScores | None = None  # None = its features are no classes
    metrics: tuple[MetricKind, ...] = (MetricKind.FRECHET,)  # unless a config chooses others
    call_options: dict[str, bool] = field(default_factory=dict)  # keywords of a TorchScript network's call

    def is_made_of(self, path: Path) -> bool:
        """Whether a file has the published bytes."""
        return self.checksum is not None and self.checksum.problem(path) is None


STANDARD_NETWORKS: dict[str, StandardNetwork] = {
    "i3d-torchscript": StandardNetwork(
        metric_name="FVD",
        kind=FeatureKind.CLIP,
        feature_dim=NUM_CLASSES,
        min_frames=MIN_FRAMES,
        checksum=Checksum(git_blob_sha1=I3D_GIT_BLOB_SHA1),
        where_to_get=_WHERE_I3D,
        class_scores=ClassScores.LOGITS,
        # as StyleGAN-V and Long Video GAN call it
        call_options={"rescale": True, "resize": True, "return_features": True},
    ),
    "inception-2015": StandardNetwork(
        metric_name="FID",
        kind=FeatureKind.FRAME,
        feature_dim=2048,
        min_frames=1,
        checksum=Checksum(sha256=INCEPTION_SHA256),
        where_to_get=_WHERE_INCEPTION,
        call_options={"return_features": True},
    ),
    "c3d-ucf101": StandardNetwork(
        metric_name="Fréchet clip distance (c3d-ucf101, its bytes not checked)",
        kind=FeatureKind.CLIP,
        feature_dim=101,
        min_frames=16,
        checksum=None,
        where_to_get=_WHERE_C3D,
        class_scores=ClassScores.PROBABILITIES,
        metrics=(MetricKind.INCEPTION_SCORE,),
    ),
}
I3D_KINETICS = StandardNetwork(
    metric_name="Fréchet clip distance by I3D grown from ImageNet",
    kind=FeatureKind.CLIP,
    feature_dim=NUM_CLASSES,
    min_frames=MIN_FRAMES,
    checksum=Checksum(git_blob_sha1=I3D_KINETICS_GIT_BLOB_SHA1),
    where_to_get=_WHERE_I3D_KINETICS,
    class_scores=ClassScores.LOGITS,
)

ExtractorMaker = Callable[[ExtractorConfig], Extractor]

EXTRACTORS: dict[str, ExtractorMaker] = {
    "toytown-clip": lambda config: ToytownExtractor(config, FeatureKind.CLIP),
    "toytown-frame": lambda config: ToytownExtractor(config, FeatureKind.FRAME),
    "i3d-torchscript": lambda config: TorchScriptExtractor(config, STANDARD_NETWORKS["i3d-torchscript"]),
    "i3d-kinetics400": I3DExtractor,
    "inception-2015": lambda config: TorchScriptExtractor(config, STANDARD_NETWORKS["inception-2015"]),
    "c3d-ucf101": lambda config: TorchScriptExtractor(config, STANDARD_NETWORKS["c3d-ucf101"]),
}


def _checked(frames_BTHWC: NDArray[np.uint8], extractor: Extractor) -> NDArray[np.uint8]:
    frames = np.ascontiguousarray(as_uint8(frames_BTHWC))
    if frames.ndim != 5:
        raise ValueError(f"{extractor.name}: frames have shape {frames.shape}, expected (B, T, H, W, 3)")
    if frames.shape[1] < extractor.min_frames:
        least = extractor.min_frames
        raise ValueError(f"{extractor.name}: clips of {frames.shape[1]} frames; it needs at least {least}")
    return frames


def _toytown_weights(config: ExtractorConfig) -> Path:
    """The shipped file, or a config's own one, which is checked where the config states a checksum."""
    stated = Checksum(sha256=config.sha256, git_blob_sha1=config.git_blob_sha1) if _states_checksum(config) else None
    if config.weights is None:
        path = _SHIPPED_WEIGHTS
    elif urlparse(config.weights).scheme in ("http", "https", "file"):
        if stated is None:
            raise ValueError(f"extractor {config.name}: weights from a URL need `sha256` or `git_blob_sha1`")
        return checked_file(config.weights, stated, Path(config.cache_folder), _WHERE_TOYTOWN)
    else:
        path = Path(config.weights).expanduser()
    return path if stated is None else checked_file(path, stated, Path(config.cache_folder), _WHERE_TOYTOWN)


def _states_checksum(config: ExtractorConfig) -> bool:
    return bool(config.sha256 or config.git_blob_sha1)


def _checked_weights(config: ExtractorConfig, standard: StandardNetwork) -> Path:
    """The weight file of a config, by its own checksum or else the published one."""
    checksum = standard.checksum
    if _states_checksum(config):
        checksum = Checksum(sha256=config.sha256, git_blob_sha1=config.git_blob_sha1)
    if config.weights is None:
        expected = checksum or "no checksum is known here, give the sha256 of your file"
        raise FileNotFoundError(
            f"extractor {config.name}: no weights given (expected: {expected}). {standard.where_to_get}"
        )
    if checksum is None:
        raise ValueError(f"extractor {config.name}: no published checksum is known; give `sha256` or `git_blob_sha1`")
    return checked_file(config.weights, checksum, Path(config.cache_folder), standard.where_to_get)


def _other_metric_name(extractor: Extractor) -> str:
    weights = f"{extractor.name} of other weights, sha256 {extractor.fingerprint[:8]}"
    return f"Fréchet {extractor.kind.value} distance ({weights})"
