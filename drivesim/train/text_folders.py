"""Model folders of the text family, as training reads and writes them.

Parts have the names of the driving family where they are the same thing: `autoencoder` is diffusers' vae, `backbone`
its unet. An `init` may also be a bare text-to-image checkpoint: a diffusers folder, a hub id, or an original file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from drivesim.core.files import sha256_file
from drivesim.families.folder import (
    INDEX,
    PARTS,
    blank_parts,
    find_model,
    fingerprint,
    judged_parts,
    load_parts,
    save_parts,
    write_index,
)
from drivesim.families.text_parts import FAMILY, blank_checkpoint, checkpoint_source, text_model_folder
from drivesim.families.text_published import public_checkpoint
from drivesim.models.hub import find_source
from drivesim.models.stored_weights import set_weight_type
from drivesim.models.text_to_image import TextToImage, judge_text_to_image, load_text_to_image, save_text_to_image
from drivesim.train.config import TrainConfig
from drivesim.train.folders import DRIVING_FOLDERS, ModelFolders, Parts, weight_type

# Our name of a checkpoint's part -> diffusers'.
CHECKPOINT_PARTS = {
    "autoencoder": "vae",
    "backbone": "unet",
    "text_encoder": "text_encoder",
    "tokenizer": "tokenizer",
    "scheduler": "scheduler",
    "low_res_scheduler": "low_res_scheduler",
}
CHECKPOINTS = ("image", "upscaler")  # sub-folders that hold a whole text-to-image checkpoint
_ReadCheckpoint = Callable[[str], TextToImage]
_ReadParts = Callable[[Path, Iterable[str]], Parts]
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name


class TextFolders(ModelFolders):
    """Folders with an index of family text.

    Args:
        checkpoint: which of CHECKPOINTS the parts in CHECKPOINT_PARTS are of.
    """

    def __init__(self, checkpoint: str = "image"):
        self.checkpoint = checkpoint

    def check(self, config: TrainConfig, trained: Iterable[str]) -> None:
        """Raises ValueError where two of the folders hold different parts of one name, or different facts."""
        self._facts(config)
        sources = [folder for folder in map(text_model_folder, self._sources(config)) if folder is not None]
        for name in (*CHECKPOINTS, *PARTS):
            holders = [folder for folder in sources if (folder / name).is_dir()]
            if name in trained or len(holders) < 2:
                continue
            if len({_digest(folder / name) for folder in holders}) > 1:
                both = " and ".join(map(str, holders))
                raise ValueError(f"parts do not fit together: {both} hold different {name!r}")

    def check_outcome(self, config: TrainConfig, parts: Parts, trained: Iterable[str], index: dict[str, Any]) -> None:
        """Whole models of this family are judged when they are loaded, with the checkpoints given then."""

    def load(self, source: str, names: Iterable[str]) -> Parts:
        """See `ModelFolders`."""
        return self._parts(source, names, load_text_to_image, load_parts)

    def _parts(self, source: str, names: Iterable[str], checkpoint: _ReadCheckpoint, others: _ReadParts) -> Parts:
        wanted = list(names)
        parts: Parts = {}
        if any(name in CHECKPOINT_PARTS for name in wanted):
            found = checkpoint(self.checkpoint_source(source))
            parts = {name: getattr(found, theirs) for name, theirs in CHECKPOINT_PARTS.items() if name in wanted}
        rest = [name for name in wanted if name not in CHECKPOINT_PARTS]
        return parts | (others(find_model(source), rest) if rest else {})

    def blank(self, source: str, names: Iterable[str]) -> Parts:
        """See `ModelFolders`."""
        return self._parts(source, names, _blank, blank_parts)

    def judged(self, source: str, names: Iterable[str]) -> Parts:
        """See `ModelFolders`."""
        return self._parts(source, names, lambda path: judge_text_to_image(path).blank, judged_parts)

    def fingerprint(self, source: str, names: Iterable[str]) -> str:
        """See `ModelFolders`."""
        wanted = sorted(names)
        checkpoint = find_source(self.checkpoint_source(source))
        digest = hashlib.sha256()
        for name in wanted:
            if name not in CHECKPOINT_PARTS:
                digest.update(fingerprint(find_model(source), [name]).encode())
            elif checkpoint.is_dir():
                digest.update(_digest(checkpoint / CHECKPOINT_PARTS[name]).encode())
        if checkpoint.is_file():
            digest.update(sha256_file(checkpoint).encode())
        return digest.hexdigest()

    def checkpoint_source(self, source: str) -> str:
        """The text-to-image checkpoint of a model: its own sub-folder, the one that its index names, or `source`."""
        return checkpoint_source(source, self.checkpoint)

    def export(
        self, config: TrainConfig, made: Parts, trained: Iterable[str], index: dict[str, Any], folder: Path
    ) -> None:
        """See `ModelFolders`."""
        own = {name: part for name, part in made.items() if name in PARTS and name not in CHECKPOINT_PARTS}
        of_checkpoint = {name: part for name, part in made.items() if name in CHECKPOINT_PARTS}
        save_parts(folder, own, weight_type(config))
        if of_checkpoint:
            assert config.init is not None
            missing = [name for name in CHECKPOINT_PARTS if name not in of_checkpoint]
            save_checkpoint(self.load(config.init, missing) | of_checkpoint, folder / self.checkpoint, config)
        for source in filter(None, map(text_model_folder, self._sources(config))):
            for name in (*CHECKPOINTS, *PARTS):
                if (source / name).is_dir() and name not in trained and not (folder / name).exists():
                    shutil.copytree(source / name, folder / name)
        write_index(folder, self._index(config, index, folder))

    def _sources(self, config: TrainConfig) -> list[str]:
        return [source for source in (config.init, *config.joins) if source is not None]

    def _facts(self, config: TrainConfig) -> dict[str, Any]:
        """The facts of all folders' indexes but the name; ValueError where two contradict each other."""
        facts: dict[str, Any] = {"samplings": {}}
        for folder in filter(None, map(text_model_folder, self._sources(config))):
            index = json.loads((folder / INDEX).read_text())
            index.pop("name", None)
            facts["samplings"] |= index.pop("samplings", {})
            for key, value in index.items():
                if facts.setdefault(key, value) != value:
                    raise ValueError(f"models do not fit together: {key} is {facts[key]} and, in {folder}, {value}")
        return facts

    def _index(self, config: TrainConfig, index: dict[str, Any], folder: Path) -> dict[str, Any]:
        """All facts of a model, given those of its last stage; a checkpoint that was not copied is named."""
        facts, own = self._facts(config), dict(index)
        facts["samplings"] |= own.pop("samplings", {})
        if "upscaling" in own and (folder / "upscaler").is_dir():  # else the key names the checkpoint
            facts["upscaler"] = own["upscaling"]
        if (folder / self.checkpoint).is_dir():
            if isinstance(facts.get(self.checkpoint), str):
                del facts[self.checkpoint]
        elif config.init is not None and text_model_folder(config.init) is None:
            facts[self.checkpoint] = config.init
        return {"family": FAMILY, "name": config.name} | facts | own


