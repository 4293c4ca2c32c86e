"""The plan of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from drivesim.core.machine import num_cores, resident_bytes
from drivesim.core.wording import number_of
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.text import TextModel
from drivesim.nn.video_convolution import counted_as
from drivesim.planning.changes import Override, applied, fitting, rollout_changes
from drivesim.planning.demand import Demand
from drivesim.planning.disk import rollout_disk
from drivesim.planning.hardware import ROLLOUT_HOLES, Hardware, PlanConfig, choose_hardware
from drivesim.planning.plan import Plan, Row, flop_rows, hardware_notes, in_bytes, memory_rows, time_rows
from drivesim.planning.rollout_demand import blank_model, finishing, rollout_demand
from drivesim.planning.speed import choose_speed
from drivesim.planning.text_demand import blank_text_model, decoding, text_demand
from drivesim.rollout.pools import PoolConfig, PoolKind, num_workers, torch_threads
from drivesim.rollout.start import check_scene, is_scene
from drivesim.rollout.text import TextRolloutCommand


def plan_rollout(command: Any, wanted: PlanConfig, find_recipe: Callable[[str], Any] = lambda model: None) -> Plan:
    """What a rollout will need.

    Args:
        command: config of the command `rollout`, of either family.
        wanted: the hardware, and how closely to measure.
        find_recipe: as of `blank_model`.

    Raises:
        ValueError: no such model, or numbers that make no rollout.
    """
    command.validate()
    now_bytes = resident_bytes()
    hardware = choose_hardware(wanted, command.device)
    if not hardware.is_gpu:
        command.memory.check_offload(command.device)
    counts = _Counts(command, find_recipe)
    model, demand = counts.of(command, has_groups=not hardware.is_gpu)
    workers = num_workers(command.pool, command.futures)
    with torch_threads(command.pool.threads):
        speed = choose_speed(hardware, [phase.work for phase in demand.phases], wanted.measure_s)
    plan = Plan(
        what=f"{number_of(command.futures, 'future')} of {command.num_frames(model) / model.fps:.4g} s by {model.name}",
        hardware=hardware,
        parts=demand.parts,
        memory=_memory(demand, command.pool, workers, hardware, now_bytes),
        flops=flop_rows(demand),
        disk=rollout_disk(command, model),
        time=time_rows(demand, speed, at_once=_at_once(workers, command.pool.threads, hardware)),
        notes=hardware_notes(hardware, now_bytes) + waiting_notes(command, demand),
    )

    def needs(overrides: list[Override]) -> tuple[int, int]:
        changed = applied(command, overrides)
        is_moved = changed.device != command.device
        on = choose_hardware(replace(wanted, memory_gib=None), changed.device) if is_moved else hardware
        _, smaller = counts.of(changed, has_groups=not on.is_gpu)
        num = num_workers(changed.pool, changed.futures)
        rows = _memory(smaller, changed.pool, num, on, now_bytes)
        return int(sum(row.value for row in rows)), on.memory_bytes

    if wanted.changes or not plan.fits_memory:
        decoded_hw = None if model.finishing.video_decoder is None else model.latent_hw
        candidates = rollout_changes(command, workers, is_gpu=hardware.is_gpu, decoded_hw=decoded_hw)
        plan.changes = fitting(candidates, needs, plan.memory_bytes)
    return plan


class _Counts:
    """Counts of a rollout and of changes of it: what a change leaves as it is, is not counted again."""

    def __init__(self, command: Any, find_recipe: Callable[[str], Any]):
        self._pieces = (command.memory.tile, command.memory.chunk)
        self._find_recipe = find_recipe
        self._known: dict[str, tuple[DrivingModel | TextModel, Demand]] = {}

    def of(self, command: Any, *, has_groups: bool) -> tuple[DrivingModel | TextModel, Demand]:
        """The model without weights, and what one process asks for; `has_groups` as of `counted_as`."""
        tile, chunk = self._pieces
        whole = applied(command, [("memory.tile", tile), ("memory.chunk", chunk)])
        key = repr((whole.stages, whole.weights, whole.memory, has_groups))
        with counted_as(has_groups=has_groups):
            if key not in self._known:
                self._known[key] = _counted(whole, self._find_recipe)
            model, demand = self._known[key]
            if command.memory == whole.memory:
                return model, demand
            return model, _in_pieces(command, model, demand)


def _in_pieces(command: Any, model: DrivingModel | TextModel, demand: Demand) -> Demand:
    """A demand whose frames are decoded in other pieces."""
    of_model = model.finishing
    kept = (of_model.tile, of_model.chunk)
    of_model.tile, of_model.chunk = command.memory.tile or of_model.tile, command.memory.chunk
    try:
        changed = finishing(command, model) if isinstance(model, DrivingModel) else decoding(command, model)
    finally:
        of_model.tile, of_model.chunk = kept
    return replace(demand, phases=[changed if phase.name == changed.name else phase for phase in demand.phases])


def _counted(command: Any, find_recipe: Callable[[str], Any]) -> tuple[DrivingModel | TextModel, Demand]:
    """The model of a rollout, without weights, and what one process asks for."""
    if isinstance(command, TextRolloutCommand):
        model = blank_text_model(command)
        return model, text_demand(command, model)
    check_scene(command.start, command.start_s, command.is_night)
    blank = blank_model(command.model, command.sampler, command.stages, command.dtype(), command.memory, find_recipe)
    said = [DriveFacts(motion=motion) for motion in command.motions()]
    for drive in said:
        blank.model.facts(drive)
    return blank.model, rollout_demand(command, blank, said[0], is_designed=is_scene(command.start))


def waiting_notes(command: Any, demand: Demand) -> list[str]:
    """Where the weights are of networks that do not run, which a plan of a GPU's memory does not show."""
    if not command.memory.offload:
        return []
    num_bytes = command.dtype().itemsize * sum(part.num_parameters for part in demand.parts)
    return [
        f"memory.offload: {in_bytes(num_bytes)} of weights wait in the machine's own memory, in each process; those of "
        "the stage that runs are among its activations, and the time of their way to the GPU is not counted"
    ]


def _memory(demand: Demand, pool: PoolConfig, workers: int, on: Hardware, now_bytes: int) -> list[Row]:
    """Of all processes on the device."""
    process_bytes = on.process_bytes(now_bytes)
    largest = demand.largest
    heap_bytes = largest.heap_bytes + demand.passing_heap_bytes
    kept_bytes = on.kept_bytes(largest.peak_bytes, heap_bytes, ROLLOUT_HOLES)
    rows = memory_rows(demand, process_bytes, kept_bytes, copies=workers)
    if pool.kind is PoolKind.RAY and not on.is_gpu:  # the process that hands out the futures
        rows.append(Row(name="this process", value=process_bytes, note="Ray's own processes are not counted"))
    return rows


def _at_once(workers: int, threads: int, hardware: Hardware) -> float:
    """Futures that advance beside each other: one a core's share of threads; a GPU does no more with more of them."""
    return 1 if hardware.is_gpu else min(workers, max(1, num_cores() // threads))
