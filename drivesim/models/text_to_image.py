"""Public text-to-image checkpoints as they come: Stable Diffusion 1.x, 2.x and the x4 upscaler, in each format."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from drivesim.core.files import read_json, write_json
from drivesim.models.hub import find_source
from drivesim.models.lora import check_lora, fuse_lora
from drivesim.models.original_checkpoint import BlankTextEncoder, OriginalCheckpoint
from drivesim.models.stored_weights import (
    JudgedPart,
    check_shapes,
    find_weights,
    name_today,
    network_shapes,
    read_config,
    read_tensors,
    stored_shapes,
)

_log = logging.getLogger(__name__)
LOW_RES_COLOURS = 3
_PIPELINES = {False: "StableDiffusionPipeline", True: "StableDiffusionUpscalePipeline"}


@dataclass(kw_only=True, slots=True)
class TextSide:
    """What of a checkpoint tells layers a prompt, and the scheduler that they were trained with."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Any


@dataclass(kw_only=True, slots=True)
class TextToImage:
    """The parts of a text-to-image checkpoint, in evaluation mode; names are those of diffusers' folders."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Any  # of the class that the checkpoint names; its config says whether the target is e or v
    low_res_scheduler: Any = None  # noise of the low-resolution pictures; None = no upscaler

    @property
    def text_side(self) -> TextSide:
        """Its tokenizer, text encoder and scheduler."""
        return TextSide(text_encoder=self.text_encoder, tokenizer=self.tokenizer, scheduler=self.scheduler)

    @property
    def is_upscaler(self) -> bool:
        """Whether the U-Net sees a low-resolution picture beside its latents, and is told that picture's noise."""
        return self.low_res_scheduler is not None

    def check(self, place: str) -> None:
        """Raises ValueError where the parts are those of another architecture, saying what was found and is needed."""
        net = self.unet.config
        wanted = net.out_channels + (LOW_RES_COLOURS if self.is_upscaler else 0)
        facts = [
            ("the U-Net's in_channels", net.in_channels, wanted),
            ("the autoencoder's latent_channels", self.vae.config.latent_channels, net.out_channels),
            ("the text encoder's hidden_size", self.text_encoder.config.hidden_size, net.cross_attention_dim),
            ("the U-Net's addition_embed_type", net.addition_embed_type, None),
            ("the U-Net's time_cond_proj_dim", net.time_cond_proj_dim, None),
            ("the U-Net tells a noise level", bool(net.num_class_embeds or net.class_embed_type), self.is_upscaler),
        ]
        for name, found, needed in facts:
            if found != needed:
                kind = "the x4 upscaler" if self.is_upscaler else "Stable Diffusion 1.x or 2.x"
                raise ValueError(f"{place}: not the architecture of {kind}: {name} is {found}, needed is {needed}")


@dataclass(kw_only=True, slots=True)
class JudgedTextToImage:
    """A checkpoint that has been judged by its configs and its files' headers; its weights are not read yet."""

    blank: TextToImage  # networks without weights
    networks: dict[str, JudgedPart]
    loras: Sequence[str | Path]

    def read(self) -> TextToImage:
        """The parts with their weights, LoRA fused."""
        read = replace(self.blank, **{name: part.read() for name, part in self.networks.items()})
        for lora in self.loras:
            fuse_lora(lora, read.unet, read.text_encoder)
        return read

    def read_text_side(self) -> TextSide:
        """The text side; reads no weights other than the text encoder's."""
        return replace(self.blank.text_side, text_encoder=self.networks["text_encoder"].read())


def load_text_to_image(
    source: str | Path,
    *,
    base: str | Path | None = None,
    loras: Sequence[str | Path] = (),
    dtype: torch.dtype = torch.float32,
) -> TextToImage:
    """The parts of a checkpoint; arguments and errors as of `judge_text_to_image`."""
    return judge_text_to_image(source, base=base, loras=loras, dtype=dtype).read()


