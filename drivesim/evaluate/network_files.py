"""Weights of the small networks that ship with the evaluators: half precision on disk, whole in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights as fp16 safetensors."""
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, path)


def load_weights(network: Network, path: Path, name: str) -> Network:
    """The network with the weights of a file, in float32 and evaluation mode.

    Args:
        network: Of the right sizes; it is filled.
        path: safetensors.
        name: Of the network, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other tensors than this network has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the weights of the {name} belong there")
    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (no mapping)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: not the weights of this {name}: {error}") from error
    return network.eval()
