"""Vectors of prompts on disk, one file a prompt, beside the features of the frames that they are held against.

Legend: B prompts, D values of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from drivesim.core.files import atomic_path

_DIGITS = 32  # of a digest in a name
MakeTexts = Callable[[Sequence[str]], Tensor]  # prompts to (B, D)


class TextVectors:
    """What one network says of prompts; in a folder of the feature store."""

    def __init__(self, store: Path, weights_sha256: str) -> None:
        self.folder = store / f"texts-{weights_sha256[:_DIGITS]}"

    def load(self, prompts: Sequence[str]) -> Tensor | None:
        """float32 (B, D); None = not all of them are there."""
        found = [self._read(prompt) for prompt in prompts]
        there = [vector for vector in found if vector is not None]
        return torch.stack(there) if there and len(there) == len(found) else None

    def made_by(self, make: MakeTexts, prompts: Sequence[str]) -> Tensor:
        """float32 (B, D); those that are not there are made and kept."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if self._read(prompt) is None]
        if missing:
            for prompt, vector in zip(missing, make(missing).float().cpu(), strict=True):
                with atomic_path(self._path(prompt)) as temporary:
                    save_file({"text_D": vector.contiguous().clone()}, temporary, metadata={"prompt": prompt})
        found = self.load(prompts)
        assert found is not None
        return found

    def _path(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:_DIGITS]}.safetensors"

    def _read(self, prompt: str) -> Tensor | None:
        """One prompt's vector; a damaged file is none."""
        try:
            with safe_open(self._path(prompt), framework="pt") as file:
                vector: Tensor = file.get_tensor("text_D")
        except (FileNotFoundError, SafetensorError):
            return None
        return vector
