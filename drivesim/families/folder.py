"""Model folders in diffusers' format: one sub-folder a part, safetensors only, an index on top."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from drivesim.conditioning.driving import DrivingConditioner
from drivesim.conditioning.rate_label import RateLabel
from drivesim.core.files import feed
from drivesim.core.machine import is_out_of_memory
from drivesim.core.run_folder import trained_in
from drivesim.diffusion.schedule import DDIMScheduler
from drivesim.diffusion.settings import AnySampling, Sampler
from drivesim.families.facts import check_facts
from drivesim.models.autoencoder import AutoencoderKL, VQModel
from drivesim.models.build import UNet2DConditionModel
from drivesim.models.hub import is_hub_id
from drivesim.models.stored_weights import (
    Shapes,
    check_numbers,
    check_shapes,
    name_today,
    network_shapes,
    set_weight_type,
    stored_shapes,
)
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_decoder import VideoDecoder

INDEX = "model_index.json"
DRIVING = "driving"  # the family of an index that names none

# part -> (classes, the first one where a config names none; config file; weight file or None)
PARTS: dict[str, tuple[tuple[Any, ...], str, str | None]] = {
    "autoencoder": ((AutoencoderKL, VQModel), "config.json", "diffusion_pytorch_model.safetensors"),
    "backbone": ((UNet2DConditionModel,), "config.json", "diffusion_pytorch_model.safetensors"),
    "conditioner": ((DrivingConditioner,), "config.json", "diffusion_pytorch_model.safetensors"),
    "temporal": ((TemporalStack,), "config.json", "diffusion_pytorch_model.safetensors"),
    "scheduler": ((DDIMScheduler,), "scheduler_config.json", None),
    "interpolation": ((TemporalStack,), "config.json", "diffusion_pytorch_model.safetensors"),
    "interpolation_unet": ((UNet2DConditionModel,), "config.json", "diffusion_pytorch_model.safetensors"),
    "rate_label": ((RateLabel,), "config.json", "diffusion_pytorch_model.safetensors"),
    "video_decoder": ((VideoDecoder,), "config.json", "diffusion_pytorch_model.safetensors"),
    "upsampler": ((UNet2DConditionModel,), "config.json", "diffusion_pytorch_model.safetensors"),
    "upsampler_temporal": ((TemporalStack,), "config.json", "diffusion_pytorch_model.safetensors"),
    "upscaler_temporal": ((TemporalStack,), "config.json", "diffusion_pytorch_model.safetensors"),
    "upsampler_scheduler": ((DDIMScheduler,), "scheduler_config.json", None),
}
REQUIRED = ("autoencoder", "backbone", "conditioner", "temporal", "scheduler")
REQUIRED_FACTS = ("fps", "size_hw", "design_sampling", "predict_sampling")  # beside the name
OPTIONAL = {  # key of the index -> parts that come with it
    "rates": ("interpolation", "rate_label"),
    "video_decoder": ("video_decoder",),
    "upsampler": ("upsampler", "upsampler_scheduler"),
    "upsampler_temporal": ("upsampler_temporal",),
}
SAMPLED = {"rates": "interpolate_sampling", "upsampler": "upsample_sampling"}  # key of a stage -> of its sampling
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def find_model(folder_or_name: str | Path) -> Path:
    """The folder of a model: a path, a training's run folder, or the name of one that ships with the package.

    Raises:
        ValueError: neither; names the shipped models.
    """
    folder = Path(folder_or_name)
    if folder.is_dir():
        return trained_in(folder)
    shipped = _shipped("shipped")
    if (shipped / str(folder_or_name)).is_dir():
        return shipped / str(folder_or_name)
    names = sorted(path.name for path in shipped.iterdir() if path.is_dir()) if shipped.is_dir() else []
    hint = f"; a checkpoint of the hub is given as image={folder_or_name}, family=text" if is_hub_id(folder) else ""
    raise ValueError(
        f"no model folder {str(folder_or_name)!r}; shipped with the package: {', '.join(names) or 'none'}{hint}"
    )


def find_lora(source: str) -> str:
    """LoRA weights: a path, or the name of those that ship with the package; `@0.7` after either stays where it is."""
    name, at, scale = source.partition("@")
    shipped = _shipped("shipped_lora") / name
    return f"{shipped}{at}{scale}" if shipped.is_dir() and not Path(name).exists() else source


def _shipped(folder: str) -> Path:
    return Path(str(files("drivesim.families"))) / folder


def family_of(folder: Path) -> str:
    """The family of a model folder: "driving", or another that its index names.

    Raises:
        ValueError: no index, or one that cannot be read.
    """
    return str(_index(folder).get("family", DRIVING))


def read_index(folder: Path, family: str = DRIVING) -> dict[str, Any]:
    """The model's own facts: name, frame rate, picture size, sampling.

    Args:
        folder: the model's.
        family: that the model has to be of.

    Raises:
        ValueError: no index, one that cannot be read, or that of another family.
    """
    path, index = folder / INDEX, _index(folder)
    if "_class_name" in index:
        raise ValueError(
            f"{folder}: a text-to-image checkpoint ({index['_class_name']}), not a model; drivesim rollout family=text "
            f"takes it as image={folder}"
        )
    found = index.get("family", DRIVING)
    if found != family:
        raise ValueError(
            f"{folder}: a model of family {found}, not {family}; drivesim rollout takes it with family={found}"
        )
    needed = {"name", "fps", "size_hw"}
    if family == DRIVING:
        needed |= {*REQUIRED_FACTS, *(own for key, own in SAMPLED.items() if key in index)}
    missing = sorted(needed - set(index))
    if missing:
        hint = ""
        if family != DRIVING and "samplings" in index and not (folder / "temporal").is_dir():
            taken = [f"{name}={folder}" for name in ("image", "upscaler") if (folder / name).is_dir()]
            hint = "; it makes no key frames: later stages are trained with joins=[a model that has these]"
            hint += f", and {' or '.join(taken)} puts its checkpoint in the place of another model's" if taken else ""
        raise ValueError(f"{path}: missing keys {', '.join(missing)}{hint}")
    # In the index of a text model null says that a stage is left out, as a missing key does.
    left_out = [key for key in OPTIONAL if family != DRIVING and index.get(key) is None]
    check_facts(path, {key: fact for key, fact in index.items() if key not in left_out})
    return index


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder}: not a model folder, {INDEX} is missing")
    try:
        index = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(index, dict):
        raise ValueError(f"{path}: expected keys and values")
    return index


def sampling_of(index: dict[str, Any], key: str, kind: type[AnySampling]) -> AnySampling:
    """The sampling that stands in a model's index under `key`.

    Args:
        index: what `read_index` gives.
        key: such as predict_sampling.
        kind: its fields are the valid keys.

    Raises:
        ValueError: unknown keys, an unknown sampler, or numbers that sample nothing.
    """
    place, stored = f"model {index['name']!r}: {key} in {INDEX}", index[key]
    if not isinstance(stored, dict):
        raise ValueError(f"{place}: {stored!r}, expected keys and values")
    valid = [field.name for field in fields(kind)]
    unknown = sorted(set(stored) - set(valid))
    if unknown:
        raise ValueError(f"{place}: unknown keys {', '.join(unknown)}; valid: {', '.join(valid)}")
    samplers = [sampler.value for sampler in Sampler]
    if stored.get("sampler") not in samplers:
        raise ValueError(f"{place}: unknown sampler {stored.get('sampler')!r}; valid: {', '.join(samplers)}")
    try:
        return kind(**{**stored, "sampler": Sampler(stored["sampler"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def part_names(index: dict[str, Any]) -> tuple[str, ...]:
    """The parts that a model with this index consists of."""
    return (*REQUIRED, *(name for key, names in OPTIONAL.items() if key in index for name in names))


def load_parts(folder: Path, names: Iterable[str] = REQUIRED, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The parts of a model folder by name, in evaluation mode.

    Raises:
        ValueError: as `judged_parts`, or weights that are not finite; says which.
    """
    names = list(names)
    judged_parts(folder, names)
    return {name: _load_part(folder, name, dtype) for name in names}


