"""Random generators keyed by the item they serve, never by process, order or batch."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = int | str


def derive_seed(*key: Key) -> int:
    """A 63-bit seed for a key such as (run seed, start frame, future, stage, index)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(*key: Key) -> torch.Generator:
    """A CPU generator for a key; noise is drawn on the CPU so that every device gets the same."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(*key))


def numpy_generator(*key: Key) -> np.random.Generator:
    """A numpy generator for a key."""
    return np.random.Generator(np.random.PCG64(derive_seed(*key)))
