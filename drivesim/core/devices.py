"""Which torch devices this machine has and which types networks' numbers may have, and refusals of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WEIGHTS = ("float32", "bfloat16", "float16")


def number_type(weights: str) -> torch.dtype:
    """The type of networks' numbers by its name.

    Raises:
        ValueError: another than those there are.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights}; valid: {', '.join(WEIGHTS)}")
    found: torch.dtype = getattr(torch, weights)
    return found


def devices() -> list[str]:
    """The torch devices of this machine, as torch names them."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *(["cuda"] if gpus else []), *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


@contextmanager
def exact_float32() -> Iterator[None]:
    """A block, or as a decorator a function, in which GPUs do not round float32 to TF32, as cuDNN does by default.

    Scores of one video then differ by the last bits alone between a CPU and a GPU.
    """
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def check_device(device: str) -> None:
    """Raises ValueError for a torch device that this machine lacks."""
    there = devices()
    if device not in there:
        raise ValueError(f"device={device}: not on this machine; valid here: {', '.join(there)}")


def check_accelerator(accelerator: str) -> None:
    """Raises ValueError for a Lightning accelerator that this machine lacks."""
    gpus = [device for device in devices() if device in ("cuda", "mps")]
    there = ["auto", "cpu", *(["gpu"] if gpus else []), *gpus]
    if accelerator not in there:
        raise ValueError(f"trainer.accelerator={accelerator}: not on this machine; valid here: {', '.join(there)}")


def accelerator_device(accelerator: str) -> str:
    """The torch device that Lightning takes for an accelerator, the first where there are several."""
    wanted = {"auto": ("cuda", "mps"), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    return next((device for device in wanted if device in devices()), "cpu")
