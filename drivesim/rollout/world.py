"""The world of one start frame: every step adds a chunk of frames to one of its futures.

Axes: B futures (always 1 here), S given frames, T frames, C channels, H W pixels or latent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.core.finite import check_finite
from drivesim.core.seeds import torch_generator
from drivesim.rollout.cascade import fill_in
from drivesim.rollout.model import Pending, PredictionModel
from drivesim.rollout.plan import Plan

ENDLESS = 2**62  # frames; nobody gets there


@dataclass(kw_only=True, slots=True)
class State:
    """All that a future needs in order to go on; its size does not depend on how far it is."""

    future: int  # which of the start frame's futures
    chunk_index: int  # the next chunk
    num_frames: int  # frames of the video shown so far
    latents_SCHW: torch.Tensor  # the last key frames: one before the first step, then `num_given`; on the CPU
    pending: Pending = field(default_factory=dict)  # of the decoder and what follows it


class World:
    """Futures of one start frame.

    Frames stay latents from step to step: they are decoded once for the video, and never encoded
    again. The noise of a step depends on (run seed, start, future, chunk) alone, and a step predicts
    one future: batched convolutions round differently, and the same future must not depend on its
    neighbours.

    Args:
        model: predicts, fills in and finishes.
        run_seed: part of the key of all noise, as is
        start_name: of the start frame.
        is_night: None = unknown.
        num_frames: wanted; the last step ends the video there.
    """

    def __init__(
        self,
        model: PredictionModel,
        *,
        run_seed: int,
        start_name: str,
        is_night: bool | None = None,
        num_frames: int = ENDLESS,
    ) -> None:
        self.model = model
        self.run_seed = run_seed
        self.start_name = start_name
        self.is_night = is_night
        self.plan = Plan(
            num_frames=num_frames,
            frames_per_call=model.num_frames,
            num_given=model.num_given,
            frames_per_gap=model.frames_per_gap,
        )

    def reset(self, start_latents_CHW: torch.Tensor, future: int = 0) -> State:
        """The state before the first step of a future."""
        return State(future=future, chunk_index=0, num_frames=0, latents_SCHW=start_latents_CHW[None].cpu())

    def step(self, state: State) -> tuple[State, NDArray[np.uint8]]:
        """One call of the prediction model, what fills the gaps between its key frames, and the frames of it all.

        The first step's frames begin with the start frame as the model decodes it, so that colours
        do not jump behind it. Frames that need later ones come with a later step.

        Returns:
            The next state, and the new frames, uint8 RGB (T, H, W, 3).

        Raises:
            NotFiniteError: names the stage and the first frame that is not finite.
        """
        chunk = self.plan.chunk(state.chunk_index)
        item = (self.run_seed, self.start_name, state.future)
        with torch.no_grad():
            keys_KCHW = self._predict(state, chunk.first_frame)
            filled_TCHW = fill_in(self.model, keys_KCHW, self.is_night, (*item, chunk.index))
            new_TCHW = filled_TCHW if chunk.index == 0 else filled_TCHW[1:]  # the chunk before ended with that frame
            check_finite(new_TCHW, "interpolation", chunk.first_frame, self.model.fps)
            is_last = chunk.index == self.plan.num_chunks - 1
            pending, frames_THWC = self.model.finish(
                state.pending, new_TCHW[: chunk.num_new], key=item, is_last=is_last
            )
        after = State(
            future=state.future,
            chunk_index=chunk.index + 1,
            num_frames=state.num_frames + len(frames_THWC),
            latents_SCHW=keys_KCHW[-self.model.num_given :].clone(),  # a view would keep the whole chunk in memory
            pending=pending,
        )
        return after, frames_THWC

    def _predict(self, state: State, first_frame: int) -> torch.Tensor:
        """The chunk's key frames (K, C, h, w), but for the first chunk with the last one before it in front."""
        num_given = len(state.latents_SCHW)
        generator = torch_generator(self.run_seed, self.start_name, state.future, "predict", state.chunk_index)
        latents_BTCHW = self.model.predict(state.latents_SCHW[None], generators=[generator], is_night=[self.is_night])
        keys_KCHW = latents_BTCHW[0, 0 if state.chunk_index == 0 else num_given - 1 :].cpu()
        gap = self.model.frames_per_gap
        first = 0 if state.chunk_index == 0 else first_frame - 1
        check_finite(keys_KCHW, "prediction", first, self.model.fps, every=gap)
        return keys_KCHW