class TextBaseFolders(TextFolders):
    """For an image model or an upscaler from nothing: `init` is a driving model, whose autoencoder it takes."""

    def check(self, config: TrainConfig, trained: Iterable[str]) -> None:
        """Nothing is joined."""

    def load(self, source: str, names: Iterable[str]) -> Parts:
        """From the driving model, or, for a warm start, from a text model."""
        wanted = list(names)
        return DRIVING_FOLDERS.load(source, wanted) if wanted == ["autoencoder"] else super().load(source, wanted)

    def blank(self, source: str, names: Iterable[str]) -> Parts:
        """From the driving model."""
        return DRIVING_FOLDERS.blank(source, names)

    def judged(self, source: str, names: Iterable[str]) -> Parts:
        """From the driving model, or, for a warm start, from a text model."""
        wanted = list(names)
        return DRIVING_FOLDERS.judged(source, wanted) if wanted == ["autoencoder"] else super().judged(source, wanted)

    def fingerprint(self, source: str, names: Iterable[str]) -> str:
        """Of the driving model's autoencoder, or, for a warm start, of a text model's parts."""
        wanted = list(names)
        is_driving = wanted == ["autoencoder"]
        return DRIVING_FOLDERS.fingerprint(source, wanted) if is_driving else super().fingerprint(source, wanted)

    def export(
        self, config: TrainConfig, made: Parts, trained: Iterable[str], index: dict[str, Any], folder: Path
    ) -> None:
        """All parts were made."""
        save_checkpoint(made, folder / self.checkpoint, config)
        write_index(folder, {"family": FAMILY, "name": config.name} | index)


