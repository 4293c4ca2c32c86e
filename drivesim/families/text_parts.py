"""Folders of text-to-video models: their index, and their parts, those of public checkpoints included.

Beside the index, a folder holds `image/` and perhaps `upscaler/` as diffusers keeps them, and the parts that a video
needs. Everything but the image model and its temporal layers may be missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from drivesim.conditioning.rate_label import RateLabel
from drivesim.core.run_folder import trained_in
from drivesim.diffusion.settings import KeyFrameSamplingConfig, Sampler, TextSamplingConfig
from drivesim.families.folder import (
    INDEX,
    blank_parts,
    find_lora,
    find_model,
    judged_parts,
    load_parts,
    read_index,
    sampling_of,
)
from drivesim.families.text_sources import Sources
from drivesim.models.autoencoder import keep_from_overflow
from drivesim.models.hub import find_source
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import JudgedTextToImage, TextSide, TextToImage, judge_text_to_image, part_folder
from drivesim.models.video_decoder import VideoDecoder

_log = logging.getLogger(__name__)
FAMILY = "text"
# How stages are sampled by a model that says nothing of it, as preset=fast. Guidance as in the paper (Table 8).
SAMPLINGS: dict[str, TextSamplingConfig] = {
    "key_frames": KeyFrameSamplingConfig(sampler=Sampler.DPM_SOLVER, steps=18, guidance=8.0),
    "interpolate": TextSamplingConfig(sampler=Sampler.DPM_SOLVER, steps=10, guidance=13.0),
    "upscale": TextSamplingConfig(sampler=Sampler.DPM_SOLVER, steps=10, guidance=2.0),
}
Found = TypeVar("Found", TextToImage, JudgedTextToImage)
_INTERPOLATION = ("interpolation_unet", "interpolation", "rate_label")


@dataclass(kw_only=True, slots=True)
class TextParts:
    """The parts of a text-to-video model."""

    image: TextToImage
    base_text: TextSide  # whose tokenizer and text encoder the temporal layers were trained with
    own_scheduler: Any  # of the model's own image model, with which the interpolation was trained
    temporal: TemporalStack
    interpolation_unet: UNet2DConditionModel | None = None
    interpolation: TemporalStack | None = None
    rate_label: RateLabel | None = None
    video_decoder: VideoDecoder | None = None
    upscaler: TextToImage | None = None
    upscaler_temporal: TemporalStack | None = None

    def networks(self) -> dict[str, nn.Module]:
        """All networks, each once, by name."""
        found: dict[str, nn.Module] = {}
        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, TextToImage | TextSide):
                names = ("unet", "vae", "text_encoder") if isinstance(part, TextToImage) else ("text_encoder",)
                found |= {f"{field.name}/{name}": getattr(part, name) for name in names}
            elif isinstance(part, nn.Module):
                found[field.name] = part
        seen: set[int] = set()
        return {name: net for name, net in found.items() if not (id(net) in seen or seen.add(id(net)))}  # type: ignore[func-returns-value]

    def of_stages(self) -> dict[str, list[nn.Module]]:
        """The networks that each stage runs, the text encoders of what it is told included."""
        image, base, upscaler = self.image, self.base_text.text_encoder, self.upscaler
        upscaling = (upscaler.unet, upscaler.vae, upscaler.text_encoder) if upscaler is not None else ()
        stages = {
            "pictures": (image.vae,),
            "predict": (image.unet, self.temporal, image.text_encoder, base),
            "interpolate": (self.interpolation_unet, self.interpolation, self.rate_label, base),
            "decode": (self.video_decoder,),
            "upsample": (*upscaling, self.upscaler_temporal),
        }
        return {stage: [net for net in networks if net is not None] for stage, networks in stages.items()}

    def keep_from_overflow(self) -> None:
        """Leaves autoencoders in float32 that overflow in float16."""
        for checkpoint in filter(None, (self.image, self.upscaler)):
            keep_from_overflow(checkpoint.vae)

    def to(self, device: str | torch.device) -> None:
        """Moves all networks."""
        for network in self.networks().values():
            network.to(device)

    def fingerprint(self) -> str:
        """sha256 over weights, configs and vocabularies, wherever they came from."""
        digest = hashlib.sha256()
        for name, network in sorted(self.networks().items()):
            digest.update(f"{name}|{_plain(network.config)}".encode())
            for key, tensor in network.state_dict().items():
                digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        for part in (self.image, self.base_text, self.upscaler):
            if part is not None:
                digest.update(json.dumps(part.tokenizer.get_vocab(), sort_keys=True).encode())
                digest.update(f"{_plain(part.scheduler.config)}|{part.tokenizer.model_max_length}".encode())
        digest.update(_plain(self.own_scheduler.config).encode())
        return digest.hexdigest()


def _plain(config: Any) -> str:
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return json.dumps({k: v for k, v in values.items() if not k.startswith("_")}, sort_keys=True, default=str)


def read_text_index(folder: Path) -> dict[str, Any]:
    """The facts of a text-to-video model.

    Raises:
        ValueError: no index, one that cannot be read, or that of another family.
    """
    return read_index(folder, family=FAMILY)


def sampling_of_stage(index: dict[str, Any], stage: str) -> TextSamplingConfig:
    """How a model samples a stage: its own way, or `SAMPLINGS`.

    Raises:
        ValueError: as `families.folder.sampling_of`.
    """
    own = index.get("samplings", {})
    unknown = sorted(set(own) - set(SAMPLINGS))
    if unknown:
        raise ValueError(
            f"model {index['name']!r}: samplings in {INDEX}: unknown stages {', '.join(unknown)}; valid: "
            f"{', '.join(SAMPLINGS)}"
        )
    if stage not in own:
        return replace(SAMPLINGS[stage])
    return sampling_of({"name": index["name"], stage: own[stage]}, stage, type(SAMPLINGS[stage]))


@dataclass(kw_only=True, slots=True)
class JudgedTextParts:
    """All parts of a model, judged by configs and files' headers before gigabytes are read."""

    blank: TextParts  # networks without weights
    read: Callable[[], TextParts]  # all parts, in evaluation mode


