"""Typed configs of all commands: Hydra composes conf/, dataclasses come out, and mistakes are named."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from drivesim.core.arguments import quoted_prose
from drivesim.core.motion import MotionConfig, MotionSegment
from drivesim.core.run_folder import MODEL_FOLDER
from drivesim.core.yaml_fields import nearest
from drivesim.data.captioned import CaptionedClipsConfig
from drivesim.data.export import ExportConfig
from drivesim.data.nuscenes import NuScenesConfig
from drivesim.data.pictures import PictureFolderConfig
from drivesim.data.prepare import PrepareConfig
from drivesim.data.videos import VideoFolderConfig
from drivesim.diffusion.settings import PredictionOverrides, SamplerOverrides
from drivesim.evaluate.obedience import ObedienceConfig
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.families.stages import StagesConfig
from drivesim.planning.hardware import PlanConfig
from drivesim.planning.text_rollout import PlanTextRolloutCommand
from drivesim.rollout.pools import PoolConfig
from drivesim.rollout.run import ModelRolloutConfig
from drivesim.rollout.text import TextRolloutCommand
from drivesim.sweep.settings import ClaimsConfig, ConditionUseConfig, SweepConfig
from drivesim.toytown.config import TownConfig

# What a person's mistakes raise, for `explain`; AssertionError is the answer to a key below a group without a choice.
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, AssertionError)


@dataclasses.dataclass(kw_only=True, slots=True)
class ToytownData(NuScenesConfig):
    """nuScenes tables that toytown writes into `root` when they are not there yet."""

    town: TownConfig = dataclasses.field(default_factory=TownConfig)  # what to write
    num_workers: int = 1  # processes that draw; the files are the same for any number


@dataclasses.dataclass(kw_only=True, slots=True)
class PrepareCommand:
    """What to index and how closely to look."""

    data: Any  # group data
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)  # how closely to look
    export: ExportConfig | None = None  # group export: also write drives as videos; None = no
    out: str | None = None  # folder of index, report and videos; None = runs/prepare/TIME


@dataclasses.dataclass(kw_only=True, slots=True)
class DesignCommand:
    """Start frames of a scene."""

    scene: str  # scene file, the name of a shipped scene, or a folder of folders with a scene.yaml each
    model: str = "toytown"  # name of a shipped model, or a model folder
    num_frames: int = 4  # start frames; they differ by their number in the key of the noise
    seed: int = 0  # everything random follows from it
    sampler: SamplerOverrides = dataclasses.field(default_factory=SamplerOverrides)  # group sampler
    weights: str = "float32"  # type of the networks' numbers: float32, bfloat16 or float16
    device: str = "cpu"  # torch device
    out: str | None = None  # folder of the frames; None = runs/design/TIME


@dataclasses.dataclass(kw_only=True, slots=True)
class RolloutCommand(ModelRolloutConfig):
    """Futures of a start frame."""

    start: str  # picture, video, scene file, or the name of a shipped scene
    start_s: float = 0.0  # of a video: the time of its start frame
    is_night: bool | None = None  # of a picture or video; None = unknown
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)  # group motion: how the ego car drives
    model: str = "toytown"  # name of a shipped model, or a model folder
    sampler: PredictionOverrides = dataclasses.field(default_factory=PredictionOverrides)  # group sampler
    stages: StagesConfig = dataclasses.field(default_factory=StagesConfig)  # which stages follow the prediction
    out: str | None = None  # run folder; None = runs/rollout/TIME

    def motions(self) -> list[tuple[MotionSegment, ...]]:
        """How futures are to drive: the first, the second, ... and the first again.

        Raises:
            ValueError: a name that no motion has, or of one without segments.
        """
        named = {name: to_typed(untyped("rollout", [f"motion={name}"]).motion) for name in self.motion.in_turn}
        if empty := [name for name, motion in named.items() if not motion.segments]:
            raise ValueError(f"motion.in_turn: motion '{empty[0]}' has no segments")
        return [tuple(named[name].segments) for name in self.motion.in_turn] or [tuple(self.motion.segments)]


@dataclasses.dataclass(kw_only=True, slots=True)
class EvaluateCommand(EvaluateConfig):
    """Videos or a sweep to score, claims to test, designed scenes to check, or two evaluations to compare."""

    generated: str | None = None  # folder of videos, one video, or folder of designed scenes
    real: str | None = None  # the same of real driving
    protocols: list[str] | None = None  # choices of the group protocol, scored from one decode; None = protocol alone
    obedience: ObedienceConfig = dataclasses.field(default_factory=ObedienceConfig)  # of designed scenes
    condition_use: ConditionUseConfig = dataclasses.field(default_factory=ConditionUseConfig)  # a model's inputs
    compare: list[str] | None = None  # instead of both: two folders of earlier evaluations
    force: bool = False  # compare evaluations whose cards differ
    sweep: SweepConfig = dataclasses.field(default_factory=SweepConfig)  # rollouts to make and score
    claims: ClaimsConfig | None = None  # group claims: the paper's claims, trained and scored
    pool: PoolConfig = dataclasses.field(default_factory=PoolConfig)  # group pool, of the rollouts of sweep and claims
    out: str | None = None  # folder of scores and report; None = runs/evaluate/TIME

    def sets(self) -> tuple[str, str]:
        """The generated and the real videos.

        Raises:
            ValueError: one is missing.
        """
        if self.generated is None or self.real is None:
            missing = [name for name in ("generated", "real") if getattr(self, name) is None]
            raise ValueError(f"no value for {', '.join(missing)}; give one as {missing[0]}=FOLDER, or compare='[A, B]'")
        return self.generated, self.real

    def real_of_sweep(self) -> str:
        """The real videos of a sweep.

        Raises:
            ValueError: there are none.
        """
        if self.real is None:
            raise ValueError("no value for real; a sweep is scored against real videos: real=FOLDER")
        return self.real


@functools.cache
def _train_command() -> type:
    """The config of `train`; made when asked for, because Lightning takes seconds to import."""
    from drivesim.train.config import TrainConfig

    @dataclasses.dataclass(kw_only=True, slots=True)
    class TrainCommand(TrainConfig):
        data: Any  # group data
        out: str | None = None  # folder of checkpoints, logs and the model; None = runs/train/TIME

    return TrainCommand


@dataclasses.dataclass(kw_only=True, slots=True)
class PlanRolloutCommand(RolloutCommand):
    """What a rollout will need."""

    start: str = "cut_in"  # as of a rollout; a scene's start frame has to be designed
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)  # hardware to plan for


@functools.cache
def _plan_train_command() -> type:
    """The config of `plan train`."""

    @dataclasses.dataclass(kw_only=True, slots=True)
    class PlanTrainCommand(_train_command()):  # type: ignore[misc]
        plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)  # hardware to plan for

    return PlanTrainCommand


# What `drivesim --help` says of each command.
COMMANDS = {
    "prepare": "index a data set and print what is wrong with it",
    "train": "train one stage of a model; experiment=FAMILY/STAGE names a recipe",
    "design": "make start frames from a scene file, with the boxes drawn over a copy",
    "rollout": "make several futures of one start frame, as videos",
    "evaluate": "score generated videos against real ones, with a report",
    "plan": "parameters, memory, disk and time that `train KEYS` or `rollout KEYS` will need: write plan in front",
}
PLANNED = ("train", "rollout")  # commands that can be planned

_COMMAND_SCHEMAS: dict[str, type] = {"prepare": PrepareCommand, "design": DesignCommand, "evaluate": EvaluateCommand}

# Schemas that group files begin with, such as conf/data/videos.yaml.
_SCHEMAS: dict[str, type] = {
    "nuscenes": NuScenesConfig,
    "toytown": ToytownData,
    "videos": VideoFolderConfig,
    "captioned": CaptionedClipsConfig,
    "pictures": PictureFolderConfig,
    "export": ExportConfig,
    "pool": PoolConfig,
    "protocol": ProtocolConfig,
    "claims": ClaimsConfig,
}


def config_name(command: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The file in conf/ that a command is composed from, and the overrides: a plan is of the command that it names.

    Raises:
        ValueError: a plan of a command that cannot be planned.
    """
    arguments = [quoted_prose(argument) for argument in arguments]
    if command != "plan":
        return command, arguments
    if not arguments or arguments[0] not in PLANNED:
        raise ValueError(f"plan {arguments[0] if arguments else ''}: plan what? valid: {', '.join(PLANNED)}")
    return arguments[0], arguments[1:]


