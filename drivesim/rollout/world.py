"""The world of one start frame: every step adds a chunk of frames to one of its futures.

Axes: B futures (always 1 here), S given frames, T frames, C channels, H W pixels or latent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.core.seeds import torch_generator
from drivesim.rollout.cascade import fill_in
from drivesim.rollout.model import PredictionModel


class NotFiniteError(ArithmeticError):
    """The model made latents that are NaN or infinite."""


@dataclass(kw_only=True, slots=True)
class State:
    """All that a future needs in order to go on; its size does not depend on how far it is."""

    future: int  # which of the start frame's futures
    chunk_index: int  # the next chunk
    num_frames: int  # frames of the video made so far
    latents_SCHW: torch.Tensor  # the last key frames: one before the first step, then `num_given`; on the CPU


class World:
    """Futures of one start frame.

    Frames stay latents from step to step: they are decoded once for the video, and never encoded
    again. The noise of a step depends on (run seed, start, future, chunk) alone, and a step predicts
    one future: batched convolutions round differently, and the same future must not depend on its
    neighbours.
    """

    def __init__(self, model: PredictionModel, *, run_seed: int, start_name: str, is_night: bool | None = None) -> None:
        self.model = model
        self.run_seed = run_seed
        self.start_name = start_name
        self.is_night = is_night

    def reset(self, start_latents_CHW: torch.Tensor, future: int = 0) -> State:
        """The state before the first step of a future."""
        return State(future=future, chunk_index=0, num_frames=0, latents_SCHW=start_latents_CHW[None].cpu())

    def step(self, state: State) -> tuple[State, NDArray[np.uint8]]:
        """One call of the prediction model, and what fills the gaps between its key frames.

        The first step's frames begin with the start frame as the model decodes it, so that colours
        do not jump behind it.

        Returns:
            The next state, and the new frames, uint8 RGB (T, H, W, 3).

        Raises:
            NotFiniteError: names the chunk and the first frame that is not finite.
        """
        num_given = len(state.latents_SCHW)
        item = (self.run_seed, self.start_name, state.future)
        generator = torch_generator(*item, "predict", state.chunk_index)
        with torch.no_grad():
            latents_BTCHW = self.model.predict(
                state.latents_SCHW[None], generators=[generator], is_night=[self.is_night]
            )
            is_first = state.chunk_index == 0
            keys_KCHW = latents_BTCHW[0, 0 if is_first else num_given - 1 :].cpu()
            filled_TCHW = fill_in(self.model, keys_KCHW, self.is_night, (*item, state.chunk_index))
            new_TCHW = filled_TCHW if is_first else filled_TCHW[1:]  # the chunk before ended with that frame
            _check_finite(new_TCHW, state)
            frames_THWC = self.model.decode(new_TCHW)
        after = State(
            future=state.future,
            chunk_index=state.chunk_index + 1,
            num_frames=state.num_frames + len(new_TCHW),
            latents_SCHW=keys_KCHW[-self.model.num_given :].clone(),  # a view would keep the whole chunk in memory
        )
        return after, frames_THWC


def _check_finite(new_TCHW: torch.Tensor, state: State) -> None:
    finite_T = torch.isfinite(new_TCHW).flatten(start_dim=1).all(dim=1)
    if not bool(finite_T.all()):
        frame = state.num_frames + int((~finite_T).nonzero()[0, 0])
        raise NotFiniteError(f"chunk {state.chunk_index}: the latents of frame {frame} are not finite")
