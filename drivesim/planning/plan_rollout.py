"""The plan of a rollout."""

from __future__ import annotations

from dataclasses import replace

from drivesim.core.machine import num_cores, resident_bytes
from drivesim.planning.changes import Override, applied, fitting, rollout_changes
from drivesim.planning.disk import rollout_disk
from drivesim.planning.hardware import Hardware, PlanConfig, choose_hardware
from drivesim.planning.plan import Plan, Row, flop_rows, memory_rows, sheet_note, time_rows
from drivesim.planning.rollout_demand import BlankModel, future_plan, rollout_demand
from drivesim.planning.speed import choose_speed
from drivesim.rollout.pools import PoolKind, num_workers, torch_threads
from drivesim.rollout.run import RolloutConfig


def plan_rollout(
    config: RolloutConfig,
    wanted: PlanConfig,
    blank: BlankModel,
    *,
    device: str,
    is_designed: bool,
) -> Plan:
    """What a rollout will need.

    Args:
        config: futures, length, pool.
        wanted: the hardware, and how closely to measure.
        model: what `model_model` gives.
        device: torch device of the networks.
        is_designed: whether the start frame is made from a scene; otherwise it is a picture.

    Raises:
        ValueError: numbers that make no rollout.
    """
    config.validate()
    now_bytes = resident_bytes()
    hardware = choose_hardware(wanted, device)
    demand = rollout_demand(config, blank, is_designed=is_designed)
    workers = num_workers(config.pool, config.futures)
    with torch_threads(config.pool.threads):
        speed = choose_speed(hardware, [phase.work for phase in demand.phases], wanted.measure_s)

    def rows(num_processes: int, on: Hardware) -> list[Row]:
        process_bytes = on.process_bytes(now_bytes)
        made = memory_rows(demand, process_bytes, on.heap_share, copies=num_processes)
        if config.pool.kind is PoolKind.RAY and not on.is_gpu:  # the process that hands out the futures
            made.append(Row(name="this process", value=process_bytes, note="Ray's own processes are not counted"))
        return made

    plan = Plan(
        what=f"{config.futures} futures of {config.seconds:g} s by {blank.model.name}",
        hardware=hardware,
        parts=demand.parts,
        memory=rows(workers, hardware),
        flops=flop_rows(demand),
        disk=rollout_disk(config, blank.model.size_hw, future_plan(config, blank.model).num_frames),
        time=time_rows(demand, speed, at_once=_at_once(workers, config.pool.threads, hardware)),
        notes=[] if hardware.sheet is None else [sheet_note()],
    )

    def needs(overrides: list[Override]) -> tuple[int, int]:
        pools = [override for override in overrides if override[0].startswith("pool.")]
        on = hardware if len(pools) == len(overrides) else choose_hardware(replace(wanted, memory_gib=None), "cpu")
        num = num_workers(applied(config, pools).pool, config.futures)
        return int(sum(row.value for row in rows(num, on))), on.memory_bytes

    if wanted.changes or not plan.fits:
        plan.changes = fitting(rollout_changes(config.pool, workers, device), needs, plan.memory_bytes)
    return plan


def _at_once(workers: int, threads: int, hardware: Hardware) -> float:
    """Futures that advance beside each other: one a core's share of threads; a GPU does no more with more of them."""
    return 1 if hardware.is_gpu else min(workers, max(1, num_cores() // threads))