def judge_text_to_image(
    source: str | Path,
    *,
    base: str | Path | None = None,
    loras: Sequence[str | Path] = (),
    dtype: torch.dtype = torch.float32,
) -> JudgedTextToImage:
    """A checkpoint, ready to be read once all of it has been judged.

    Args:
        source: a diffusers folder (a DreamBooth training's, too), a hub id, or an original single file (safetensors).
        base: a diffusers folder or hub id for what `source` lacks. A single file lacks configs, tokenizer and
            scheduler; a DreamBooth checkpoint may hold the U-Net alone. None = for a single file NAME.safetensors the
            folder NAME beside it where there is one, else the hub id of its kind; for a folder nothing.
        loras: files or folders of LoRA weights, fused in this order; `PATH@0.7` fuses 0.7 of one.
        dtype: of all weights.

    Raises:
        ValueError: a part is missing, a pickle, truncated, or of another architecture; says what was found and what is
            needed.
        FileNotFoundError: nothing is there by that name, or the hub cannot be reached.
    """
    found = find_source(source)
    if found.is_file():
        small, judged = _in_original(OriginalCheckpoint.open(found, base), dtype)
    else:
        small, judged = _in_folder(found, None if base is None else find_source(base), dtype)
    blank = TextToImage(**small, **{name: part.network for name, part in judged.items()})
    blank.check(str(source))
    if not blank.is_upscaler:
        _correct_old_schedule(blank.scheduler)
    for lora in loras:
        check_lora(lora, blank.unet, blank.text_encoder)
    return JudgedTextToImage(blank=blank, networks=judged, loras=loras)


def save_text_to_image(parts: TextToImage, folder: str | Path) -> None:
    """Writes a diffusers folder that this module and diffusers' pipelines load."""
    folder = Path(folder)
    index: dict[str, Any] = {"_class_name": _PIPELINES[parts.is_upscaler], "_diffusers_version": diffusers.__version__}
    for field in fields(parts):
        part = getattr(parts, field.name)
        if part is None:
            continue
        part.save_pretrained(folder / field.name)
        _forget_where_it_lay(folder / field.name / "config.json")
        library = "transformers" if field.name in ("text_encoder", "tokenizer") else "diffusers"
        index[field.name] = [library, type(part).__name__]
        for weights in (folder / field.name).glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes 0600
    if not parts.is_upscaler:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", index)


def _forget_where_it_lay(path: Path) -> None:
    """diffusers and transformers write down the folder that a part was loaded from."""
    if path.is_file():
        write_json(path, {key: value for key, value in read_json(path).items() if key != "_name_or_path"})


_BESIDE_UNET = ("tokenizer", "text_encoder", "vae", "scheduler")
_PIPELINE = "StableDiffusion"  # what the names of its pipelines begin with

# The parts that are no networks, and those that are: all of them are judged before gigabytes are read.
_Parts = tuple[dict[str, Any], dict[str, JudgedPart]]


def part_folder(source: Path, base: Path | None, name: str) -> Path:
    """Where a part of a checkpoint lies: in its folder, or, where that lacks it, in `base`. The U-Net is its own."""
    own = source / name
    is_own = base is None or own.is_dir() or (name == "unet" and source.is_dir())
    return own if is_own else base / name  # type: ignore[operator]  # is_own where there is no base


def _in_folder(source: Path, base: Path | None, dtype: torch.dtype) -> _Parts:
    def of(name: str) -> Path:
        return part_folder(source, base, name)

    _check_pipeline(source)
    found = (
        _small_parts(of),
        {
            "text_encoder": _judged_text_encoder(of("text_encoder"), dtype),
            "vae": _judged_network(AutoencoderKL, of("vae"), dtype),
            "unet": _judged_network(UNet2DConditionModel, of("unet"), dtype),
        },
    )
    lacking = [name for name in _BESIDE_UNET if of(name).parent != source]
    if lacking:
        _log.warning("%s holds no %s: %s's are taken", source, ", ".join(lacking), base)
    return found


