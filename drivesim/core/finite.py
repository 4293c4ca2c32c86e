"""Numbers that are not finite, named by where in a video they came up."""

from __future__ import annotations

import torch


class NotFiniteError(ArithmeticError):
    """A stage made numbers that are NaN or infinite."""


def check_finite(frames_TCHW: torch.Tensor, stage: str, first: int, fps: float, every: int = 1) -> None:
    """Raises NotFiniteError when a frame holds NaN or infinity; names the stage, the frame and its time.

    Args:
        frames_TCHW: latents or pictures of frames in a row.
        stage: what made them, for the message.
        first: number of the first of them in the video.
        fps: frames a second of the video.
        every: frames of the video from one of these to the next.
    """
    if bool(frames_TCHW.sum(dtype=torch.float32).isfinite()):  # as the sum with a number that is not never is
        return
    finite_T = torch.isfinite(frames_TCHW).flatten(start_dim=1).all(dim=1)
    if not bool(finite_T.all()):
        frame = first + every * int((~finite_T).nonzero()[0, 0])
        raise NotFiniteError(f"{stage}: frame {frame} (at {frame / fps:.2f} s) is not finite")
