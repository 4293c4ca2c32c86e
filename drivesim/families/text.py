"""The text-to-video family as one object: key frames from prompts, frames between them, decoding and upscaling.

A public text-to-image model makes the frames, temporal layers between its own make them a video (§3.1, §4.2).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.conditioning.text import TextConditioner
from drivesim.core.seeds import Key
from drivesim.diffusion.sampling import OnStep
from drivesim.diffusion.settings import KeyFrameSamplingConfig, TextOverrides, as_facts
from drivesim.families.finishing import Finishing
from drivesim.families.folder import find_model
from drivesim.families.memory import MemoryConfig
from drivesim.families.offload import Offload
from drivesim.families.preview import LatentColours, SamplingStep
from drivesim.families.prompts import Prompts
from drivesim.families.stages import TextStagesConfig
from drivesim.families.text_fitting import check_text_fit, check_text_size
from drivesim.families.text_generate import generate_keys, interpolate_windows
from drivesim.families.text_parts import (
    TextParts,
    judge_text_parts,
    read_text_index,
    sampling_of_stage,
)
from drivesim.families.text_sources import Sources
from drivesim.families.text_tokens import PromptEncoder, Telling
from drivesim.families.text_upscale import LatentUpscaling
from drivesim.models import autoencoder as coder
from drivesim.models.picture_decoding import SUMMARY, WHOLE
from drivesim.models.text_to_image import TextSide, TextToImage
from drivesim.models.video_unet import VideoUNet

VIDEO_TILE = 64  # side, in latents, of the pieces that a video decoder takes larger pictures in
# Gaps between key frames that a step of a rollout shows: what a killed run loses at most once its key frames are made.
GAPS_AT_ONCE = 1


class TextModel:
    """A loaded text-to-video model.

    Args:
        parts: what `text_parts.judge_text_parts` reads.
        index: what `text_parts.read_text_index` gives, without stages that are left out.
        weights: fingerprint of the weights.
        key_frames: of a clip; None = as many as the temporal layers were trained on.
        size_hw: height and width in pixels before upscaling; None = the model's own.
        samplings: what differs from the model's own sampling, by stage (`text_parts.SAMPLINGS`).
        memory: pieces that frames are decoded in; None = as a rollout that says nothing of it.
        offload_to: device that networks come to when their stage runs; None = they stay where they are.
    """

    num_given = 0  # a call makes all key frames there are
    gaps_at_once = GAPS_AT_ONCE

    def __init__(
        self,
        parts: TextParts,
        index: dict[str, Any],
        weights: str,
        *,
        key_frames: int | None = None,
        size_hw: Sequence[int] | None = None,
        samplings: dict[str, TextOverrides] | None = None,
        memory: MemoryConfig | None = None,
        offload_to: str | None = None,
    ):
        self.parts, self.name = parts, str(index["name"])
        self.num_frames = int(parts.temporal.config.num_frames) if key_frames is None else key_frames
        size_hw = size_hw or index["size_hw"]
        check_text_size(parts, size_hw, self.num_frames)
        self.start_hw: tuple[int, int] = (int(size_hw[0]), int(size_hw[1]))
        self.key_fps = float(index["fps"])
        self.rates = [float(rate) for rate in index.get("rates") or []]
        self.fps = self.rates[-1] if self.rates else self.key_fps
        overrides = samplings or {}
        own = {stage: sampling_of_stage(index, stage) for stage in ("key_frames", "interpolate", "upscale")}
        self.samplings = {stage: overrides.get(stage, TextOverrides()).over(how) for stage, how in own.items()}
        self.on_step: Callable[[SamplingStep], None] | None = None  # told of every step of sampling; None = nobody

        base = _encoder(parts.base_text)
        self.telling = Telling(spatial=_encoder(parts.image), temporal=base)
        self.base_telling = Telling(spatial=base, temporal=base, knows_subject=False)
        self.video_unet = VideoUNet(parts.image.unet, parts.temporal).eval()
        self.interpolator: VideoUNet | None = None
        if self.rates:
            assert parts.interpolation_unet is not None and parts.interpolation is not None
            self.interpolator = VideoUNet(parts.interpolation_unet, parts.interpolation).eval()
        upscaling = self._upscaling(index)
        memory = memory or MemoryConfig()
        tile = memory.tile or VIDEO_TILE
        self.offload = Offload(offload_to, parts.of_stages())
        self.finishing = Finishing(
            parts.image.vae, parts.video_decoder, upscaling, fps=self.fps, tile=tile, chunk=memory.chunk,
            bring=self.offload.bring,
        )  # fmt: skip
        self.size_hw = (self.start_hw[0] * self.finishing.scale, self.start_hw[1] * self.finishing.scale)
        self._image_colours = cache(lambda: LatentColours(parts.image.vae))
        sampled = {stage: as_facts(how) for stage, how in self.samplings.items()}
        start_weight = sampled["key_frames"].pop("start_weight")  # apart, as before it was a setting: older runs go on
        facts = {
            "samplings": sampled,
            "key_frames": self.num_frames, "size_hw": self.start_hw, "fps": self.key_fps, "rates": self.rates,
            "upscaling": None if upscaling is None else [upscaling.noise_level, upscaling.overlap],
            "stages": sorted(parts.networks()), "tiles": [WHOLE, SUMMARY, tile, GAPS_AT_ONCE],
            "start_weight": start_weight,
        }  # fmt: skip
        if memory.other_chunk is not None:  # apart, too
            facts["chunk"] = memory.chunk
        device = self.offload.device or parts.image.unet.device
        if device.type != "cpu":  # apart, too; it rounds otherwise
            facts["device"] = device.type
        self.fingerprint = hashlib.sha256(f"{weights}|{json.dumps(facts, sort_keys=True)}".encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        sources: Sources | None = None,
        key_frames: int | None = None,
        seconds: float | None = None,
        size_hw: Sequence[int] | None = None,
        samplings: dict[str, TextOverrides] | None = None,
        stages: TextStagesConfig | None = None,
        prompts: Prompts | None = None,
        memory: MemoryConfig | None = None,
    ) -> TextModel:
        """Loads a model folder, or a model that ships with the package by its name.

        Args:
            folder_or_name: which.
            device: where the networks go.
            dtype: of the weights.
            sources: checkpoints that take the place of its own, such as a personal subject's; None = its own.
            key_frames: of a clip; None = as many as `seconds` ask for, or as the temporal layers were trained on.
            seconds: of a clip; None = what the key frames make.
            size_hw: height and width in pixels before upscaling; None = the model's own.
            samplings: what differs from the model's own sampling, by stage.
            stages: which stages follow the key frames; None = all that the model has.
            prompts: what will be asked of it, to be judged before weights are read; None = later.
            memory: how frames are decoded and where networks wait; None = as a rollout that says nothing of it.

        Raises:
            ValueError: no such model; a part is missing, a pickle, truncated, or of another size: says which.
            FileNotFoundError: a checkpoint that is not there.
        """
        folder, sources, memory = find_model(folder_or_name), sources or Sources(), memory or MemoryConfig()
        memory.check_offload(device)
        index = text_facts(folder, stages)
        if seconds is not None:
            needed = key_frames_for(index, seconds)
            if key_frames is not None and key_frames < needed:
                raise ValueError(
                    f"key_frames={key_frames} and seconds={seconds:g}, which need {needed}: give one of the two"
                )
            key_frames = key_frames or needed
        settings: dict[str, Any] = {
            "key_frames": key_frames, "size_hw": size_hw, "samplings": samplings, "memory": memory
        }  # fmt: skip
        judged = judge_text_parts(folder, index, sources, dtype)
        check_text_fit(index, judged.blank)
        blank = cls(judged.blank, index, "", **settings)  # refuses what does not fit, before gigabytes are read
        if prompts is not None:
            blank.facts(prompts)
        parts = judged.read()
        weights = parts.fingerprint()
        if parts.video_decoder is None:
            memory.say_unread(str(index["name"]))
        if not memory.offload:
            parts.to(device)
        return cls(parts, index, weights, **settings, offload_to=device if memory.offload else None)

    def _upscaling(self, index: dict[str, Any]) -> LatentUpscaling | None:
        if self.parts.upscaler is None:
            return None
        own = _encoder(self.parts.upscaler)
        colours = cache(lambda: LatentColours(self.parts.upscaler.vae))  # type: ignore[union-attr]
        facts = index.get("upscaling", {})
        return LatentUpscaling(
            image=self.parts.upscaler,
            temporal=self.parts.upscaler_temporal,
            telling=Telling(spatial=own, temporal=own, knows_subject=False),
            sampling=self.samplings["upscale"],
            fps=self.fps,
            duration_s=self.duration_s,
            listen=lambda stage: self._listen(stage, colours),
            **facts,
        )

    @property
    def duration_s(self) -> float:
        """Seconds from the first key frame to the last one."""
        return (self.num_frames - 1) / self.key_fps

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

    def facts(self, conditions: object) -> dict[str, Any]:
        """The prompts as plain keys and values.

        Raises:
            ValueError: no prompt, one that a text encoder cannot take whole (says what of it fits), or one whose time
                comes after the video.
        """
        if not isinstance(conditions, Prompts):
            raise ValueError(f'model {self.name!r} needs a prompt, such as prompt="a car on a road at night"')
        if conditions.times_s and conditions.times_s[-1] > self.duration_s:
            raise ValueError(
                f"prompt_times_s={conditions.times_s}: the last key frame of the video is at {self.duration_s:g} s, by "
                "when its prompts have to be reached"
            )
        for conditioner, prompts in (
            (self.parts.image, conditions.prompts),
            (self.parts.base_text, conditions.without_subject()),
            (self.parts.upscaler, conditions.without_subject()),
        ):
            if conditioner is not None:
                for prompt in prompts:
                    _conditioner(conditioner).check(prompt)
                _conditioner(conditioner).check(conditions.negative_prompt, "a negative prompt")
        return asdict(conditions)

    def encode(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """uint8 frames (T, H, W, 3) of `start_hw`, perhaps none, to scaled latents (T, C, h, w).

        Raises:
            ValueError: frames of another size.
        """
        if frames_THWC.shape[1:3] != self.start_hw:
            raise ValueError(f"frames of {frames_THWC.shape[1:3]} (height, width); {self.name} takes {self.start_hw}")
        if len(frames_THWC) == 0:
            return torch.zeros(0, *self.latent_shape)
        self.offload.bring("pictures")
        return coder.encode(self.parts.image.vae, frames_THWC)

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Height and width of a frame's latents."""
        return self.latent_shape[1:]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame's latents."""
        vae = self.parts.image.vae
        f = coder.downsampling(vae)
        return (int(vae.config.latent_channels), self.start_hw[0] // f, self.start_hw[1] // f)

    def predict(
        self,
        given_BSCHW: Tensor,
        *,
        generators: list[torch.Generator],
        conditions: list[Prompts],
        starts_s: list[float] | None = None,
    ) -> Tensor:
        """Latents (B, num_frames, C, h, w) of all key frames of clips.

        Args:
            given_BSCHW: latents of the start frames, which come back unchanged; S = 0 without.
            generators: one a clip.
            conditions: of the clips; the same of all.
            starts_s: when the clips begin; all key frames are made in one call, from the beginning on.
        """
        sampling = self.samplings["key_frames"]
        assert isinstance(sampling, KeyFrameSamplingConfig)
        moments_T = [number / self.key_fps for number in range(self.num_frames)]
        self.offload.bring("predict")
        told = self.telling.told(_of_all(conditions), [moments_T] * len(generators), self.duration_s, sampling.guidance)
        return generate_keys(
            self.video_unet, self.parts.image.scheduler, told, (self.num_frames, *self.latent_shape), sampling,
            generators, given_BSCHW=given_BSCHW if given_BSCHW.shape[1] else None,
            on_step=self._listen("key frames", self._image_colours),
        )  # fmt: skip

    def interpolate(
        self,
        ends_B2CHW: Tensor,
        number: int,
        *,
        generators: list[torch.Generator],
        conditions: list[Prompts],
        starts_s: list[float],
    ) -> Tensor:
        """Latents (B, T, C, h, w) of clips between two frames each, which come back unchanged at the ends.

        Args:
            ends_B2CHW: latents of the two frames.
            number: of the pass, 0 = from key frames.
            generators: one a clip.
            conditions: of the clips; the same of all.
            starts_s: when in their video the clips begin.
        """
        assert self.interpolator is not None, f"model {self.name!r} has no interpolation"
        assert self.parts.rate_label is not None
        self.offload.bring("interpolate")
        sampling = self.samplings["interpolate"]
        num_frames = int(self.interpolator.temporal.config.num_frames)
        moments_BT = [[start + frame / self.rates[number] for frame in range(num_frames)] for start in starts_s]
        told = self.base_telling.told(_of_all(conditions), moments_BT, self.duration_s, sampling.guidance)
        rate_tokens = self.parts.rate_label(torch.full((len(ends_B2CHW),), number, device=self.parts.rate_label.device))
        return interpolate_windows(
            self.interpolator, self.parts.own_scheduler, told, rate_tokens, ends_B2CHW, sampling, generators,
            on_step=self._listen("frames between key frames", self._image_colours),
        )  # fmt: skip

    def finish(
        self,
        pending: dict[str, Tensor],
        latents_TCHW: Tensor,
        *,
        key: tuple[Key, ...],
        conditions: Prompts,
        is_last: bool,
    ) -> tuple[dict[str, Tensor], NDArray[np.uint8]]:
        """Frames of the video that these latents complete; see `rollout.model.PredictionModel`."""
        return self.finishing.push(pending, latents_TCHW, key=key, is_last=is_last, conditions=conditions)

    def _listen(self, stage: str, colours: Callable[[], LatentColours]) -> OnStep | None:
        on_step = self.on_step
        if on_step is None:
            return None
        return lambda step, num_steps, latents: on_step(
            SamplingStep(stage=stage, step=step, num_steps=num_steps, latents=latents, colours=colours)
        )


def text_facts(folder: Path, stages: TextStagesConfig | None = None) -> dict[str, Any]:
    """The index of a model folder as a run takes it, without stages that are left out."""
    return (stages or TextStagesConfig()).kept(read_text_index(folder))


def key_frames_for(index: dict[str, Any], seconds: float) -> int:
    """Key frames that a clip of so many seconds needs, at least as many as an interpolation lies between."""
    rates = index.get("rates") or []
    fps = float(rates[-1] if rates else index["fps"])
    gaps = (max(1, round(seconds * fps)) - 1) * float(index["fps"]) / fps
    return max(2 if rates else 1, 1 + math.ceil(gaps - 1e-6))


def _conditioner(image: TextToImage | TextSide) -> TextConditioner:
    return TextConditioner(image.tokenizer, image.text_encoder)


def _encoder(image: TextToImage | TextSide) -> PromptEncoder:
    return PromptEncoder(_conditioner(image))


def _of_all(conditions: Sequence[Prompts]) -> Prompts:
    assert all(other == conditions[0] for other in conditions), "clips of one call have the same prompts"
    return conditions[0]
