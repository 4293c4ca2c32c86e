"""The command line: drivesim COMMAND key=value ...; Hydra composes, this module puts the parts together."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from drivesim.config import (
    COMMANDS,
    HYDRA_ERRORS,
    PLANNED,
    DesignCommand,
    EvaluateCommand,
    PrepareCommand,
    RolloutCommand,
    ToytownData,
    choices_of,
    conf_dir,
    config_name,
    experiment_that_writes,
    explain,
    recipe_that_writes,
    register,
    to_typed,
    untyped,
)
from drivesim.core.arguments import compare_key
from drivesim.core.field_comments import field_comments
from drivesim.core.files import nearest_folder, write_json
from drivesim.core.machine import is_out_of_memory
from drivesim.core.run_folder import IDENTITY_FILE, record_run, versions
from drivesim.core.terminal import Counter
from drivesim.core.wording import number_of
from drivesim.core.yaml_fields import nearest
from drivesim.data import ClipSource, make_source
from drivesim.planning.advice import what_fits
from drivesim.rollout.text import TextRolloutCommand

GO_ON = ("prepare", "train", "rollout", "evaluate")  # commands that keep what was done when they are stopped
CLAIMING = ("train", "rollout")  # commands that check by themselves whose run a folder holds
ADDING = (*CLAIMING, "design", "plan")  # commands that may write into a folder that holds a run
_HELP = {"--help", "-h"}
_GROUPS = {  # by the config file that they belong to
    "prepare": ("data", "export"),
    "train": ("experiment", "data"),
    "design": ("sampler",),
    "rollout": ("family", "pool", "sampler", "motion", "preset"),
    "evaluate": ("protocol", "pool", "claims"),
}
_FLAGS = {  # Hydra's own
    "--cfg", "--config-dir", "--config-name", "--experimental-rerun", "--hydra-help", "--info", "--multirun",
    "--package", "--resolve", "--run", "--shell-completion",
}  # fmt: skip
Record = Callable[..., None]  # writes config and origin into the run folder


def main() -> None:
    """Runs one command. Exit code 0: done; 1: some of it failed; 2: a mistake in what was asked; 130: stopped."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if "--version" in arguments[:2]:
        print(f"drivesim {versions()['drivesim']}")
        return
    command, overrides = arguments[0], arguments[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if command not in COMMANDS:
            guess = nearest(command, COMMANDS)
            hint = f", did you mean '{guess}'?" if guess else ""
            raise ValueError(f"unknown command '{command}'{hint}; valid: {', '.join(COMMANDS)}")
        _compose_and_run(command, compare_key(overrides) if command == "evaluate" else overrides)
    except KeyboardInterrupt:
        after = "the same command with the same out=FOLDER goes on" if command in GO_ON else f"{command} starts over"
        _fail(f"stopped; {after}", 130)
    except (ValueError, OSError, ArithmeticError) as error:
        if wants_traceback:
            raise
        _fail(str(error), 2 if isinstance(error, (ValueError, FileNotFoundError)) else 1)


def _fail(message: str, code: int) -> None:
    print(f"drivesim: {message}", file=sys.stderr)
    raise SystemExit(code)


def _overview() -> str:
    commands = "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())
    return (
        f"drivesim COMMAND key=value ...\n\n{commands}\n\n"
        "drivesim COMMAND --help lists a command's keys; --cfg job prints the config that would run; -m runs\n"
        "once for each of several values (seed=1,2,3)."
    )


def _help(command: str, overrides: Sequence[str]) -> str:
    """All keys of a command, as they stand after the overrides, with what they are."""
    if command == "plan" and not overrides:
        choices = " and ".join(f"drivesim plan {planned} --help" for planned in PLANNED)
        return f"drivesim plan {'|'.join(PLANNED)} key=value ...: {COMMANDS['plan']}\n\n{choices} list the keys."
    name, _ = config_name(command, overrides)
    chosen = [f"  {group}: {', '.join(choices_of(group))}" for group in _GROUPS[name]]
    lines = [
        f"drivesim {command} key=value ...: {COMMANDS[command]}", "", *_explained(untyped(command, overrides)), "",
        "Groups, as in group=choice:", *chosen, "",
        "--cfg job prints the config and stops; -m runs once for each of several values (seed=1,2,3).",
    ]  # fmt: skip
    return "\n".join(lines)


def _explained(node: DictConfig, indent: str = "") -> Iterator[str]:
    """A line a key: its value, and the comment that stands behind it where it is declared."""
    schema = OmegaConf.get_type(node)
    comments = field_comments(schema) if dataclasses.is_dataclass(schema) else {}
    for key in map(str, node):
        inner = "???" if OmegaConf.is_missing(node, key) else node[key]
        value = "" if isinstance(inner, DictConfig) else f" {_as_yaml(inner)}"
        line = f"{indent}{key}:{value}"
        comment = re.sub(r"\bNone\b", "null", comments.get(key, ""))
        yield f"{line:38}  # {comment}" if comment else line
        if isinstance(inner, DictConfig):
            yield from _explained(inner, indent + "  ")


def _as_yaml(value: Any) -> str:
    plain = OmegaConf.to_container(value, enum_to_str=True) if OmegaConf.is_config(value) else value
    plain = plain.name if isinstance(plain, Enum) else plain
    return yaml.safe_dump(plain, default_flow_style=True, width=math.inf).removesuffix("\n").removesuffix("\n...")


def _compose_and_run(command: str, overrides: Sequence[str]) -> None:
    """Hands over to Hydra, which calls back with the composed config: once, or for each job of -m."""
    typed = overrides
    _check_flags(overrides)
    if _HELP & set(overrides):
        print(_help(command, [argument for argument in overrides if argument not in _HELP]))
        return
    name, overrides = config_name(command, typed)
    register(command, name)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("drivesim").setLevel(logging.INFO)
    # Hydra reads flags only before the first key=value.
    flags = [argument for argument in overrides if argument in ("-m", "--multirun")]
    sys.argv[1:] = flags + [argument for argument in overrides if argument not in flags]
    errors: list[Exception] = []
    failed_jobs: list[int] = []

    def job(config: DictConfig) -> None:
        sys.argv[1:] = [command, *typed]  # Lightning starts the other processes of a training by it
        try:
            _run(command, config, typed)
        except (Exception, SystemExit) as error:
            hydra_config = HydraConfig.get()
            if hydra_config.mode == RunMode.MULTIRUN:  # the jobs that follow do not depend on this one
                failed_jobs.append(hydra_config.job.num)
                print(f"drivesim: job {hydra_config.job.num} ({hydra_config.job.override_dirname}): {error}",
                      file=sys.stderr)  # fmt: skip
                return
            if isinstance(error, SystemExit):
                raise
            errors.append(error)
            # Hydra would print its own lines about an Exception; it lets SystemExit pass.
            raise SystemExit(1) from error

    try:
        with _errors_as_they_are():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
    except SystemExit:
        if errors:
            raise errors[0] from None
        raise
    except HYDRA_ERRORS as error:
        raise ValueError(explain(error, overrides)) from error
    if failed_jobs:
        _fail(f"{number_of(len(failed_jobs), 'job')} failed: {', '.join(map(str, failed_jobs))}", 1)


@contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Hydra raises its errors instead of printing them in its own form."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def _check_flags(arguments: Sequence[str]) -> None:
    """Refuses keys that are written as flags, which Hydra answers with its own usage."""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag not in _FLAGS | _HELP:
            key, value = flag.lstrip("-").replace("-", "_"), value if equals else "..."
            raise ValueError(f"unknown flag '{flag}'; keys are given without dashes: {key}={value}")


def _run(command: str, composed: DictConfig, overrides: Sequence[str]) -> None:
    config = to_typed(composed)
    out = _out_folder(command, config.out)
    if command not in ADDING and (out / IDENTITY_FILE).exists():
        raise ValueError(f"out={out} holds a training or a rollout, whose record would be lost; choose another")
    _check_place(out)
    plain: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    record = partial(record_run, out, plain, ["drivesim", command, *overrides])
    runners: dict[str, Callable[[Any, Path, Record], None]] = {
        "prepare": _prepare,
        "train": _train,
        "design": _design,
        "rollout": _rollout,
        "evaluate": _evaluate,
        "plan": _plan,
    }
    try:
        runners[command](config, out, record)
    except (MemoryError, RuntimeError) as error:
        if command not in CLAIMING or not is_out_of_memory(error):
            raise
        raise OSError(f"out of memory: {error}\n{what_fits(command, overrides, str(error))}") from error


def _out_folder(command: str, wanted: str | None) -> Path:
    """The run's folder; each job of a multirun gets its own below it."""
    hydra_config = HydraConfig.get()
    is_sweep = hydra_config.mode == RunMode.MULTIRUN
    folder = wanted or (hydra_config.sweep.dir if is_sweep else f"runs/{command}/{time.strftime('%Y%m%d-%H%M%S')}")
    sys.argv += [] if wanted else [f"out={folder}"]  # Lightning starts other processes by it, maybe a second later
    return Path(folder) / str(hydra_config.job.num) if is_sweep else Path(folder)


def _check_place(out: Path) -> None:
    """Raises ValueError for a folder that cannot be made or written into."""
    place, folder = nearest_folder(out), out.absolute()
    in_the_way = [part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()]
    if in_the_way or not os.access(place, os.W_OK):
        cause = f"{in_the_way[0]} is a file" if in_the_way else f"{place} may not be written into"
        raise ValueError(f"out={out} cannot be made there: {cause}; choose another folder")


def _plan(config: Any, out: Path, record: Record) -> None:
    from drivesim.planning.command import plan_command

    plan = plan_command(config, recipe_that_writes, out)
    write_json(out / "plan.json", plan.to_json())
    print(plan.text(), f"plan: {out / 'plan.json'}", sep="\n")


def _source(data: Any) -> ClipSource:
    """The source of clips; toytown is written first where it is not there yet."""
    if isinstance(data, ToytownData):
        from drivesim.toytown import write_nuscenes

        write_nuscenes(data.town, data.root, Counter("toytown scene"), data.num_workers)
    return make_source(data)


def _prepare(config: PrepareCommand, out: Path, record: Record) -> None:
    from drivesim.data.export import export_videos
    from drivesim.data.export_scenes import export_scenes
    from drivesim.data.prepare import prepare

    record()
    source = _source(config.data)
    print(prepare(source, out, config.prepare).text())
    if config.export is not None:
        num_videos = 0
        for drive, problem in export_videos(source, config.export, out / "videos"):
            num_videos += problem is None
            if problem is not None:
                print(f"no video of {drive}: {problem}")
        print(f"{number_of(num_videos, 'video')} of split {config.export.split}: {out / 'videos'}")
        if config.export.scenes_every_s is not None:
            for scene, problem in export_scenes(source, config.export, out / "scenes"):
                if problem is not None:
                    print(f"no scene {scene}: {problem}")
            print(f"scenes: {out / 'scenes'}")
    print(f"index and report: {out}")


def _train(config: Any, out: Path, record: Record) -> None:
    from drivesim.data.source import problems_line
    from drivesim.train.fit import fit
    from drivesim.train.initial_parts import check_sources, judge_parts
    from drivesim.train.quiet import quiet_lightning

    typed = HydraConfig.get().overrides.task
    if not any(key.startswith(("experiment=", "stage=", "data", "autoencoder")) for key in typed):
        raise ValueError(
            "train what? experiment=FAMILY/STAGE names a recipe (--help lists them), or give a stage=STAGE"
        )
    quiet_lightning()
    config.trainer.check_machine(config.out)
    check_sources(config, experiment_that_writes)
    if isinstance(config.data, ToytownData):
        judge_parts(config)  # as `fit` does, but before anything is drawn for it
    source = _source(config.data)

    def begin() -> None:
        record()
        if (said := problems_line(source)) is not None:  # opens the videos, which the training asks for anyway
            print(said, file=sys.stderr)

    print(f"model: {fit(config, source, out, begin)}")


def _design(config: DesignCommand, out: Path, record: Record) -> None:
    from drivesim.rollout_command import design_command

    design_command(config, out, record)


def _rollout(config: RolloutCommand | TextRolloutCommand, out: Path, record: Record) -> None:
    from drivesim.rollout_command import rollout_command

    rollout_command(config, out, record)


def _evaluate(config: EvaluateCommand, out: Path, record: Record) -> None:
    from drivesim.evaluate_command import CommandLine, evaluate_command
    from drivesim.rollout_command import show_progress

    line = CommandLine(
        overrides=list(HydraConfig.get().overrides.task),
        make_source=_source,
        on_progress=show_progress,
    )
    evaluate_command(config, out, record, line)


if __name__ == "__main__":
    main()
