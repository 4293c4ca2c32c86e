"""Captions: what can be said of the clip that begins at each frame of a drive, and how a batch carries text.

Axes: B batch, T frames, P phrasings, L bytes of the longest text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad


@dataclass(kw_only=True, slots=True)
class Captions:
    """Of one drive with T frames; each text is kept once."""

    texts: tuple[str, ...]
    choices_TP: NDArray[np.int64]  # numbers of the texts that fit a clip beginning at frame t

    @classmethod
    def same(cls, num_frames: int, texts: Sequence[str]) -> Captions:
        """The same phrasings wherever a clip begins."""
        choices_TP = np.tile(np.arange(len(texts), dtype=np.int64), (num_frames, 1))
        return cls(texts=tuple(texts), choices_TP=choices_TP)

    @classmethod
    def of_frames(cls, texts_TP: Sequence[Sequence[str]]) -> Captions:
        """As many phrasings for every frame."""
        texts = sorted({text for row in texts_TP for text in row})
        number = {text: index for index, text in enumerate(texts)}
        choices_TP = np.array([[number[text] for text in row] for row in texts_TP], dtype=np.int64)
        return cls(texts=tuple(texts), choices_TP=choices_TP)

    def draw(self, frame: int, rng: np.random.Generator) -> str:
        """One of the phrasings for a clip that begins at this frame."""
        return self.texts[int(rng.choice(self.choices_TP[frame]))]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Both fields as arrays, to be stored."""
        encoded = np.frombuffer(json.dumps(self.texts).encode(), dtype=np.uint8)
        return {"caption_texts": encoded.copy(), "caption_choices_TP": self.choices_TP}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Captions | None:
        """The inverse of `to_arrays`; None where no captions were stored."""
        if "caption_texts" not in arrays:
            return None
        texts = json.loads(np.asarray(arrays["caption_texts"], dtype=np.uint8).tobytes().decode())
        return cls(texts=tuple(texts), choices_TP=np.asarray(arrays["caption_choices_TP"], dtype=np.int64))


def mirrored(text: str) -> str:
    """The caption of a picture mirrored left to right."""
    swapped = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    return " ".join(_swapped(word, swapped) for word in text.split(" "))


def _swapped(word: str, swapped: Mapping[str, str]) -> str:
    bare = word.rstrip(".,;:!?")
    return swapped.get(bare, bare) + word[len(bare) :]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation behind and before them."""
    return [word.strip(".,;:!?").lower() for word in text.split()]


def text_bytes(text: str) -> Tensor:
    """UTF-8 bytes (L,) uint8: a batch is tensors alone, whatever loads, moves or counts it."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def collate_texts(texts: Sequence[Tensor]) -> Tensor:
    """(B, L) uint8, zeros behind each text."""
    longest = max((len(text) for text in texts), default=0)
    return torch.stack([pad(text, (0, longest - len(text))) for text in texts])


def texts_of(text_BL: Tensor) -> list[str]:
    """The texts of a batch; the inverse of `collate_texts`. Empty ones where a batch is only counted, not there."""
    if text_BL.is_meta:
        return [""] * len(text_BL)
    return [bytes(row).rstrip(b"\0").decode() for row in text_BL.cpu().numpy()]
