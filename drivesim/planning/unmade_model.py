"""A model that recipes write and that is not there yet, without weights: what they make, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from drivesim.core.files import read_json
from drivesim.families.folder import INDEX, PARTS, REQUIRED_FACTS, blank_parts, find_model
from drivesim.planning.training_demand import FindRecipe
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.initial_parts import with_fresh_parts
from drivesim.train.recipes import RECIPES, made_parts


@dataclass(kw_only=True, slots=True)
class UnmadeModel:
    """Parts on the meta device by name, and what settings say in the index of the model's folder."""

    parts: Parts = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)


def unmade_model(config: TrainConfig, find_recipe: FindRecipe) -> UnmadeModel:
    """The model that a recipe of the driving family leaves, with all that comes from `init` and `joins`.

    Args:
        config: the recipe.
        find_recipe: the recipe behind an `init` or a joined model that is not there yet.

    Raises:
        ValueError: a model that is neither there nor written by a recipe, or parts that do not fit.
    """
    stage, made = StageName(config.stage), UnmadeModel()
    if stage.is_text:
        raise ValueError(f"a model of stage {stage.value} that is not there yet; plan family=text model=published")
    for source in (config.init, *config.joins):
        if source is not None:
            before = _known_model(source, find_recipe)
            made.parts |= before.parts
            made.index |= before.index
    recipe = RECIPES[stage]
    missing = sorted(set(recipe.needs) - set(made.parts))
    if missing:
        raise ValueError(f"init={config.init}: part {missing[0]!r} is missing, which stage {stage.value} needs")
    with torch.device("meta"):
        parts = with_fresh_parts(config, {name: made.parts[name] for name in recipe.needs})
    made.parts |= made_parts(config, parts)
    made.index |= recipe.index(config) | {"name": config.name}
    return made


def check_whole(made: UnmadeModel, model: str) -> None:
    """Raises ValueError for a model that could not roll out, such as one of the first stages; `model` names it."""
    missing = sorted(set(REQUIRED_FACTS) - set(made.index))
    if missing:
        raise ValueError(
            f"model={model} is not there yet, and the recipe that writes it makes no whole driving model: missing "
            f"{', '.join(missing)}; plan the model of a later stage"
        )


def _known_model(source: str, find_recipe: FindRecipe) -> UnmadeModel:
    recipe = None if Path(source).is_dir() else find_recipe(source)
    if recipe is not None:
        return unmade_model(recipe, find_recipe)
    folder = find_model(source)
    names = [name for name in PARTS if (folder / name).is_dir()]
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}  # an autoencoder alone has none
    return UnmadeModel(parts=blank_parts(folder, names), index=index)
