"""What the rollout asks of a prediction model; whoever starts a rollout hands one in."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class PredictionModel(Protocol):
    """Continues a video in latents. Axes: B futures, S given frames, T frames, C channels, h w latent pixels.

    Every random number comes from the generators passed in, so that one future's result depends on
    nothing but its arguments.
    """

    @property
    def fps(self) -> float:
        """Key frames per second."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""

    @property
    def num_frames(self) -> int:
        """Frames that one call of `predict` returns, the given ones included."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights, or the settings they are sampled with, do."""

    def encode(self, frames_THWC: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 RGB pictures to latents (T, C, h, w)."""

    def decode(self, latents_TCHW: torch.Tensor) -> NDArray[np.uint8]:
        """Latents on any device to uint8 RGB pictures (T, H, W, 3)."""

    def predict(
        self,
        given_BSCHW: torch.Tensor,
        *,
        generators: list[torch.Generator],
        is_night: list[bool | None],
    ) -> torch.Tensor:
        """The next frames of B futures.

        Args:
            given_BSCHW: The last S = 1 or 2 frames' latents, on any device.
            generators: One CPU generator a future.
            is_night: One a future; None = unknown.

        Returns:
            Latents (B, num_frames, C, h, w), which begin with the given ones, unchanged.
        """
