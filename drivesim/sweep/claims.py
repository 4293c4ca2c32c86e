"""The paper's claims as one sweep: arms are trained and measured over seeds; whatever is finished is not done again.

A unit is one arm's model with one seed, measured once, however many claims it stands in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivesim.core.files import append_row, read_json, read_rows, write_json
from drivesim.core.run_folder import MODEL_FOLDER
from drivesim.data import ClipSource
from drivesim.evaluate.protocol import library_versions
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.families.folder import PARTS, find_model, fingerprint
from drivesim.rollout.pools import PoolConfig
from drivesim.sweep.settings import ArmConfig, ClaimConfig, ClaimsConfig, Measure

if TYPE_CHECKING:
    from drivesim.train.config import TrainConfig

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class ClaimRow:
    """One measured number; a line of results.jsonl."""

    claim: str
    arm: str
    seed: int
    metric: str  # lower is nearer to real video
    value: float
    steps: int  # of the training
    train_s: float  # of this process on the CPU, in the training's last start: other work on the machine does not count
    measure_s: float  # of this process on the CPU, in the measurement


@dataclass(kw_only=True, slots=True)
class ClaimInputs:
    """What the claims are handed beside their own settings."""

    settings: EvaluateConfig  # protocol and controls
    pool: PoolConfig  # who makes the rollouts
    compose_training: Callable[[Sequence[str]], Any]  # overrides -> the typed config of `drivesim train`
    make_source: Callable[[Any], ClipSource]  # of such a config's data


@dataclass(kw_only=True, slots=True)
class Claims:
    """What was measured, and what could not be."""

    rows: list[ClaimRow] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)  # claim -> why


def run_claims(config: ClaimsConfig, inputs: ClaimInputs, out: Path) -> Claims:
    """Trains and measures what `out` does not hold yet.

    `out` gets a run folder a training and seed (`trainings/`), a folder a measured unit (`units/`), and `units.jsonl`.

    Raises:
        FileNotFoundError: data that are not there.
        ValueError: no such model, or a training that its overrides do not make.
    """
    found = Claims()
    runner = _Runner(config, inputs, out)
    for claim in config.claims:
        if config.only and claim.name not in config.only:
            continue
        missing = runner.missing_parts(claim)
        if missing:
            found.not_run[claim.name] = f"model {config.model} has no part {', '.join(missing)}"
            continue
        for seed in config.seeds:  # seeds outside: a stopped sweep has whole pairs
            for arm in claim.arms:
                found.rows += runner.rows(claim, arm, seed)
    return found


class _Runner:
    """Runs units one after the other; those of several claims are run once."""

    def __init__(self, config: ClaimsConfig, inputs: ClaimInputs, out: Path) -> None:
        self.config, self.inputs, self.out = config, inputs, out
        self.model = find_model(config.model)
        self.trainings = {training.name: training for training in config.trainings}
        self._sources: dict[str, ClipSource] = {}  # by the settings of their data
        self.log = out / "units.jsonl"
        self.held = {row["unit"]: row for row in read_rows(self.log) if {"unit", "identity", "values"} <= set(row)}

    def missing_parts(self, claim: ClaimConfig) -> list[str]:
        """Parts of `model` that the claim's trainings begin with and that are not there."""
        needed = {part for arm in claim.arms for part in self._parts_of_init(self._composed(arm.training, 0, Path()))}
        return sorted(part for part in needed if not (self.model / part).is_dir())

    def rows(self, claim: ClaimConfig, arm: ArmConfig, seed: int) -> list[ClaimRow]:
        """The rows of one arm with one seed, from a finished unit or a new one."""
        trained, steps, train_s = self._trained(arm.training, seed)
        settings = {"guidance": arm.guidance, "parts_off": sorted(arm.parts_off)}
        guidance = [] if arm.guidance is None else [f"guidance{arm.guidance:g}"]
        without = [f"without_{part}" for part in sorted(arm.parts_off)]
        name = "_".join([Measure(claim.measure).value, arm.training, *guidance, *without, f"seed{seed}"])
        identity = self._identity(claim, settings, arm, trained, seed)
        unit = self.held.get(name)
        if unit is None or unit["identity"] != identity:
            _log.warning("measuring %s", name)
            began = time.process_time()
            values = self._measured(claim, arm, trained, seed, self.out / "units" / name)
            unit = {"unit": name, "identity": identity, "values": values, "measure_s": time.process_time() - began}
            append_row(self.log, unit)
            self.held[name] = unit
        return [
            ClaimRow(
                claim=claim.name, arm=arm.name, seed=seed, metric=metric, value=value, steps=steps,
                train_s=round(train_s, 1), measure_s=round(unit["measure_s"], 1),
            )
            for metric, value in unit["values"].items()
        ]  # fmt: skip

    def _composed(self, training: str, seed: int, init: Path) -> Any:
        """The typed config of a training."""
        wanted = self.trainings[training]
        warm = [f"warm_start='{self.model}'"] if wanted.warm_start else []
        own = [f"seed={seed}", f"init='{init}'", f"out='{self._run(training, seed)}'"]
        return self.inputs.compose_training([*wanted.overrides, *warm, *own, *self.config.train])

    def _run(self, training: str, seed: int) -> Path:
        return self.out / "trainings" / f"{training}_seed{seed}"

    def _parts_of_init(self, config: TrainConfig) -> tuple[str, ...]:
        """The parts that a training begins with, and those that it warms up with."""
        from drivesim.train.recipes import RECIPES, trained_parts  # here: Lightning takes seconds to import

        warm = trained_parts(config) if config.warm_start is not None else ()
        return tuple(dict.fromkeys([*RECIPES[config.stage].needs, *warm]))

    def _trained(self, training: str, seed: int) -> tuple[Path, int, float]:
        """The model folder of a training and seed, its steps and its CPU time; trained unless that was done."""
        from drivesim.train.fit import fit
        from drivesim.train.recipes import RECIPES

        run = self._run(training, seed)
        init = self.out / "init" / training
        config = self._composed(training, seed, init)
        _copy_parts(self.model, RECIPES[config.stage].needs, init)
        done_file = run / "done.json"
        settings = {name: value for name, value in asdict(config).items() if name not in ("out", "init", "warm_start")}
        begun_with = {"settings": settings, "from": fingerprint(self.model, self._parts_of_init(config))}
        begun_with["data"] = self._source(config).fingerprint
        identity = hashlib.sha256(json.dumps(begun_with, sort_keys=True, default=str).encode()).hexdigest()
        done = read_json(done_file) if done_file.is_file() else {}
        if done.get("identity") != identity:
            _log.warning("training %s, seed %d", training, seed)
            began = time.process_time()
            fit(config, self._source(config), run)
            done = {"identity": identity, "train_s": time.process_time() - began}
            write_json(done_file, done)
        return run / MODEL_FOLDER, int(config.trainer.max_steps), float(done["train_s"])

    def _source(self, training: Any) -> ClipSource:
        """The data of a training, opened once."""
        key = repr(training.data)
        if key not in self._sources:
            self._sources[key] = self.inputs.make_source(training.data)
        return self._sources[key]

    def _identity(self, claim: ClaimConfig, settings: dict[str, Any], arm: ArmConfig, trained: Path, seed: int) -> str:
        """Digest of all that a unit's numbers follow from."""
        held_out = self._source(self._composed(arm.training, seed, self.out / "init" / arm.training))
        whole = {
            "measure": claim.measure,
            "settings": settings,
            "model": fingerprint(trained, [part for part in PARTS if (trained / part).is_dir()]),
            "seed": seed,
            "num_clips": self.config.num_clips,
            "data": held_out.fingerprint,
            "protocol": asdict(self.inputs.settings.protocol),
            "networks": [asdict(network) for network in self.inputs.settings.networks],
            "versions": library_versions(),
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _measured(self, claim: ClaimConfig, arm: ArmConfig, trained: Path, seed: int, folder: Path) -> dict[str, float]:
        from drivesim.sweep.claim_measures import MEASURES, HeldOut, Unit

        config = self._composed(arm.training, seed, self.out / "init" / arm.training)
        own = {part.name: getattr(self.inputs.settings, part.name) for part in fields(EvaluateConfig)}
        settings = replace(EvaluateConfig(**own), features=str(self.out / "features"))
        held_out = HeldOut(source=self._source(config), training=config, num_clips=self.config.num_clips)
        return MEASURES[Measure(claim.measure)](
            Unit(
                trained=trained,
                arm=arm,
                held_out=held_out,
                settings=settings,
                pool=self.inputs.pool,
                seed=seed,
                folder=folder,
            )
        )


def _copy_parts(model: Path, names: Sequence[str], folder: Path) -> None:
    """A model folder of some parts alone, so that trained models carry nothing that another arm lacks."""
    for name in names:
        if not (folder / name).is_dir() or fingerprint(folder, [name]) != fingerprint(model, [name]):
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(model / name, folder / name)