class TextStudentFolders(TextFolders):
    """For a student of an interpolation, which keeps its teacher's rates."""

    def check(self, config: TrainConfig, trained: Iterable[str]) -> None:
        """As above, and raises ValueError where clips would have other rates than the teacher's."""
        super().check(config, trained)
        said = config.text_interpolation.rates
        taught = self._facts(config).get("rates") or said  # a folder without an interpolation is refused elsewhere
        if taught != said:
            raise ValueError(
                f"text_interpolation.rates={said}: the interpolation of init={config.init} was trained at {taught}, "
                f"and so must be its student; cache_fps has to be {taught[-1]:g}, or a whole multiple"
            )


class SubjectFolders(TextFolders):
    """What DreamBooth leaves: a plain diffusers folder, or LoRA weights in diffusers' format."""

    def export(
        self, config: TrainConfig, made: Parts, trained: Iterable[str], index: dict[str, Any], folder: Path
    ) -> None:
        """Writes no index of ours: the folder is what a text model takes as `image` or `lora`."""
        if "lora" in made:
            names = {"backbone": "unet", "text_encoder": "text_encoder"}
            tensors = {k: t for part, theirs in names.items() for k, t in made["lora"][part].tensors(theirs).items()}
            path = folder / LORA_FILE
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.cpu().to(weight_type(config)) for name, tensor in tensors.items()}, path)
            path.chmod(folder.stat().st_mode & 0o666)
            return
        assert config.init is not None
        own = {name: part for name, part in made.items() if name in CHECKPOINT_PARTS}
        missing = [name for name in CHECKPOINT_PARTS if name not in own]
        save_checkpoint(self.load(config.init, missing) | own, folder, config)


def _blank(source: str) -> TextToImage:
    """A checkpoint without weights; a public one that cannot be had by its published sizes."""
    try:
        return blank_checkpoint(find_source(source, has_weights=False))
    except FileNotFoundError:
        published = public_checkpoint(source)
        if published is None:
            raise
        return published


def save_checkpoint(parts: Parts, folder: Path, config: TrainConfig) -> None:
    """Writes a diffusers folder, its weights in the configured type; files are readable for all who may read it."""
    named = {theirs: parts.get(name) for name, theirs in CHECKPOINT_PARTS.items()}
    kept = {name: part.dtype for name, part in named.items() if isinstance(part, nn.Module)}
    for name in kept:
        set_weight_type(named[name], weight_type(config))  # type: ignore[arg-type]
    save_text_to_image(TextToImage(**named), folder)
    for name, dtype in kept.items():
        set_weight_type(named[name], dtype)  # type: ignore[arg-type]
    for file in folder.rglob("*.safetensors"):  # safetensors writes 0600
        file.chmod((folder / "model_index.json").stat().st_mode)


def _digest(folder: Path) -> str:
    """sha256 over the files of a folder, by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + sha256_file(path).encode())
    return digest.hexdigest()
