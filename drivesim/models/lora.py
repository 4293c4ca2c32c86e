"""LoRA weights fused into a U-Net and a text encoder: W + scale * alpha / rank * up @ down (arXiv 2106.09685, §4.1).

Two public formats are read: diffusers' (`pytorch_lora_weights.safetensors`, with today's names and those of its older
training scripts) and kohya's (`lora_unet_...`, `lora_te_...`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from drivesim.core.run_folder import trained_in
from drivesim.models.stored_weights import find_weights, read_tensors, stored_shapes

# What follows the layer's name, by what it holds.
_ROLES = {
    "down": re.compile(r"(\.lora_(A|down)(\.\w+)?|[._]lora\.down|\.lora_linear_layer\.down)\.weight$"),
    "up": re.compile(r"(\.lora_(B|up)(\.\w+)?|[._]lora\.up|\.lora_linear_layer\.up)\.weight$"),
    "alpha": re.compile(r"\.alpha$"),
}
_PREFIXES = {"unet.": "unet", "text_encoder.": "text_encoder", "lora_unet_": "unet", "lora_te_": "text_encoder"}
_UNUSED = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")  # of peft's settings: none of them is plain LoRA


@dataclass(kw_only=True, slots=True)
class _Layer:
    """One layer's low-rank change, by the names of its tensors."""

    down: str = ""
    up: str = ""
    alpha: str = ""


@dataclass(kw_only=True, slots=True)
class _Lora:
    """A file that has been found to fit."""

    path: Path
    scale: float  # how much of it is fused
    shapes: dict[str, tuple[int, ...]]
    layers: dict[tuple[str, str], _Layer]
    alphas: dict[str, float]  # of parts whose settings have one


def check_lora(source: str | Path, unet: nn.Module, text_encoder: nn.Module) -> None:
    """Raises ValueError as `fuse_lora`, from the file's header alone; the networks may be on the meta device."""
    _judged(source, unet, text_encoder)


def fuse_lora(source: str | Path, unet: nn.Module, text_encoder: nn.Module) -> None:
    """Adds LoRA weights to the networks' own, in place.

    Args:
        source: a safetensors file, a folder with a pytorch_lora_weights.safetensors, or the run folder of a training
            that made one; `PATH@0.7` = 0.7 times of it.
        unet: takes the layers called unet.
        text_encoder: takes the layers called text_encoder.

    Raises:
        ValueError: a pickle, a truncated file, another kind of adapter, weights for another model, or no number of
            times; the networks then are as before.
    """
    lora = _judged(source, unet, text_encoder)
    tensors, targets = read_tensors(lora.path, lora.shapes, torch.float32), _targets(unet, text_encoder)
    for key, names in lora.layers.items():
        up, down = tensors[names.up], tensors[names.down]
        rank = down.shape[0]
        alpha = tensors[names.alpha].item() if names.alpha else lora.alphas.get(key[0], rank)
        _add(targets[key], up.flatten(1) @ down.flatten(1) * (lora.scale * alpha / rank))


def _judged(source: str | Path, unet: nn.Module, text_encoder: nn.Module) -> _Lora:
    path, scale = _path_and_scale(str(source))
    place = f"LoRA {path}"
    if path.is_dir():
        path = find_weights(trained_in(path), "pytorch_lora_weights", place)
    elif not path.is_file():
        raise ValueError(f"{place}: no such file or folder")
    shapes = stored_shapes(path, place)
    layers = _layers(shapes, place)
    targets = _targets(unet, text_encoder)
    for (part, layer), names in layers.items():
        _check_fit(targets.get((part, layer)), names, shapes, f"{place}: layer {layer!r} of {part}")
    return _Lora(path=path, scale=scale, shapes=shapes, layers=layers, alphas=_alphas(path, place))


def _path_and_scale(source: str) -> tuple[Path, float]:
    path, at, number = source.rpartition("@")
    if not at:
        return Path(source).expanduser(), 1.0
    try:
        scale = float(number)
    except ValueError as error:
        if Path(path).expanduser().exists() and not Path(source).expanduser().exists():
            raise ValueError(f"LoRA {source}: {number!r} is no number of times, such as {path}@0.7") from error
        return Path(source).expanduser(), 1.0  # a path with an @ in it
    if not math.isfinite(scale):
        raise ValueError(f"LoRA {source}: {number} times of it; expected a number, such as {path}@0.7")
    return Path(path).expanduser(), scale


def _layers(shapes: dict[str, Any], place: str) -> dict[tuple[str, str], _Layer]:
    """(part, layer's name with _ for .) -> names of its tensors."""
    layers: dict[tuple[str, str], _Layer] = {}
    for name in shapes:
        role = next((role for role, ending in _ROLES.items() if ending.search(name)), None)
        if role is None:
            raise ValueError(f"{place}: tensor {name!r} is no LoRA's; needed are pairs such as lora_A and lora_B")
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        part = _PREFIXES.get(prefix, "unet")  # diffusers' oldest files hold the U-Net's layers without a prefix
        layer = _ROLES[role].sub("", name[len(prefix) :]).replace(".processor.", ".")
        setattr(layers.setdefault((part, _flat(layer)), _Layer()), role, name)
    if not layers:
        raise ValueError(f"{place}: holds no LoRA weights")
    return layers


def _flat(layer: str) -> str:
    flat = layer.replace(".", "_").removeprefix("text_model_")
    return flat + "_0" if flat.endswith("_to_out") else flat  # older files leave out that to_out is a list


def _targets(unet: nn.Module, text_encoder: nn.Module) -> dict[tuple[str, str], nn.Module]:
    return {
        (part, _flat(name)): module
        for part, network in (("unet", unet), ("text_encoder", text_encoder))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _check_fit(target: nn.Module | None, names: _Layer, shapes: dict[str, tuple[int, ...]], place: str) -> None:
    if not (names.down and names.up):
        raise ValueError(f"{place} has only one of its two matrices")
    if target is None:
        raise ValueError(f"{place} is not in this model: the LoRA was trained for another one")
    weight: Any = target.weight
    down, up = shapes[names.down], shapes[names.up]
    found = [up[0], torch.Size(down[1:]).numel()]
    needed = [weight.shape[0], weight[0].numel()]
    if found != needed or torch.Size(up[1:]).numel() != down[0]:
        raise ValueError(
            f"{place} changes a matrix of {found}, this model's is {needed}: it was trained for another one"
        )


def _alphas(path: Path, place: str) -> dict[str, float]:
    """Alpha of each part as peft's settings in a diffusers file say; a part that is not there has alpha = rank."""
    with safe_open(path, framework="pt") as file:
        settings = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    alphas = {}
    for part in ("unet", "text_encoder"):
        odd = [name for name in _UNUSED if settings.get(f"{part}.{name}")]
        if odd:
            raise ValueError(f"{place}: its settings of {part} have {', '.join(odd)}; only plain LoRA is fused")
        if f"{part}.lora_alpha" in settings:
            alphas[part] = float(settings[f"{part}.lora_alpha"])
    return alphas


@torch.no_grad()
def _add(target: nn.Module, change: Tensor) -> None:
    weight: Any = target.weight
    weight.copy_((weight.float() + change.view(weight.shape).to(weight.device)).to(weight.dtype))
