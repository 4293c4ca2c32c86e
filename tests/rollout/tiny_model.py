"""A prediction model of a few hundred weights, and ways in which models fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIZE_HW = (32, 64)


class TinyModel:
    """A real network with fixed weights: latents drift by a convolution and by the generator's noise."""

    fps = 4.0
    size_hw = SIZE_HW
    num_frames = 10
    num_passes = 0
    frames_per_gap = 1
    num_given = 2
    start_hw = SIZE_HW
    gaps_at_once = None
    fingerprint = "tiny"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.down = nn.Conv2d(3, 4, 8, stride=8)
        self.up = nn.ConvTranspose2d(4, 3, 8, stride=8)
        self.move = nn.Conv2d(4, 4, 3, padding=1)
        for layer in (self.down, self.up, self.move):
            for parameter in layer.parameters():
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def facts(self, conditions: bool | None) -> dict[str, object]:
        return {"is_night": conditions}

    @torch.no_grad()
    def encode(self, frames_THWC: np.ndarray) -> torch.Tensor:
        return self.down(torch.from_numpy(frames_THWC).permute(0, 3, 1, 2) / 127.5 - 1)

    @torch.no_grad()
    def decode(self, latents_TCHW: torch.Tensor) -> np.ndarray:
        pictures = torch.tanh(self.up(latents_TCHW)) * 127.5 + 127.5
        return pictures.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def finish(
        self,
        pending: dict[str, torch.Tensor],
        latents_TCHW: torch.Tensor,
        *,
        key: tuple[object, ...],
        conditions: object,
        is_last: bool,
    ) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        return {}, self.decode(latents_TCHW)

    @torch.no_grad()
    def predict(
        self,
        given_BSCHW: torch.Tensor,
        *,
        generators: list[torch.Generator],
        conditions: list[bool | None],
        starts_s: list[float] | None = None,
    ) -> torch.Tensor:
        frames = list(given_BSCHW.unbind(dim=1))
        while len(frames) < self.num_frames:
            noise = torch.stack([torch.randn(frames[-1].shape[1:], generator=g) for g in generators])
            light = torch.tensor([-0.2 if night else 0.0 for night in conditions])[:, None, None, None]
            frames.append(torch.tanh(frames[-1] + 0.3 * self.move(frames[-1]) + 0.3 * noise + light))
        return torch.stack(frames, dim=1)


class InterpolatingModel(TinyModel):
    """Two passes that make two frames of one: the middle between both ends, and noise."""

    fps = 16.0
    num_passes = 2
    frames_per_gap = 4

    def interpolate(
        self,
        ends_B2CHW: torch.Tensor,
        number: int,
        *,
        generators: list[torch.Generator],
        conditions: list[bool | None],
        starts_s: list[float],
    ) -> torch.Tensor:
        assert 0 <= number < self.num_passes
        assert len(ends_B2CHW) == len(generators) == len(conditions) == len(starts_s)
        noise = torch.stack([torch.randn(ends_B2CHW.shape[2:], generator=g) for g in generators])
        middle = ends_B2CHW.mean(dim=1) + 0.1 * (number + 1) * noise
        return torch.stack([ends_B2CHW[:, 0], middle, ends_B2CHW[:, 1]], dim=1)


class WaitingModel(TinyModel):
    """Finishes a frame only when the twelve behind it are known; each is blended with the one before it."""

    wait = 12

    def finish(
        self,
        pending: dict[str, torch.Tensor],
        latents_TCHW: torch.Tensor,
        *,
        key: tuple[object, ...],
        conditions: object,
        is_last: bool,
    ) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        waiting = torch.cat([*([pending["waiting"]] if pending else []), latents_TCHW])
        before = pending["before"] if pending else waiting[:1]
        num = len(waiting) if is_last else max(0, len(waiting) - self.wait)
        blended = (waiting[:num] + torch.cat([before, waiting])[:num]) / 2
        after = waiting[num - 1 : num] if num else before
        return {"waiting": waiting[num:], "before": after}, self.decode(blended) if num else np.zeros(0)


class FailingModel(TinyModel):
    """Does something bad in one call of `predict`."""

    def __init__(self, failure: str, at_call: int, once: Path | None = None) -> None:
        """`failure` is "nan", "error" or "kill"; with `once`, it happens once for all processes."""
        super().__init__()
        self.failure = failure
        self.at_call = at_call
        self.once = once
        self.num_calls = 0

    def predict(
        self,
        given_BSCHW: torch.Tensor,
        *,
        generators: list[torch.Generator],
        conditions: list[bool | None],
        starts_s: list[float] | None = None,
    ) -> torch.Tensor:
        latents = super().predict(given_BSCHW, generators=generators, conditions=conditions, starts_s=starts_s)
        self.num_calls += 1
        if self.num_calls != self.at_call or (self.once is not None and self.once.exists()):
            return latents
        if self.once is not None:
            self.once.touch()
        if self.failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "error":
            raise RuntimeError("the model is out of ideas")
        latents[:, 5, 0, 0, 0] = float("nan")
        return latents


def start_frame() -> np.ndarray:
    """A smooth start frame (H, W, 3)."""
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.stack([4 * x, 8 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
