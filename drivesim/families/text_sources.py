"""Checkpoints that a person puts in the place of a text-to-video model's own; light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Sources:
    """Checkpoints that take the place of a model's own; None = its own."""

    # A checkpoint is a folder, a hub id, a file, or a model folder that holds one.
    image: str | None = None  # text-to-image checkpoint; a DreamBooth folder, too
    upscaler: str | None = None  # x4-upscaler checkpoint
    base_text: str | None = None  # checkpoint whose text encoder temporal layers are told by; None = the model's image
    lora: Sequence[str] = ()  # LoRA files, folders or shipped names, fused into image; `PATH@0.7` = 0.7 of one