def register(command: str, name: str) -> None:
    """Makes the schemas of a command and its config file known to Hydra; may be called again."""
    store = ConfigStore.instance()
    is_plan = command == "plan"
    if name == "train":
        schemas = {name: _plan_train_command() if is_plan else _train_command()}
    elif name == "rollout":  # one a family, which the group of that name chooses
        schemas = {
            "rollout_driving": PlanRolloutCommand if is_plan else RolloutCommand,
            "rollout_text": PlanTextRolloutCommand if is_plan else TextRolloutCommand,
        }
    else:
        schemas = {name: _COMMAND_SCHEMAS[name]}
    for place, node in {**_SCHEMAS, **schemas}.items():
        store.store(group="schema", name=place, node=node)


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


def scene_paths(name: str) -> list[Path]:
    """A scene file, one that ships with drivesim by its name, or all `scene.yaml` below a folder.

    Raises:
        ValueError: there is none; names those that ship.
    """
    shipped = {path.stem: path for path in sorted((conf_dir() / "scenes").glob("*.yaml"))}
    if Path(name).is_file():
        return [Path(name)]
    if Path(name).is_dir() and (found := sorted(Path(name).rglob("scene.yaml"))):
        return found
    if name not in shipped:
        raise ValueError(f"no scene file {name}; shipped scenes: {', '.join(shipped)}")
    return [shipped[name]]