def judge_text_parts(
    folder: Path, index: dict[str, Any], sources: Sources, dtype: torch.dtype = torch.float32
) -> JudgedTextParts:
    """All parts of a model, ready to be read.

    Args:
        folder: the model's.
        index: what `read_text_index` gives, without the keys of stages that are left out.
        sources: checkpoints that take the place of its own.
        dtype: of the weights.

    Raises:
        ValueError: a part that is missing, or cannot be used; says which.
        FileNotFoundError: a checkpoint that is not there.
    """
    judge = partial(judge_text_to_image, dtype=dtype)
    image = _judged_image(folder, index, sources, judge)
    base, own = _sides(folder, index, sources, image, judge)
    source, names = _upscaler_source(folder, index, sources), _own_parts(folder, index)
    upscaler = None if source is None else judge(source)
    sides = (base.blank.text_side, own.blank.text_side)
    blank_upscaler = None if upscaler is None else upscaler.blank
    blank = _joined(image.blank, sides, blank_upscaler, judged_parts(folder, names))

    def read() -> TextParts:
        read_image = image.read()
        read_own = read_image.text_side if own is image else own.read_text_side()
        sides = (read_own if base is own else base.read_text_side(), read_own)
        read_upscaler = None if upscaler is None else upscaler.read()
        return _joined(read_image, sides, read_upscaler, load_parts(folder, names, dtype=dtype))

    return JudgedTextParts(blank=blank, read=read)


def _judged_image(
    folder: Path, index: dict[str, Any], sources: Sources, judge: Callable[..., JudgedTextToImage]
) -> JudgedTextToImage:
    """The image model; what a checkpoint in its place lacks is the model's own.

    A single file takes configs of its kind where they can be had: they say more than those of another checkpoint.
    """
    source, base = _image_source(folder, index, sources), _base_of_image(folder, index, sources)
    judge = partial(judge, source, loras=[find_lora(lora) for lora in sources.lora])
    if base is None or not Path(source).expanduser().is_file():
        return judge(base=base)
    try:
        return judge()
    except FileNotFoundError:
        _log.warning("%s is a single file: configs, tokenizer and scheduler of %s are taken", source, base)
        return judge(base=base)


def blank_text_parts(folder: Path, index: dict[str, Any], sources: Sources) -> TextParts:
    """All parts without weights, which need not be there, on the meta device; of diffusers' folders alone."""

    def blank(source: str, base: Path | None = None) -> TextToImage:
        return blank_checkpoint(find_source(source), base)

    image = blank(_image_source(folder, index, sources), _base_of_image(folder, index, sources))
    base, own = _sides(folder, index, sources, image, blank)
    source = _upscaler_source(folder, index, sources)
    upscaler = None if source is None else blank(source)
    parts = blank_parts(folder, _own_parts(folder, index))
    return _joined(image, (base.text_side, own.text_side), upscaler, parts)


def _sides(
    folder: Path, index: dict[str, Any], sources: Sources, image: Found, load: Callable[[str], Found]
) -> tuple[Found, Found]:
    """Who tells the temporal layers the prompt, and the image model that they were trained with."""
    own_source = _own_source(folder, index) if sources.image or sources.lora else None
    own = image if own_source is None else load(own_source)
    return (own if sources.base_text is None else load(checkpoint_source(sources.base_text, "image"))), own


def _joined(
    image: TextToImage,
    sides: tuple[TextSide, TextSide],
    upscaler: TextToImage | None,
    parts: dict[str, Any],
) -> TextParts:
    base_text, own = sides
    made = TextParts(image=image, base_text=base_text, own_scheduler=own.scheduler, upscaler=upscaler, **parts)
    made.keep_from_overflow()
    for network in made.networks().values():
        network.eval().requires_grad_(False)
    return made


