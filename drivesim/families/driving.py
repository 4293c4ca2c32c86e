"""The driving family as one object: encode, decode, design frames from conditions, predict frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.picture import resize_area
from drivesim.core.seeds import Key
from drivesim.diffusion.settings import (
    PredictionOverrides,
    PredictionSamplingConfig,
    SamplerOverrides,
    SamplingConfig,
    as_facts,
)
from drivesim.families.drive import DriveFacts, Said, labels_of, motion_of
from drivesim.families.facts import LATENT_SCALE
from drivesim.families.finishing import Finishing
from drivesim.families.fitting import NUM_GIVEN, check_fit
from drivesim.families.folder import (
    blank_parts,
    find_model,
    fingerprint,
    load_parts,
    part_names,
    read_index,
    sampling_of,
)
from drivesim.families.generate import generate_frames, interpolate_frames, predict_frames
from drivesim.families.memory import MemoryConfig
from drivesim.families.offload import Offload
from drivesim.families.stages import StagesConfig
from drivesim.models import autoencoder as coder
from drivesim.models.build import SpatialLayers
from drivesim.models.video_unet import VideoUNet

# The networks that each stage runs, by their names in a model folder.
_STAGES = {
    "pictures": ("autoencoder",),
    "design": ("backbone", "conditioner"),
    "predict": ("backbone", "conditioner", "temporal"),
    "interpolate": ("backbone", "conditioner", "interpolation", "rate_label"),
    "decode": ("video_decoder",),
    "upsample": ("upsampler", "upsampler_temporal"),
}

# Facts of the index that a person may replace, and that change no frame.
_NO_FRAMES = ("design_sampling", "predict_sampling", "name", LATENT_SCALE)


def model_facts(folder: Path, stages: StagesConfig | None = None) -> dict[str, Any]:
    """The index of a model folder as a run takes it.

    Args:
        folder: the model's.
        stages: which stages behind the prediction run, and how; None = all that the model has.

    Raises:
        ValueError: no index, or one that cannot be read.
    """
    return facts_with(read_index(folder), stages or StagesConfig())


def facts_with(index: dict[str, Any], stages: StagesConfig) -> dict[str, Any]:
    """A model's index as a run of these stages takes it."""
    index = stages.kept(index)
    for key, overrides in stages.samplers().items():
        if key in index:
            index[key] = as_facts(overrides.over(sampling_of(index, key, SamplingConfig)))
    return index


