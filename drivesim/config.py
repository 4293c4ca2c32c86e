"""Typed configs of all commands: Hydra composes conf/, dataclasses come out, and mistakes are named."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from drivesim.core.yaml_fields import nearest
from drivesim.data import NuScenesConfig, VideoFolderConfig
from drivesim.diffusion.schedule import SamplingConfig
from drivesim.toytown.config import TownConfig


@dataclasses.dataclass(kw_only=True, slots=True)
class ToytownData(NuScenesConfig):
    """nuScenes tables that toytown writes into `root` when they are not there yet."""

    town: TownConfig = dataclasses.field(default_factory=TownConfig)  # what to write


@dataclasses.dataclass(kw_only=True, slots=True)
class PrepareCommand:
    """Indexes a data set and prints what is wrong with it."""

    data: Any  # group data
    out: str | None = None  # folder of the report; None = runs/prepare/TIME


@dataclasses.dataclass(kw_only=True, slots=True)
class DesignCommand:
    """Makes start frames from a scene file, with the boxes drawn over a copy."""

    scene: str  # scene file, or the name of a shipped scene
    model: str = "toytown"  # name of a shipped model, or a folder
    num_frames: int = 4  # start frames to make; they differ by seed alone
    seed: int = 0  # everything random follows from it
    sampler: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)  # group sampler
    device: str = "cpu"  # torch device
    out: str | None = None  # folder of the frames; None = runs/design/TIME


COMMANDS: dict[str, type] = {
    "prepare": PrepareCommand,
    "design": DesignCommand,
}

# Schemas that group files begin with, such as conf/data/videos.yaml.
_SCHEMAS: dict[str, type] = {
    "nuscenes": NuScenesConfig,
    "toytown": ToytownData,
    "videos": VideoFolderConfig,
    "sampling": SamplingConfig,
}


def register() -> None:
    """Makes the schemas known to Hydra; may be called again."""
    store = ConfigStore.instance()
    for name, schema in {**COMMANDS, **_SCHEMAS}.items():
        store.store(group="schema", name=name, node=schema)


def conf_dir() -> Path:
    """The folder of shipped configs: inside the installed package, or beside it in a clone.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    try:
        found = Path(str(files("drivesim.conf")))
    except ModuleNotFoundError:
        found = Path(__file__).resolve().parents[1] / "conf"
    if not (found / "quiet.yaml").is_file():
        raise FileNotFoundError(f"{found}: drivesim's configs are not there; the installation is broken")
    return found


def compose(command: str, overrides: Sequence[str] = ()) -> Any:
    """The typed config of a command, as the command line would make it.

    Raises:
        ValueError: a mistake in the overrides; names the key and the valid choices.
    """
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        try:
            return to_typed(hydra.compose(config_name=command, overrides=list(overrides)))
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(explain(error, overrides)) from error


def to_typed(config: DictConfig) -> Any:
    """Dataclasses of a composed config; the one place where OmegaConf ends.

    Raises:
        ValueError: a key without a value, or one that the schema lacks.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}; give one as {missing[0]}=VALUE")
    try:
        typed = OmegaConf.to_object(config)
    except AttributeError as error:
        # `+key=value` slips past Hydra's check; the dataclass's slots refuse it here.
        key = str(error).rsplit("'", 2)[-2]
        raise ValueError(f"unknown key '{key}'{_hint(key, _all_keys(config))}") from error
    return _with_tuples(typed)


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """A readable line for an error of Hydra or OmegaConf: the key, the nearest valid one, the choices."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        choices = list(error.options or [])
        return f"unknown {group or 'command'} '{choice}'{_hint(choice, choices)}; valid: {', '.join(choices) or 'none'}"
    if isinstance(cause, ValidationError):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        key = str(cause.full_key or cause.key)
        parent, _, name = key.rpartition(".")
        parent_node = cause.parent_node if isinstance(cause.parent_node, DictConfig) else {}
        siblings = [str(sibling) for sibling in parent_node if sibling != "hydra"]
        place = f" in {parent}" if parent else ""
        return f"unknown key '{key}'{_hint(name, siblings)}; valid{place}: {', '.join(siblings)}"
    given = " ".join(overrides)
    return f"cannot read '{given}': {str(error).splitlines()[0]}" if given else str(error)


def _hint(word: str, choices: Iterable[str]) -> str:
    found = nearest(word, choices)
    return f", did you mean '{found}'?" if found else ""


def _all_keys(config: DictConfig) -> list[str]:
    """Names of all keys that the schemas know, at any depth."""
    schema = OmegaConf.get_type(config)
    known = {field.name for field in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else set(config)
    keys = [str(key) for key in config if key in known]
    below = [config[key] for key in keys if isinstance(config[key], DictConfig)]
    return keys + [key for child in below for key in _all_keys(child)]


def _with_tuples(value: Any) -> Any:
    """Gives fields declared as tuples their tuples back; OmegaConf makes lists of them."""
    if isinstance(value, list):
        return [_with_tuples(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        tuples = [kind for kind in kinds if typing.get_origin(kind) is tuple]
        if not (tuples and isinstance(found, list)):
            setattr(value, field.name, _with_tuples(found))
            continue
        length = len(typing.get_args(tuples[0]))
        if length != len(found) and Ellipsis not in typing.get_args(tuples[0]):
            raise ValueError(f"{field.name}: {len(found)} values, expected {length}")
        setattr(value, field.name, tuple(found))
    return value
