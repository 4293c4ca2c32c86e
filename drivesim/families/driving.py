"""The driving family as one object: encode, decode, design frames from conditions, predict frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.seeds import Key
from drivesim.diffusion.settings import (
    AnySampling,
    PredictionOverrides,
    PredictionSamplingConfig,
    Sampler,
    SamplerOverrides,
    SamplingConfig,
)
from drivesim.families.folder import INDEX, find_model, fingerprint, load_parts, part_names, read_index
from drivesim.families.generate import generate_frames, interpolate_frames, predict_frames
from drivesim.models import autoencoder as coder
from drivesim.models.build import SpatialLayers
from drivesim.models.video_unet import VideoUNet


class DrivingModel:
    """A loaded driving model: autoencoder, image backbone with conditioner, temporal stack, perhaps an interpolation.

    Args:
        parts: what `families.folder.load_parts` gives.
        index: what `families.folder.read_index` gives.
        weights: fingerprint of the weights.
        design_sampling: what differs from the model's own; None = nothing.
        predict_sampling: what differs from the model's own; None = nothing.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        index: dict[str, Any],
        weights: str,
        *,
        design_sampling: SamplerOverrides | None = None,
        predict_sampling: PredictionOverrides | None = None,
    ):
        self.autoencoder = parts["autoencoder"]
        self.conditioner = parts["conditioner"]
        self.schedule = parts["scheduler"]
        self.video_unet = VideoUNet(parts["backbone"], parts["temporal"]).eval().requires_grad_(False)
        self.name: str = index["name"]
        self.key_fps = float(index["fps"])
        self.rates = [float(rate) for rate in index.get("rates", [])]
        self.fps = self.rates[-1] if self.rates else self.key_fps
        self.size_hw: tuple[int, int] = (int(index["size_hw"][0]), int(index["size_hw"][1]))
        self.num_frames = int(parts["temporal"].config.num_frames)
        self.design_sampling = (design_sampling or SamplerOverrides()).over(
            _sampling(index, "design_sampling", SamplingConfig)
        )
        self.num_given = int(index.get("num_given", 2))
        own = _sampling(index, "predict_sampling", PredictionSamplingConfig)
        self.predict_sampling = (predict_sampling or PredictionOverrides()).over(own)
        self.interpolator, self.rate_label = None, None
        if self.rates:
            self.interpolator = VideoUNet(parts["backbone"], parts["interpolation"]).eval().requires_grad_(False)
            self.rate_label = parts["rate_label"]
            self.interpolate_sampling = _sampling(index, "interpolate_sampling", SamplingConfig)
            weights = f"{weights}|{self.interpolate_sampling}"
        # Other sampling makes other frames of the same weights: half a run must not go on with it.
        self.fingerprint = hashlib.sha256(
            f"{weights}|{self.design_sampling}|{self.predict_sampling}".encode()
        ).hexdigest()
        self._check_sizes()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        design_sampling: SamplerOverrides | None = None,
        predict_sampling: PredictionOverrides | None = None,
    ) -> DrivingModel:
        """Loads a model folder, or a model that ships with the package by its name.

        Raises:
            ValueError: no such model; a part is missing, a pickle, truncated, or of another size: says which.
        """
        folder = find_model(folder_or_name)
        index = read_index(folder)
        names = part_names(index)
        parts = load_parts(folder, names, dtype=dtype)
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        return cls(
            parts,
            index,
            fingerprint(folder, names),
            design_sampling=design_sampling,
            predict_sampling=predict_sampling,
        )

    def _check_sizes(self) -> None:
        """Raises ValueError when parts of different models were put into one folder."""
        backbone, config = self.video_unet.backbone, self.autoencoder.config
        f = coder.downsampling(self.autoencoder)
        latent_hw = (self.size_hw[0] // f, self.size_hw[1] // f)
        pairs = {
            "channels of a latent (autoencoder, backbone)": (config.latent_channels, backbone.config.out_channels),
            "channels of the backbone's input (backbone, autoencoder + conditioner)": (
                backbone.config.in_channels,
                config.latent_channels + self.conditioner.num_channels,
            ),
            "size of a latent (model index, backbone)": (latent_hw, tuple(backbone.config.sample_size)),
            "width of a token (conditioner, backbone)": (
                self.conditioner.config.dim,
                backbone.config.cross_attention_dim,
            ),
            "context channels (temporal, autoencoder + mask)": (
                self.video_unet.temporal.config.context_in_channels,
                config.latent_channels + 1,
            ),
        }
        if self.interpolator is not None and self.rate_label is not None:
            stack = self.interpolator.temporal.config
            pairs |= {
                "context channels (interpolation, autoencoder + mask)": (
                    stack.context_in_channels,
                    config.latent_channels + 1,
                ),
                "width of a rate token (rate_label, interpolation)": (
                    self.rate_label.config.dim,
                    stack.cross_attention_dim,
                ),
                "number of rates (model index, rate_label)": (len(self.rates), self.rate_label.config.num_rates),
                "rates (model index, fps and frames of a call)": (
                    self.rates,
                    [self.key_fps * (stack.num_frames - 1) ** (n + 1) for n in range(len(self.rates))],
                ),
            }
        level, most = self.predict_sampling.context_noise, int(self.video_unet.temporal.config.context_noise)
        if level > most:
            raise ValueError(
                f"model {self.name!r}: predict_sampling.context_noise={level}, but its prediction was trained on given "
                f"frames with noise of step {most} at most"
            )
        for what, (one, other) in pairs.items():
            if one != other:
                raise ValueError(f"model {self.name!r}: parts do not fit together: {what}: {one} and {other}")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        device: torch.device = self.video_unet.backbone.device
        return device

    def encode(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """uint8 frames (T, H, W, 3) of `size_hw` to scaled latents (T, C, h, w).

        Raises:
            ValueError: frames of another size.
        """
        if frames_THWC.shape[1:3] != self.size_hw:
            raise ValueError(f"frames of {frames_THWC.shape[1:3]} (height, width); {self.name} takes {self.size_hw}")
        return coder.encode(self.autoencoder, frames_THWC)

    def decode(self, latents_TCHW: Tensor) -> NDArray[np.uint8]:
        """Scaled latents (T, C, h, w) to uint8 frames (T, H, W, 3)."""
        return coder.decode(self.autoencoder, latents_TCHW)

    def finish(
        self, pending: dict[str, Tensor], latents_TCHW: Tensor, *, key: tuple[Key, ...], is_last: bool
    ) -> tuple[dict[str, Tensor], NDArray[np.uint8]]:
        """Frames of the video that these latents complete; see `rollout.model.PredictionModel`."""
        return {}, self.decode(latents_TCHW)

    def design(self, conditions: DrivingConditions, generators: Sequence[torch.Generator]) -> Tensor:
        """Latents (B, C, h, w) of start frames that obey boxes and labels, one generator a frame.

        Raises:
            ValueError: the image layers were trained with the temporal ones, and make no single frames.
        """
        spatial = self.video_unet.temporal.config.spatial
        if spatial != SpatialLayers.FROZEN.value:
            raise ValueError(
                f"model {self.name!r} designs no start frames: its image layers were trained with its temporal ones "
                f"(temporal.spatial={spatial}); start from a picture or a video, or design with the image model"
            )
        return generate_frames(
            self.video_unet.backbone, self.conditioner, self.schedule, conditions, self.design_sampling, generators
        )

    def predict(self, given_BSCHW: Tensor, *, generators: list[torch.Generator], is_night: list[bool | None]) -> Tensor:
        """Latents (B, num_frames, C, h, w) of clips that begin with the given frames, 1 to `num_given`, unchanged.

        Args:
            given_BSCHW: latents of the given frames.
            generators: one a clip.
            is_night: one a clip; None = unknown.
        """
        unknown: list[None] = [None] * len(is_night)
        return predict_frames(
            self.video_unet,
            self.conditioner,
            self.schedule,
            given_BSCHW.to(self.device),
            self.num_frames,
            DrivingConditions.of_pictures(unknown, self.size_hw, is_night, unknown),
            self.predict_sampling,
            generators,
        )

    @property
    def num_passes(self) -> int:
        """Passes of interpolation from key frames to the video's frames."""
        return len(self.rates)

    @property
    def frames_per_gap(self) -> int:
        """Frames of the video from one key frame to the next, the first of them counted."""
        if self.interpolator is None:
            return 1
        return int(self.interpolator.temporal.config.num_frames - 1) ** self.num_passes

    def interpolate(
        self, ends_B2CHW: Tensor, number: int, *, generators: list[torch.Generator], is_night: list[bool | None]
    ) -> Tensor:
        """Latents (B, T, C, h, w) of clips between two frames each, which come back unchanged at the ends.

        Args:
            ends_B2CHW: latents of the two frames.
            number: of the pass, 0 = from key frames.
            generators: one a clip.
            is_night: one a clip; None = unknown.
        """
        assert self.interpolator is not None, f"model {self.name!r} has no interpolation"
        assert self.rate_label is not None
        unknown: list[None] = [None] * len(is_night)
        return interpolate_frames(
            self.interpolator,
            self.conditioner,
            self.rate_label,
            self.schedule,
            ends_B2CHW.to(self.device),
            torch.full((len(ends_B2CHW),), number),
            DrivingConditions.of_pictures(unknown, self.size_hw, is_night, unknown),
            self.interpolate_sampling,
            generators,
        )


def _sampling(index: dict[str, Any], key: str, kind: type[AnySampling]) -> AnySampling:
    """The sampling that stands in a model's index under `key`.

    Raises:
        ValueError: unknown keys, an unknown sampler, or numbers that sample nothing.
    """
    place, stored = f"model {index['name']!r}: {key} in {INDEX}", index[key]
    if not isinstance(stored, dict):
        raise ValueError(f"{place}: {stored!r}, expected keys and values")
    valid = [field.name for field in fields(kind)]
    unknown = sorted(set(stored) - set(valid))
    if unknown:
        raise ValueError(f"{place}: unknown keys {', '.join(unknown)}; valid: {', '.join(valid)}")
    samplers = [sampler.value for sampler in Sampler]
    if stored.get("sampler") not in samplers:
        raise ValueError(f"{place}: unknown sampler {stored.get('sampler')!r}; valid: {', '.join(samplers)}")
    try:
        return kind(**{**stored, "sampler": Sampler(stored["sampler"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
