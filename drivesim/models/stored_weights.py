"""Safetensors files judged by their headers, before their gigabytes are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from drivesim.core.files import read_json

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # of torch's archives and of plain pickles
_REMEDY = (
    "only safetensors are loaded, because a pickle can run code; where you trust it, convert it once: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
)
# Names that attention layers of autoencoders have in older files, and their names today.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True, slots=True)
class JudgedPart:
    """A network whose stored weights have been found to fit, but not read."""

    network: Any
    read: Callable[[], Any]  # gives the same network with its weights, in evaluation mode


def find_weights(folder: Path, stem: str, place: str) -> Path:
    """The safetensors file of a part, full precision before half.

    Raises:
        ValueError: there is none, or only pickles; begins with `place`.
    """
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ValueError(f"{place} holds the pickle {pickles[0]}: {_REMEDY}")
    shards = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    found = f"; it is cut into shards ({shards[0]}), save it as one file" if shards else ""
    raise ValueError(f"{place} is missing its weights: no {names[0]} in {folder}{found}")


def stored_shapes(path: Path, place: str) -> Shapes:
    """Names and shapes of a file's tensors, from its header.

    Raises:
        ValueError: a pickle, or a file that is truncated or no safetensors file; begins with `place`.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with the length of its header, whose bytes may be any, and the header's first brace.
    if start[8:] != b"{" and start.startswith(_PICKLE_STARTS):
        raise ValueError(f"{place}: {path.name} is a pickle: {_REMEDY}")
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{place}: {path.name} is truncated or no safetensors file: {error}") from error


def read_tensors(path: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Some tensors of a file, floating-point ones in `dtype`; copies, so that the file may change later.

    Raises:
        ValueError: numbers that are not finite; names the file and the tensor.
    """
    read = {}
    with safe_open(path, framework="pt") as tensors:
        for name in names:
            tensor = tensors.get_tensor(name)
            read[name] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    check_numbers(read, str(path))
    return read


def check_numbers(tensors: Mapping[str, Tensor], place: str) -> None:
    """Raises ValueError for a weight that is NaN or infinite, naming its tensor; begins with `place`.

    Not every such weight shows in what a network makes: a softmax swallows an infinite one.
    """
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            kind, count = str(tensor.dtype).removeprefix("torch."), int((~finite).sum())
            raise ValueError(f"{place}: {count} of {finite.numel()} numbers of {name} are not finite in {kind}")


def name_today(name: str) -> str:
    """The name of a stored tensor, with what attention layers of autoencoders are called today."""
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def set_weight_type(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Changes the type of a network's weights in place, as torch does.

    The `to` of diffusers' models warns of modules that should be kept in float32, also for those that have none.
    """
    assert not getattr(network, "_keep_in_fp32_modules", None), "load it with torch_dtype instead"
    torch.nn.Module.to(network, dtype)


def check_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], place: str) -> None:
    """Raises ValueError where stored tensors are not those of a network, naming the first that differs."""
    problems = {
        "missing": sorted(set(wanted) - set(found)),
        "not the network's": sorted(set(found) - set(wanted)),
        "of another size": sorted(name for name in set(wanted) & set(found) if tuple(found[name]) != wanted[name]),
    }
    for what, names in problems.items():
        if names:
            first = names[0]
            sizes = f" {list(found[first])}, expected {list(wanted[first])}" if what == "of another size" else ""
            raise ValueError(
                f"{place}: weights and config do not belong together: {len(names)} of {len(wanted)} tensors are "
                f"{what}, the first is {first}{sizes}"
            )


def network_shapes(network: torch.nn.Module) -> Shapes:
    """Names and shapes of what a network stores."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def read_config(path: Path, place: str) -> dict[str, Any]:
    """The keys and values of a part's config.

    Raises:
        ValueError: it is missing or no JSON object; begins with `place`.
    """
    if not path.is_file():
        raise ValueError(f"{place} is missing ({path} not found)")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{place}: {path.name} holds no keys and values")
    return config
