"""The plan of a training run."""

from __future__ import annotations

from drivesim.core.machine import resident_bytes
from drivesim.core.wording import number_of
from drivesim.data.source import ClipSource
from drivesim.families.text_published import SizedTokenizer
from drivesim.nn.video_convolution import counted_as
from drivesim.planning.changes import Override, applied, fitting, training_changes
from drivesim.planning.demand import Demand
from drivesim.planning.hardware import (
    TRAINER_BYTES,
    TRAINING_HOLES,
    Hardware,
    PlanConfig,
    choose_hardware,
    training_device,
)
from drivesim.planning.plan import Plan, Row, flop_rows, hardware_notes, memory_rows, time_rows
from drivesim.planning.speed import choose_speed
from drivesim.planning.training_data import KnownData, known_data
from drivesim.planning.training_demand import FindRecipe, blank_stage_parts, makes_class_pictures, training_demand
from drivesim.planning.training_disk import training_disk
from drivesim.rollout.pools import torch_threads
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.folders import Parts
from drivesim.train.recipes import RECIPES


def plan_training(config: TrainConfig, wanted: PlanConfig, find_recipe: FindRecipe, source: ClipSource | None) -> Plan:
    """What a training run will need.

    Args:
        config: the stage and its settings.
        wanted: the hardware, and how closely to measure.
        find_recipe: the recipe that writes a model folder, for an `init` that is not there yet.
        source: of the clips; None = not there yet.

    Raises:
        ValueError: parts whose sizes are not known, or settings that fit no model.
    """
    now_bytes = resident_bytes()
    hardware = choose_hardware(wanted, training_device(config.trainer.accelerator))
    data = known_data(source, getattr(config, "data", None), config.cache_fps)
    parts = blank_stage_parts(config, find_recipe)
    with counted_as(has_groups=not hardware.is_gpu):
        demand = training_demand(config, parts, data.num_cached, is_validated=data.holds_out)
    with torch_threads(config.trainer.num_threads):
        speed = choose_speed(hardware, [phase.work for phase in demand.phases], wanted.measure_s)
    process_bytes = hardware.process_bytes(now_bytes + TRAINER_BYTES)
    plan = Plan(
        what=f"training of stage {StageName(config.stage).value} ({config.name})",
        hardware=hardware,
        parts=demand.parts,
        memory=_memory(demand, process_bytes, hardware),
        flops=flop_rows(demand),
        disk=training_disk(config, demand, parts, data, find_recipe),
        time=time_rows(demand, speed),
        notes=[*hardware_notes(hardware, now_bytes), *_notes(config, parts, data)],
    )

    def needs(overrides: list[Override]) -> tuple[int, int]:
        with counted_as(has_groups=not hardware.is_gpu):
            changed = training_demand(applied(config, overrides), parts, is_validated=data.holds_out)
        rows = _memory(changed, process_bytes, hardware)
        return int(sum(row.value for row in rows)), hardware.memory_bytes

    if wanted.changes or not plan.fits_memory:
        plan.changes = fitting(training_changes(config), needs, plan.memory_bytes)
    return plan


def _memory(demand: Demand, process_bytes: int, hardware: Hardware) -> list[Row]:
    largest = demand.largest
    kept_bytes = hardware.kept_bytes(largest.peak_bytes, largest.heap_bytes, TRAINING_HOLES)
    return memory_rows(demand, process_bytes, kept_bytes)


def _notes(config: TrainConfig, parts: Parts, data: KnownData) -> list[str]:
    """What a step sees, and what the numbers leave out."""
    notes, devices = [_batch(config, parts)], config.trainer.devices
    if devices > 1:
        notes.append(f"memory, FLOPs and time are those of each of the {devices} processes")
    if config.loader.num_workers:
        notes.append(f"the {config.loader.num_workers} loader processes of the machine are not in the peak")
    if isinstance(parts.get("tokenizer"), SizedTokenizer):
        notes.append(f"{config.init} cannot be had here: the sizes are those it was published with")
    if data.num_cached is None:
        what = "one picture" if data.are_pictures else "an hour of video"
        notes.append(f"the data are not there yet: caches are those of {what}, and their time is left out")
    return notes


def _batch(config: TrainConfig, parts: Parts) -> str:
    """The whole batch of a step, on all devices."""
    size, accumulate, devices = config.loader.batch_size, config.trainer.accumulate, config.trainer.devices
    number = size * accumulate * devices
    one = "picture" if RECIPES[StageName(config.stage)].num_frames(config) == 1 else "clip"
    seen = number_of(number, one)
    if makes_class_pictures(config, parts):
        seen += " and as many of the class"
    batches = f" x trainer.accumulate={accumulate}" if accumulate > 1 else ""
    return f"a step sees {seen}: loader.batch_size={size}{batches} on {number_of(devices, 'device')}"
