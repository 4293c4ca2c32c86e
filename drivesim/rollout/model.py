"""What the rollout asks of a prediction model; whoever starts a rollout hands one in."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.core.seeds import Key

Pending: TypeAlias = dict[str, torch.Tensor]  # what a video's next frames need of those before; on the CPU
# What a person says of a video, such as day or night, or prompts over time. Only the model's family understands it:
# a rollout hands it on. None = nothing is said.
Conditions: TypeAlias = Any


class PredictionModel(Protocol):
    """Continues a video in latents. Axes: B futures, S given frames, T frames, C channels, h w latent pixels.

    Every random number comes from the generators passed in, so that one future's result depends on
    nothing but its arguments.
    """

    @property
    def fps(self) -> float:
        """Frames per second of the video."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""

    @property
    def start_hw(self) -> tuple[int, int]:
        """Height and width of a start frame in pixels."""

    @property
    def num_frames(self) -> int:
        """Key frames that one call of `predict` returns, the given ones included."""

    @property
    def num_given(self) -> int:
        """Last key frames that a call of `predict` continues, but for the first call, which is given one or none."""

    @property
    def gaps_at_once(self) -> int | None:
        """Gaps between key frames that a step fills in and shows, of a model whose one call makes all key frames.

        None = a step shows all that a call has made, and calls go on for ever.
        """

    @property
    def num_passes(self) -> int:
        """Passes of interpolation from key frames to the video's frames; 0 = key frames are the video."""

    @property
    def frames_per_gap(self) -> int:
        """Frames of the video from one key frame to the next, the first of them counted."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights, or the settings they are sampled with, do."""

    def facts(self, conditions: Conditions) -> dict[str, Any]:
        """The conditions as plain keys and values, which are part of what a run's frames follow from.

        Raises:
            ValueError: conditions that this model cannot obey; says why.
        """

    def encode(self, frames_THWC: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 RGB pictures of `start_hw`, perhaps none of them, to latents (T, C, h, w)."""

    def finish(
        self,
        pending: Pending,
        latents_TCHW: torch.Tensor,
        *,
        key: tuple[Key, ...],
        conditions: Conditions,
        is_last: bool,
    ) -> tuple[Pending, NDArray[np.uint8]]:
        """Turns latents into frames of the video, as far as that can be done before those that follow are known.

        The frames of all calls in a row are the video, whatever pieces its latents come in, up to rounding.

        Args:
            pending: What the call before returned; {} at the video's beginning.
            latents_TCHW: The next latents, on any device.
            key: Of the future's noise: (run seed, start, future).
            conditions: Of the video.
            is_last: Nothing follows; all frames are wanted.

        Returns:
            What the next call needs, of bounded size; and uint8 RGB pictures (T, H, W, 3), T >= 0.

        Raises:
            NotFiniteError: names the stage and the frame.
        """

    def predict(
        self,
        given_BSCHW: torch.Tensor,
        *,
        generators: list[torch.Generator],
        conditions: list[Conditions],
        starts_s: list[float],
    ) -> torch.Tensor:
        """The next frames of B futures.

        Args:
            given_BSCHW: Latents of the last S frames, 0, 1 or `num_given`, on any device.
            generators: One CPU generator a future.
            conditions: One a future.
            starts_s: When in its video the first given frame of each future is shown.

        Returns:
            Latents (B, num_frames, C, h, w), which begin with the given ones, unchanged.
        """

    def interpolate(
        self,
        ends_B2CHW: torch.Tensor,
        number: int,
        *,
        generators: list[torch.Generator],
        conditions: list[Conditions],
        starts_s: list[float],
    ) -> torch.Tensor:
        """The frames between two frames, for B pairs.

        Args:
            ends_B2CHW: Latents of the pairs, on any device.
            number: Of the pass, 0 = between key frames.
            generators: One CPU generator a pair.
            conditions: One a pair.
            starts_s: When in its video the first frame of each pair is shown.

        Returns:
            Latents (B, T, C, h, w) that begin and end with the given ones, unchanged.
        """