def blank_parts(folder: Path, names: Iterable[str] = REQUIRED) -> dict[str, Any]:
    """The parts of a model folder by name, without weights: on the meta device, where they take no memory.

    Raises:
        ValueError: a part that is missing or not of its class; says which.
    """
    parts = {}
    for name in names:
        part_class = _part_class(folder, name)
        if PARTS[name][2] is None:
            parts[name] = part_class.from_pretrained(folder / name, local_files_only=True)
            continue
        config = part_class.load_config(folder / name, local_files_only=True)
        try:
            with torch.device("meta"):
                parts[name] = part_class.from_config(config).eval()
        except (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError) as error:
            cause = " ".join(str(error).split())
            raise ValueError(f"{folder}: part {name!r}: its config makes no {part_class.__name__}: {cause}") from error
    return parts


def judged_parts(folder: Path, names: Iterable[str] = REQUIRED) -> dict[str, Any]:
    """As `blank_parts`, and the headers of the files that hold the weights have been read.

    Raises:
        ValueError: as `blank_parts`, or weights that are missing, a pickle, truncated or not those of the config.
    """
    parts = blank_parts(folder, names)
    for name, part in parts.items():
        weight_file = PARTS[name][2]
        if weight_file is not None:
            _check_weights(folder, name, folder / name / weight_file, network_shapes(part))
    return parts


