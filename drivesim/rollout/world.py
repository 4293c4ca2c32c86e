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
from drivesim.rollout.model import Conditions, Pending, PredictionModel
from drivesim.rollout.plan import Chunk, Plan

ENDLESS = 2**62  # frames; nobody gets there


@dataclass(kw_only=True, slots=True)
class State:
    """All that a future needs in order to go on; its size does not depend on how far it is."""

    future: int  # which of the start frame's futures
    chunk_index: int  # the next chunk
    num_frames: int  # frames of the video shown so far
    # Key frames, on the CPU: before the first step the start frame, if there is one; then the last `num_given`, or,
    # where the first call has made all, the last one that was shown and those that were not yet.
    latents_SCHW: torch.Tensor
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
        conditions: of the video; None = nothing is said.
        num_frames: wanted; the last step ends the video there.
    """

    def __init__(
        self,
        model: PredictionModel,
        *,
        run_seed: int,
        start_name: str,
        conditions: Conditions = None,
        num_frames: int = ENDLESS,
    ) -> None:
        self.model = model
        self.run_seed = run_seed
        self.start_name = start_name
        self.conditions = conditions
        self.plan = Plan(
            num_frames=num_frames,
            frames_per_call=model.num_frames,
            num_given=model.num_given,
            frames_per_gap=model.frames_per_gap,
            gaps_at_once=model.gaps_at_once,
        )

    def reset(self, start_latents_CHW: torch.Tensor | None, future: int = 0) -> State:
        """The state before the first step of a future that starts from one frame, or from none."""
        if start_latents_CHW is None:
            latents_SCHW = self.model.encode(np.zeros((0, *self.model.start_hw, 3), np.uint8)).cpu()
        else:
            latents_SCHW = start_latents_CHW[None].cpu()
        return State(future=future, chunk_index=0, num_frames=0, latents_SCHW=latents_SCHW)

    def step(self, state: State) -> tuple[State, NDArray[np.uint8]]:
        """One call of the prediction model, what fills the gaps between its key frames, and the frames of it all.

        Where the first call makes all key frames, a step takes as many of them as the plan says.
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
            keys_KCHW, next_SCHW = self._key_frames(state, chunk)
            first_s = max(0, chunk.first_frame - 1) / self.model.fps
            filled_TCHW = fill_in(self.model, keys_KCHW, self.conditions, (*item, chunk.index), first_s=first_s)
            new_TCHW = filled_TCHW if chunk.index == 0 else filled_TCHW[1:]  # the chunk before ended with that frame
            check_finite(new_TCHW, "interpolation", chunk.first_frame, self.model.fps)
            is_last = chunk.index == self.plan.num_chunks - 1
            pending, frames_THWC = self.model.finish(
                state.pending, new_TCHW[: chunk.num_new], key=item, conditions=self.conditions, is_last=is_last
            )
        after = State(
            future=state.future,
            chunk_index=chunk.index + 1,
            num_frames=state.num_frames + len(frames_THWC),
            latents_SCHW=next_SCHW.clone(),  # a view would keep the whole chunk in memory
            pending=pending,
        )
        return after, frames_THWC

    def _key_frames(self, state: State, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """The chunk's key frames (K, C, h, w), the last one before it in front, and those that the next step needs."""
        gaps = self.plan.gaps_at_once
        if gaps is None:
            keys_KCHW = self._predict(state, chunk.first_frame)
            return keys_KCHW, keys_KCHW[-self.model.num_given :]
        all_keys = self._predict(state, 0) if chunk.index == 0 else state.latents_SCHW
        return all_keys[: gaps + 1], all_keys[gaps:]

    def _predict(self, state: State, first_frame: int) -> torch.Tensor:
        """The chunk's key frames (K, C, h, w), but for the first chunk with the last one before it in front."""
        num_given = len(state.latents_SCHW)
        generator = torch_generator(self.run_seed, self.start_name, state.future, "predict", state.chunk_index)
        gap = self.model.frames_per_gap
        first = 0 if state.chunk_index == 0 else first_frame - 1
        first_given = 0 if state.chunk_index == 0 else first - (num_given - 1) * gap
        latents_BTCHW = self.model.predict(
            state.latents_SCHW[None],
            generators=[generator],
            conditions=[self.conditions],
            starts_s=[first_given / self.model.fps],
        )
        keys_KCHW = latents_BTCHW[0, 0 if state.chunk_index == 0 else num_given - 1 :].cpu()
        check_finite(keys_KCHW, "prediction", first, self.model.fps, every=gap)
        return keys_KCHW
