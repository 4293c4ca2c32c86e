"""Which torch devices this machine has and which types networks' numbers may have, and refusals of others."""

from __future__ import annotations

import os
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


def check_accelerator(accelerator: str, num_devices: int = 1, num_nodes: int = 1) -> None:
    """Refuses what this machine lacks.

    Args:
        accelerator: Lightning's name of it.
        num_devices: of all machines together.
        num_nodes: machines that share them alike.

    Raises:
        ValueError: this machine has no such accelerator, or fewer devices than its part of them.
    """
    gpus = [device for device in devices() if device in ("cuda", "mps")]
    there = ["auto", "cpu", *(["gpu"] if gpus else []), *gpus]
    if accelerator not in there:
        raise ValueError(f"trainer.accelerator={accelerator}: not on this machine; valid here: {', '.join(there)}")
    most, what = _num_there(accelerator)
    if most is not None and num_devices > most * num_nodes:
        enough = next(
            num for num in range(num_nodes, num_devices + 1) if num_devices % num == 0 and num * most >= num_devices
        )
        raise ValueError(
            f"trainer.devices={num_devices} on trainer.num_nodes={num_nodes}: this machine has {most} {what}; set "
            f"trainer.num_nodes={enough} and start the command on each of so many machines like this one, or "
            f"trainer.devices={most * num_nodes} and trainer.accumulate for the same batch of a step"
        )


def _num_there(accelerator: str) -> tuple[int | None, str]:
    """How many devices of an accelerator this machine has, and what they are; None = as many as are asked for."""
    if accelerator == "cpu":
        return None, ""
    device = accelerator_device(accelerator)
    if device.startswith("cuda"):
        return torch.cuda.device_count(), "GPUs"
    return (1, "GPU") if device == "mps" else (os.cpu_count() or 1, "processors and no GPU")


def accelerator_device(accelerator: str) -> str:
    """The torch device that Lightning takes for an accelerator: of several GPUs this process's own, else the first."""
    wanted = {"auto": ("cuda", "mps"), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    there = devices()
    found = next((device for device in wanted if device in there), "cpu")
    own = f"cuda:{os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID'))}"  # what starts processes numbers them
    return own if found == "cuda" and own in there else found
