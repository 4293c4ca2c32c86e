"""Upsampling of a video whose frames come in pieces: portion by portion, joined without a seam.

Portions overlap and are cross-faded where they do; a frame's noise is the same in both. So they join without a seam,
and nothing of a video has to be known but the frames of the portion. What a portion is denoised as is the maker's:
pixels (`families.upsample`) or latents (`families.text_upscale`).

Axes: T frames, C channels, h w pixels of the small picture, H W pixels of the large one; Y X of what is denoised.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.finite import check_finite
from drivesim.core.seeds import Key

# What a video's next frames need of those before, on the CPU: `low_TChw`, the last small frames; `held_TCHW`, what was
# denoised of frames that the next portion makes as well; `first_and_shown`, the number of the first small frame and of
# the first held one. {} = the beginning.
Pending: TypeAlias = dict[str, Tensor]


class PortionMaker(Protocol):
    """An upsampler and how it is run."""

    fps: float  # of the video, to name times
    overlap: int  # frames of a portion that the one before it makes as well; cross-faded

    @property
    def portion(self) -> int:
        """Frames that are made at once."""

    @property
    def frame_by_frame(self) -> bool:
        """Whether frames of a portion are made without regard to each other."""

    @property
    def scale(self) -> int:
        """Pixels of the large picture to one of the small one, a side."""

    def none(self, low_TChw: Tensor) -> Tensor:
        """No frame (0, C, Y, X) of the shape that `make` gives for small frames."""

    def make(self, low_TChw: Tensor, *, first_frame: int, key: tuple[Key, ...], conditions: Any) -> Tensor:
        """What is denoised of a portion (T, C, Y, X), from small frames in [-1, 1].

        A frame's noise depends on its own number in the video, so that portions that overlap begin from the same noise
        where they do.
        """

    def pictures(self, made_TCYX: Tensor, *, first_frame: int) -> NDArray[np.uint8]:
        """uint8 RGB pictures (T, H, W, 3) of what was denoised."""


def upsample_next(
    maker: PortionMaker,
    pending: Pending,
    low_TChw: Tensor,
    *,
    key: tuple[Key, ...],
    is_last: bool,
    conditions: Any = None,
) -> tuple[Pending, NDArray[np.uint8]]:
    """The large frames of a video that more small ones complete.

    The frames of all calls in a row are the video: the same bytes whatever pieces its small frames come in. Portions
    begin every `portion - overlap` frames; the last one ends with the video, however many frames it shares with the
    one before.

    Args:
        maker: the upsampler.
        pending: what the call before returned; {} at the video's beginning.
        low_TChw: the next small frames in [-1, 1], on any device; may be none.
        key: of the video's noise: (run seed, start, future).
        is_last: nothing follows; all frames are wanted.
        conditions: of the video, for makers that are told.

    Returns:
        What the next call needs, of bounded size; and uint8 RGB pictures (T, H, W, 3), T >= 0.

    Raises:
        NotFiniteError: names the frame.
        ValueError: small frames that the U-Net cannot halve as often as it has to.
    """
    low, held, first, shown = _resumed(maker, pending, low_TChw)

    def made(low_of_portion: Tensor, begin: int) -> Tensor:
        portion = maker.make(low_of_portion, first_frame=begin, key=key, conditions=conditions).float().cpu()
        check_finite(portion, "upsampling", begin, maker.fps)
        return portion

    step = maker.portion - maker.overlap
    height, width = (side * maker.scale for side in low.shape[-2:])
    pictures = [np.zeros((0, height, width, 3), np.uint8)]
    while first + len(low) >= shown + maker.portion:
        low, first = low[shown - first :], shown
        faded = _faded(held, made(low[: maker.portion], first))
        pictures.append(maker.pictures(faded[:step], first_frame=shown))
        held, shown = faded[step:], shown + step
    if is_last:
        end = first + len(low)
        if shown + len(held) < end:
            # Temporal layers get a whole portion where the video is long enough; frames by themselves need no company.
            begin = shown if maker.frame_by_frame else max(first, end - maker.portion)
            held = _faded(held, made(low[begin - first :], begin)[shown - begin :])
        if len(held):
            pictures.append(maker.pictures(held, first_frame=shown))
        return {}, np.concatenate(pictures)
    after = {"low_TChw": low, "held_TCHW": held, "first_and_shown": torch.tensor([first, shown])}
    return after, np.concatenate(pictures)


def _resumed(maker: PortionMaker, pending: Pending, new_TChw: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Small frames with the new ones, frames held back, number of the first small one, number of frames shown."""
    new = new_TChw.detach().float().cpu()
    if not pending:
        return new, maker.none(new), 0, 0
    first, shown = (int(number) for number in pending["first_and_shown"])
    return torch.cat([pending["low_TChw"], new]), pending["held_TCHW"], first, shown


def _faded(held_TCYX: Tensor, made_TCYX: Tensor) -> Tensor:
    """`made_TCYX`, whose first frames are faded in, in place, from those that the portion before made of them."""
    overlap = len(held_TCYX)
    share = (torch.arange(1, overlap + 1) / (overlap + 1)).view(-1, 1, 1, 1)
    made_TCYX[:overlap] = torch.lerp(held_TCYX, made_TCYX[:overlap], share)
    return made_TCYX