def kept_stages(folder: Path, index: dict[str, Any]) -> set[str]:
    """What a model has beside key frames, of interpolation ("rates"), "video_decoder", "upscaler", "upscaler_temporal".

    A part is there where its folder is, or where the index names it, and the index does not say that it is left out
    (None).
    """
    stages = {name for name in ("video_decoder", "upscaler", "upscaler_temporal") if (folder / name).is_dir()}
    stages |= {name for name in ("upscaler", "rates") if index.get(name)}
    return {name for name in stages if index.get(name, "") is not None}


def _image_source(folder: Path, index: dict[str, Any], sources: Sources) -> str:
    """The image model's checkpoint: one in place of the model's own, or its own."""
    return _source(folder, index, "image") if sources.image is None else checkpoint_source(sources.image, "image")


def _base_of_image(folder: Path, index: dict[str, Any], sources: Sources) -> Path | None:
    """The diffusers folder with what a checkpoint in the place of the model's own lacks: that of the model's own."""
    own = None if sources.image is None else _own_source(folder, index)
    found = None if own is None else find_source(own)
    return found if found is not None and found.is_dir() else None


def _upscaler_source(folder: Path, index: dict[str, Any], sources: Sources) -> str | None:
    """The upscaler's checkpoint; None = the model has none, or it is left out."""
    if "upscaler" in kept_stages(folder, index):
        given = sources.upscaler
        return _source(folder, index, "upscaler") if given is None else checkpoint_source(given, "upscaler")
    if sources.upscaler is not None:
        raise ValueError(
            f"model {index['name']!r}: upscaler={sources.upscaler} has no upscaler to take the place of: the model has "
            "none, or stages.upsampling=NONE leaves it out"
        )
    return None


def _own_parts(folder: Path, index: dict[str, Any]) -> list[str]:
    stages = kept_stages(folder, index)
    names = ["temporal", *(_INTERPOLATION if "rates" in stages else ())]
    if "upscaler" not in stages:
        stages -= {"upscaler_temporal"}
    return names + sorted(stages - {"rates", "upscaler"})


def text_model_folder(source: str) -> Path | None:
    """The folder of a model of this family; None = something else, such as a bare checkpoint.

    Raises:
        ValueError: an index that cannot be read.
    """
    try:
        folder = find_model(Path(source).expanduser())
    except ValueError:  # a hub id, or an original file
        return None
    if not (folder / INDEX).is_file():
        return None
    try:
        index = json.loads((folder / INDEX).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / INDEX} cannot be read: {error}") from error
    return folder if isinstance(index, dict) and index.get("family") == FAMILY else None


def checkpoint_source(source: str, name: str) -> str:
    """A checkpoint that a person names: the one in a model or run folder of ours, or itself."""
    folder = text_model_folder(source)
    if folder is None:
        bare = Path(source).expanduser()
        model = trained_in(bare)
        return source if model == bare else str(model)  # as it was said: an index names it so
    return _source(folder, json.loads((folder / INDEX).read_text()), name)


def _source(folder: Path, index: dict[str, Any], name: str) -> str:
    """The checkpoint of a model's own: what its index names, as a path beside it, another path or a hub id."""
    found = index.get(name)
    place = folder / (found if isinstance(found, str) else name)
    if place.exists() or not isinstance(found, str):
        return str(place)
    return found


def _own_source(folder: Path, index: dict[str, Any]) -> str | None:
    """The checkpoint that the temporal layers were trained with; None = the model does not have it."""
    source = _source(folder, index, "image")
    return source if isinstance(index.get("image"), str) or Path(source).exists() else None


def blank_checkpoint(source: Path, base: Path | None = None) -> TextToImage:
    """The parts of a checkpoint without weights: networks on the meta device.

    Args:
        source: a diffusers folder, or, where there is a base, a single file of the same kind.
        base: the diffusers folder of what `source` lacks; None = it lacks nothing.

    Raises:
        ValueError: a single file without a base, or a part that is missing.
    """
    if base is None and not source.is_dir():
        raise ValueError(f"{source}: planned is what lies in diffusers' form; give a folder instead of a single file")

    def of(name: str) -> Path:
        return part_folder(source, base, name)

    missing = [name for name in ("vae", "unet", "text_encoder") if not (of(name) / "config.json").is_file()]
    if missing:
        raise ValueError(f"{source}: part {missing[0]!r} is missing ({missing[0]}/config.json not found)")
    low_res = of("low_res_scheduler")
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(of("unet"))),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(of("vae"))),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(of("text_encoder"))),
        }
    return TextToImage(
        **networks,
        tokenizer=CLIPTokenizer.from_pretrained(of("tokenizer"), local_files_only=True),
        scheduler=DDIMScheduler.from_pretrained(of("scheduler"), local_files_only=True),
        low_res_scheduler=DDIMScheduler.from_pretrained(low_res) if low_res.is_dir() else None,
    )
