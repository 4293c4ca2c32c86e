"""What a training writes: caches, checkpoints and weights."""

from __future__ import annotations

import math

from torch import nn

from drivesim.core.wording import number_of
from drivesim.families.folder import PARTS
from drivesim.models.autoencoder import downsampling
from drivesim.planning.demand import Demand
from drivesim.planning.plan import DiskRow
from drivesim.planning.training_data import KnownData
from drivesim.planning.training_demand import FindRecipe, makes_class_pictures
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.dreambooth import AT_ONCE, ClassPictures
from drivesim.train.folders import Parts, weight_type
from drivesim.train.recipes import RECIPES, trained_parts
from drivesim.train.text_folders import CHECKPOINT_PARTS, TextFolders

_CACHE = "cache_dir"  # key of the folder of caches
_CHECKPOINTS = 3  # the last one, the newest numbered one, and the one that is being written


def training_disk(
    config: TrainConfig, demand: Demand, parts: Parts, data: KnownData, find_recipe: FindRecipe
) -> list[DiskRow]:
    """Bytes of a training run.

    Args:
        config: the stage and its settings.
        demand: what was counted of it.
        parts: what `blank_stage_parts` gives.
        data: what is known of them; where they are not there yet, the caches of an hour of video, or of one picture.
        find_recipe: the recipe that writes a model folder.
    """
    rows = _caches(config, parts, data)
    if makes_class_pictures(config, parts):
        pictures: ClassPictures = parts["class_pictures"]
        num = AT_ONCE * -(-pictures.config.num_class_pictures // AT_ONCE)
        value = num * math.prod(pictures.shape) * 4
        note = f"{number_of(num, 'picture')}, float32"
        rows.append(DiskRow(name="latents of class pictures", value=value, note=note, key=_CACHE))
    kept = sum(demand.resident[name] for name in ("trained weights", "averaged weights", "optimizer state"))
    rows.append(DiskRow(name="checkpoints", value=_CHECKPOINTS * kept, note=f"up to {_CHECKPOINTS}, float32"))
    names = _exported(config, parts, find_recipe)
    exported = sum(part.num_parameters for part in demand.parts if part.name in names)
    note = f"{config.weights}, one file of LoRA weights" if names == {"lora"} else config.weights
    return [*rows, DiskRow(name="exported weights", value=exported * weight_type(config).itemsize, note=note)]


def _caches(config: TrainConfig, parts: Parts, data: KnownData) -> list[DiskRow]:
    what, unknown = ("pictures", "a picture") if data.are_pictures else ("frames", "an hour of video")
    if data.num_cached is None:
        num, note = 1 if data.are_pictures else 3600 * config.cache_fps, unknown
    else:
        num, note = data.num_cached, f"{data.num_cached:,} {what}"
    recipe, (height, width) = RECIPES[StageName(config.stage)], config.size_hw
    pixels = num * height * width * recipe.scale(config) ** 2
    rows = [DiskRow(name=f"cache of {what}", value=pixels * 3, note=note, key=_CACHE)]
    if not recipe.learns_from_pictures:
        autoencoder = parts["autoencoder"]
        cells = (height // downsampling(autoencoder)) * (width // downsampling(autoencoder))
        latent_bytes = autoencoder.config.latent_channels * cells * 2
        rows.append(DiskRow(name="cache of latents", value=num * latent_bytes, note=f"{note}, float16", key=_CACHE))
    return rows


def _exported(config: TrainConfig, parts: Parts, find_recipe: FindRecipe) -> set[str]:
    """Networks of a stage that its model folder will hold: LoRA weights go alone, and a teacher stays behind."""
    if "lora" in parts:
        return {"lora"}
    networks = {name for name, part in parts.items() if isinstance(part, nn.Module)}
    networks &= {*PARTS, *CHECKPOINT_PARTS}
    folders = RECIPES[StageName(config.stage)].folders
    if not isinstance(folders, TextFolders) or networks & {*CHECKPOINT_PARTS} & {*trained_parts(config)}:
        return networks
    assert config.init is not None
    # A bare checkpoint that stays as it is is named in the model's index, and not copied.
    is_bare = find_recipe(config.init) is None and folders.checkpoint_source(config.init) == config.init
    return networks - {*CHECKPOINT_PARTS} if is_bare else networks