class DrivingModel:
    """A loaded driving model: autoencoder, image backbone with conditioner, temporal stack, perhaps an interpolation.

    Args:
        parts: what `families.folder.load_parts` gives.
        index: what `families.folder.read_index` gives.
        weights: fingerprint of the weights.
        design_sampling: what differs from the model's own; None = nothing.
        predict_sampling: what differs from the model's own; None = nothing.
        memory: pieces that frames are decoded in; None = as a rollout that says nothing of it.
        offload_to: device that networks come to when their stage runs; None = they stay where they are.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        index: dict[str, Any],
        weights: str,
        *,
        design_sampling: SamplerOverrides | None = None,
        predict_sampling: PredictionOverrides | None = None,
        memory: MemoryConfig | None = None,
        offload_to: str | None = None,
    ):
        self.autoencoder = parts["autoencoder"]
        self.conditioner = parts["conditioner"]
        self.schedule = parts["scheduler"]
        self.video_unet = VideoUNet(parts["backbone"], parts["temporal"]).eval().requires_grad_(False)
        self.name: str = index["name"]
        self.key_fps = float(index["fps"])
        self.rates = [float(rate) for rate in index.get("rates", [])]
        self.fps = self.rates[-1] if self.rates else self.key_fps
        self.small_hw: tuple[int, int] = (int(index["size_hw"][0]), int(index["size_hw"][1]))
        self.num_frames = int(parts["temporal"].config.num_frames)
        self.design_sampling = (design_sampling or SamplerOverrides()).over(
            sampling_of(index, "design_sampling", SamplingConfig)
        )
        self.num_given = int(index.get("num_given", NUM_GIVEN))
        own = sampling_of(index, "predict_sampling", PredictionSamplingConfig)
        self.predict_sampling = (predict_sampling or PredictionOverrides()).over(own)
        memory = memory or MemoryConfig()
        self.offload = Offload(offload_to, {
            stage: [parts[name] for name in names if name in parts] for stage, names in _STAGES.items()
        })  # fmt: skip
        self.finishing = Finishing.of_driving(parts, index, self.fps, memory, self.offload.bring)
        self.size_hw = (self.small_hw[0] * self.finishing.scale, self.small_hw[1] * self.finishing.scale)
        level, most = self.predict_sampling.context_noise, int(parts["temporal"].config.context_noise)
        if level > most:
            raise ValueError(
                f"model {self.name!r}: predict_sampling.context_noise={level}, but its prediction was trained on given "
                f"frames with noise of step {most} at most"
            )
        self.interpolator, self.rate_label = None, None
        if self.rates:
            self.interpolator = VideoUNet(parts["backbone"], parts["interpolation"]).eval().requires_grad_(False)
            self.rate_label = parts["rate_label"]
            self.interpolate_sampling = sampling_of(index, "interpolate_sampling", SamplingConfig)
        # Other sampling makes other frames of the same weights: half a run must not go on with it.
        facts = {key: fact for key, fact in sorted(index.items()) if key not in _NO_FRAMES}
        rounding = "" if self.dtype is torch.float32 else f"|{self.dtype}"
        rounding += "" if self.device.type == "cpu" else f"|{self.device.type}"
        rounding += self._pieces(memory)
        self.fingerprint = hashlib.sha256(
            f"{weights}|{json.dumps(facts)}|{self.design_sampling}|{self.predict_sampling}{rounding}".encode()
        ).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        design_sampling: SamplerOverrides | None = None,
        predict_sampling: PredictionOverrides | None = None,
        stages: StagesConfig | None = None,
        memory: MemoryConfig | None = None,
    ) -> DrivingModel:
        """Loads a model folder, or a model that ships with the package by its name.

        Args:
            folder_or_name: which.
            device: where the networks go.
            dtype: of the weights.
            design_sampling: what differs from the model's own; None = nothing.
            predict_sampling: what differs from the model's own; None = nothing.
            stages: which stages behind the prediction run, and how; None = all that the model has.
            memory: pieces that frames are decoded in, and whether networks wait for their stage in the CPU's memory;
                None = as a rollout that says nothing of it.

        Raises:
            ValueError: no such model; a part is missing, a pickle, truncated, or of another size: says which.
        """
        memory = memory or MemoryConfig()
        memory.check_offload(device)
        folder = find_model(folder_or_name)
        index = model_facts(folder, stages)
        names = part_names(index)
        check_fit(index, blank_parts(folder, names))  # before gigabytes are read
        parts = load_parts(folder, names, dtype=dtype)  # once all headers have been read
        coder.keep_from_overflow(parts["autoencoder"])
        for part in parts.values():
            if isinstance(part, torch.nn.Module) and not memory.offload:
                part.to(device)
        model = cls(
            parts,
            index,
            fingerprint(folder, names),
            design_sampling=design_sampling,
            predict_sampling=predict_sampling,
            memory=memory,
            offload_to=device if memory.offload else None,
        )
        if model.finishing.video_decoder is None:
            memory.say_unread(model.name)
        return model

    def _pieces(self, memory: MemoryConfig) -> str:
        """How frames are decoded in pieces, as far as it is otherwise than before there was a choice."""
        if self.finishing.video_decoder is None:
            return ""
        tiles = self.finishing.tiles(self.latent_hw)
        others = {"tiles": tiles if tiles != (1, 1) else None, "chunk": memory.other_chunk}
        return "".join(f"|{name}={value}" for name, value in others.items() if value is not None)

    @property
    def is_told_motion(self) -> bool:
        """Whether a video's prediction was trained to be told how the ego car drives."""
        return bool(self.video_unet.temporal.config.ego_motion)

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Height and width of a frame's latents."""
        f = coder.downsampling(self.autoencoder)
        return (self.small_hw[0] // f, self.small_hw[1] // f)

    @property
    def start_hw(self) -> tuple[int, int]:
        """Height and width of a start frame in pixels: those of a frame."""
        return self.size_hw

    @property
    def gaps_at_once(self) -> None:
        """Calls go on for ever, and a step shows all that a call has made."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the networks are, or come to when they run."""
        device: torch.device = self.offload.device or self.video_unet.backbone.conv_in.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the networks' numbers."""
        dtype: torch.dtype = self.video_unet.backbone.conv_in.weight.dtype
        return dtype

    def encode(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """uint8 frames (T, H, W, 3) of `size_hw` to scaled latents (T, C, h, w).

        Raises:
            ValueError: frames of another size.
        """
        if frames_THWC.shape[1:3] != self.size_hw:
            raise ValueError(f"frames of {frames_THWC.shape[1:3]} (height, width); {self.name} takes {self.size_hw}")
        self.offload.bring("pictures")
        return coder.encode(self.autoencoder, resize_area(frames_THWC, self.small_hw))

    def decode(self, latents_TCHW: Tensor) -> NDArray[np.uint8]:
        """Scaled latents (T, C, h, w) to uint8 pictures (T, h, w, 3) of `small_hw`, each by itself."""
        self.offload.bring("pictures")
        return coder.decode(self.autoencoder, latents_TCHW)

    def picture(self, latents_CHW: Tensor, *, key: tuple[Key, ...]) -> NDArray[np.uint8]:
        """Scaled latents (C, h, w) to one uint8 picture (H, W, 3) of `size_hw`; the key is the upsampler's noise's."""
        return self.finishing.still(latents_CHW, key)

    def facts(self, conditions: Said) -> dict[str, Any]:
        """What is said of a video as plain keys and values.

        Raises:
            ValueError: motion, for a model that was not trained to be told it.
        """
        drive = conditions or DriveFacts()
        if drive.motion and not self.is_told_motion:
            raise ValueError(
                f"model {self.name!r} was not trained to be told how the ego car drives (temporal.ego_motion); leave "
                "out motion, or take a model that was"
            )
        return drive.facts()

    def finish(
        self,
        pending: dict[str, Tensor],
        latents_TCHW: Tensor,
        *,
        key: tuple[Key, ...],
        conditions: Said = None,
        is_last: bool,
    ) -> tuple[dict[str, Tensor], NDArray[np.uint8]]:
        """Frames of the video that these latents complete; see `rollout.model.PredictionModel`.

        Decoder and upsampler are not told of the conditions.
        """
        return self.finishing.push(pending, latents_TCHW, key=key, is_last=is_last)

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
        self.offload.bring("design")
        return generate_frames(
            self.video_unet.backbone, self.conditioner, self.schedule, conditions, self.design_sampling, generators
        )

    def predict(
        self,
        given_BSCHW: Tensor,
        *,
        generators: list[torch.Generator],
        conditions: list[Said],
        starts_s: list[float] | None = None,
    ) -> Tensor:
        """Latents (B, num_frames, C, h, w) of clips that begin with the given frames, 1 to `num_given`, unchanged.

        Args:
            given_BSCHW: latents of the given frames.
            generators: one a clip.
            conditions: one a clip.
            starts_s: when in its video the first given frame of each clip is shown; None = at the beginning.
        """
        self.offload.bring("predict")
        return predict_frames(
            self.video_unet,
            self.conditioner,
            self.schedule,
            given_BSCHW.to(self.device, self.dtype),
            self.num_frames,
            labels_of(conditions, self.size_hw),
            self.predict_sampling,
            generators,
            motion_BT2=motion_of(conditions, starts_s, self.num_frames, self.key_fps),
            gap_s=1 / self.key_fps,
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
        self,
        ends_B2CHW: Tensor,
        number: int,
        *,
        generators: list[torch.Generator],
        conditions: list[Said],
        starts_s: list[float] | None = None,
    ) -> Tensor:
        """Latents (B, T, C, h, w) of clips between two frames each, which come back unchanged at the ends.

        Args:
            ends_B2CHW: latents of the two frames.
            number: of the pass, 0 = from key frames.
            generators: one a clip.
            conditions: one a clip.
            starts_s: when the clips begin; what is said of a drive holds all the time.
        """
        assert self.interpolator is not None, f"model {self.name!r} has no interpolation"
        assert self.rate_label is not None
        self.offload.bring("interpolate")
        return interpolate_frames(
            self.interpolator,
            self.conditioner,
            self.rate_label,
            self.schedule,
            ends_B2CHW.to(self.device, self.dtype),
            torch.full((len(ends_B2CHW),), number),
            labels_of(conditions, self.size_hw),
            self.interpolate_sampling,
            generators,
        )