def _part_class(folder: Path, name: str) -> Any:
    """The class of a stored part.

    Raises:
        ValueError: the part is missing, or of another class than a model's part of that name may be.
    """
    classes, config_file, _ = PARTS[name]
    part = folder / name
    if not (part / config_file).is_file():
        raise ValueError(f"{folder}: part {name!r} is missing ({name}/{config_file} not found)")
    try:
        stored = json.loads((part / config_file).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}: part {name!r}: {config_file} is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{folder}: part {name!r}: {config_file} holds no keys and values")
    stored_class = stored.get("_class_name", classes[0].__name__)
    by_name = {part_class.__name__: part_class for part_class in classes}
    if stored_class not in by_name:
        raise ValueError(f"{folder}: part {name!r} is a {stored_class}, expected {' or '.join(by_name)}")
    return by_name[stored_class]


def _load_part(folder: Path, name: str, dtype: torch.dtype) -> Any:
    part_class = _part_class(folder, name)
    part, weight_file = folder / name, PARTS[name][2]
    if weight_file is None:
        return part_class.from_pretrained(part, local_files_only=True)
    place = f"{folder}: part {name!r}"
    try:
        model, info = part_class.from_pretrained(
            part,
            torch_dtype=dtype,
            local_files_only=True,
            low_cpu_mem_usage=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if is_out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).strip().splitlines()]
        cause = " ".join(lines[:2])  # torch's first line says that something is wrong, the second one what
        raise ValueError(f"{place}: weights and config do not belong together: {cause}") from error
    # diffusers fills missing tensors with random numbers and only logs it
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            found = f"{len(info[what])} {what.replace('_', ' ')}, the first is {sorted(map(str, info[what]))[0]}"
            raise ValueError(f"{place}: weights and config do not belong together: {found}")
    check_numbers(model.state_dict(), place)
    return model.eval()


def _check_weights(folder: Path, name: str, path: Path, wanted: Shapes) -> None:
    place = f"{folder}: part {name!r}"
    if not path.is_file():
        pickles = sorted(p.name for pattern in PICKLES for p in path.parent.glob(pattern))
        if pickles:
            raise ValueError(f"{place} holds the pickle {pickles[0]}; only safetensors are loaded")
        raise ValueError(f"{place} is missing its weights ({name}/{path.name})")
    found = {name_today(tensor): shape for tensor, shape in stored_shapes(path, place).items()}
    check_shapes(found, wanted, place)


def save_parts(folder: Path, parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Writes parts into a model folder, their weights in `dtype`."""
    for name, part in parts.items():
        if isinstance(part, ModelMixin):
            kept = part.dtype
            set_weight_type(part, dtype)
            part.save_pretrained(folder / name)
            set_weight_type(part, kept)
        else:
            part.save_pretrained(folder / name)
        _clean(folder / name, PARTS[name])


def _clean(part: Path, files: tuple[tuple[Any, ...], str, str | None]) -> None:
    """Makes a saved part the same wherever it came from, and readable for everyone who may read the folder."""
    _, config_file, weight_file = files
    config = json.loads((part / config_file).read_text())
    config.pop("_name_or_path", None)  # the folder that it was loaded from
    (part / config_file).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if weight_file is not None:
        (part / weight_file).chmod((part / config_file).stat().st_mode)  # safetensors writes 0600


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Writes the model's own facts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def fingerprint(folder: Path, names: Iterable[str] = REQUIRED) -> str:
    """sha256 over the weights and configs of some parts; two equal models have equal fingerprints."""
    digest = hashlib.sha256()
    for name in sorted(names):
        _, config_file, weight_file = PARTS[name]
        for file in (config_file, weight_file):
            if file is not None:
                digest.update(f"{name}/{file}".encode())
                feed(digest, folder / name / file)
    return digest.hexdigest()