def compose(command: str, overrides: Sequence[str] = ()) -> Any:
    """The typed config of a command, as the command line would make it.

    Raises:
        ValueError: a mistake in the overrides; names the key and the valid choices.
    """
    return untyped(command, overrides, to_typed)


def untyped(command: str, overrides: Sequence[str] = (), then: Callable[[DictConfig], Any] = lambda node: node) -> Any:
    """The same as Hydra composes it, whose keys may lack their values, or what `then` makes of it."""
    name, overrides = config_name(command, overrides)
    register(command, name)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        try:
            return then(hydra.compose(config_name=name, overrides=list(overrides)))
        except HYDRA_ERRORS as error:
            raise ValueError(explain(error, overrides)) from error


def experiment_that_writes(model_folder: str) -> str | None:
    """The shipped recipe whose run folder that is, or the model's in it; None = there is none."""
    for experiment in choices_of("experiment"):
        values = yaml.safe_load((conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
        if "out" in values and Path(model_folder) in (Path(values["out"]), Path(values["out"]) / MODEL_FOLDER):
            return experiment
    return None


def recipe_that_writes(model_folder: str) -> Any | None:
    """The config of that recipe; None = there is none."""
    experiment = experiment_that_writes(model_folder)
    return None if experiment is None else compose("train", [f"experiment={experiment}"])


def to_typed(config: DictConfig) -> Any:
    """Dataclasses of a composed config; the one place where OmegaConf ends.

    Raises:
        ValueError: a key without a value, or one that the schema lacks.
    """
    for place, key, valid in _unknown_keys(config):  # `+key=value` slips past Hydra's own check
        raise ValueError(_unknown_key(place, key, valid))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}; give one as {missing[0]}=VALUE")
    return _with_tuples(OmegaConf.to_object(config))


def explain(error: BaseException, overrides: Sequence[str]) -> str:
    """A readable line for one of HYDRA_ERRORS: the key, the nearest valid one, the choices."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        choices = sorted({*choices_of(group), *(error.options or [])})
        return f"unknown {group} '{choice}'{_hint(choice, choices)}; valid: {', '.join(choices) or 'none'}"
    if isinstance(cause, ValidationError):
        enum = re.search(r"'(.*)', expected one of \[(.*)\]", line := str(cause).splitlines()[0])  # in capitals
        return f"{cause.full_key}: {line}{_hint(enum[1].upper(), enum[2].split(', ')) if enum else ''}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        place, _, key = str(cause.full_key or cause.key).rpartition(".")
        node = cause.parent_node
        found = _unknown_key(place, key, [str(k) for k in node if k != "hydra"] if isinstance(node, DictConfig) else [])
        is_of_text = not place and key in TextRolloutCommand.__dataclass_fields__
        return f"{found}; '{key}' is a key of rollout family=text" if is_of_text else found
    if str(error).startswith("Could not override 'preset'"):
        return "preset is a group of rollout family=text alone; add family=text"
    given = " ".join(overrides)
    if isinstance(error, AssertionError):
        return f"a key of a group that has no choice yet, in '{given}'; choose one first, as in export=videos"
    hint = "values with blanks, brackets, '=' or accents need quotes, such as 'start=\"photo (1).jpg\"'"
    if "Ambiguous value" in str(error):
        hint = "-m runs once for each of several values"
    return f"cannot read '{given}': {str(error).splitlines()[0]}; {hint}" if given else str(error)


def choices_of(group: str) -> list[str]:
    """The shipped choices of a group, those in sub-folders included."""
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _unknown_key(place: str, key: str, valid: Sequence[str]) -> str:
    where, name = (f" in {place}", f"{place}.{key}") if place else ("", key)
    return f"unknown key '{name}'{_hint(key, valid)}; valid{where}: {', '.join(valid)}"


def _hint(word: str, choices: Iterable[str]) -> str:
    return f", did you mean '{found}'?" if (found := nearest(word, choices)) else ""


def _unknown_keys(config: DictConfig, place: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Where a key stands that its schema lacks, the key, and the schema's keys."""
    schema = OmegaConf.get_type(config)
    valid = [field.name for field in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else None
    for key in map(str, config):
        if valid is not None and key not in valid:
            yield place, key, valid
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from _unknown_keys(config[key], f"{place}.{key}" if place else key)


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
        wanted = typing.get_args(tuples[0])
        if len(wanted) != len(found) and Ellipsis not in wanted:
            raise ValueError(f"{field.name}: {len(found)} values, expected {len(wanted)}")
        setattr(value, field.name, tuple(found))
    return value