def _check_pipeline(folder: Path) -> None:
    """Raises ValueError for a folder whose index names another family of pipelines; one may have no index."""
    path = folder / "model_index.json"
    pipeline = str(read_json(path).get("_class_name", _PIPELINE)) if path.is_file() else _PIPELINE
    if not pipeline.startswith(_PIPELINE):
        raise ValueError(
            f"{folder}: not the architecture of Stable Diffusion 1.x or 2.x: its pipeline is {pipeline}, needed is "
            f"{_PIPELINE}Pipeline or {_PIPELINE}UpscalePipeline"
        )


def _in_original(file: OriginalCheckpoint, dtype: torch.dtype) -> _Parts:
    small, target = _small_parts(lambda name: file.base / name), file.prediction_type()
    if target is not None:
        small["scheduler"].register_to_config(prediction_type=target)
    return small, {"text_encoder": file.text_encoder(dtype), "vae": file.vae(dtype), "unet": file.unet(dtype)}


def _small_parts(folder_of: Callable[[str], Path]) -> dict[str, Any]:
    low_res = folder_of("low_res_scheduler")
    return {
        "tokenizer": _load_tokenizer(folder_of("tokenizer")),
        "scheduler": _load_scheduler(folder_of("scheduler")),
        "low_res_scheduler": _load_scheduler(low_res) if low_res.is_dir() else None,
    }


def _correct_old_schedule(scheduler: Any) -> None:
    """Two settings that old checkpoints have wrong, as diffusers' own pipeline corrects them for its pictures.

    Of samplers that have no such setting as well: made into DDIM they would get its own, which clips latents.
    """
    right = {"steps_offset": 1, "clip_sample": False}
    wrong = [name for name, value in right.items() if scheduler.config.get(name) != value]
    scheduler.register_to_config(**{name: right[name] for name in wrong})


def _judged_network(network_class: Any, folder: Path, dtype: torch.dtype) -> JudgedPart:
    """A network of diffusers, after its config and its file's header."""
    place = f"{folder.parent}: part {folder.name!r}"
    config = read_config(folder / "config.json", place)
    _check_class(config.get("_class_name"), network_class, place)
    path = find_weights(folder, "diffusion_pytorch_model", place)
    stored = stored_shapes(path, place)
    with torch.device("meta"):
        network = network_class.from_config(config)
    check_shapes({name_today(name): shape for name, shape in stored.items()}, network_shapes(network), place)

    def read() -> Any:
        tensors = {name_today(name): tensor for name, tensor in read_tensors(path, stored, dtype).items()}
        network.load_state_dict(tensors, assign=True)
        return network.eval()

    return JudgedPart(network=network, read=read)


def _judged_text_encoder(folder: Path, dtype: torch.dtype) -> JudgedPart:
    place = f"{folder.parent}: part {folder.name!r}"
    config = read_config(folder / "config.json", place)
    _check_class((config.get("architectures") or [None])[0], CLIPTextModel, place)
    path = find_weights(folder, "model", place)
    stored = stored_shapes(path, place)
    blank = BlankTextEncoder(config)
    blank.check(stored, place)
    return JudgedPart(network=blank.network, read=lambda: blank.filled(read_tensors(path, stored, dtype), dtype))


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    if not folder.is_dir():
        raise ValueError(f"{folder.parent}: part {folder.name!r} is missing ({folder} not found)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(f"{folder.parent}: part {folder.name!r} holds neither tokenizer.json nor vocab.json")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _load_scheduler(folder: Path) -> Any:
    place = f"{folder.parent}: part {folder.name!r}"
    config = read_config(folder / "scheduler_config.json", place)
    scheduler_class: Any = getattr(diffusers, str(config.get("_class_name")), None)
    is_scheduler = inspect.isclass(scheduler_class) and issubclass(scheduler_class, SchedulerMixin)
    if not is_scheduler:
        raise ValueError(f"{place} is a {config.get('_class_name')}, expected a scheduler of diffusers, such as DDIM's")
    return scheduler_class.from_config(config)


def _check_class(found: Any, wanted: type, place: str) -> None:
    if found is not None and found != wanted.__name__:
        raise ValueError(f"{place} is a {found}, expected {wanted.__name__}")
