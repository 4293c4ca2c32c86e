"""What tile, chunk and offload of a rollout save, as planned, and which of them a plan proposes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivesim.config import PlanRolloutCommand, compose
from drivesim.nn.video_convolution import counted_as
from drivesim.planning.changes import rollout_changes
from drivesim.planning.demand import Demand, weight_bytes
from drivesim.planning.plan_rollout import _counted, _Counts, plan_rollout, waiting_notes
from drivesim.planning.rollout_demand import blank_model, finishing
from drivesim.planning.text_demand import blank_text_model, decoding
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_text import write_tiny_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cascade(tmp_path_factory.mktemp("cascade") / "model")


def _command(folder: Path, *overrides: str) -> PlanRolloutCommand:
    shortest = ["start=photo.jpg", "seconds=8", "futures=1", "stages.upsampling=NONE", "plan.measure_s=0"]
    return compose("plan", ["rollout", f"model={folder}", *shortest, *overrides])  # type: ignore[no-any-return]


def _peaks(demand: Demand) -> dict[str, int]:
    return {phase.name: phase.peak_bytes for phase in demand.phases}


def test_pieces_are_counted_as_they_run_and_nothing_else_again(folder: Path) -> None:
    plain, smaller = _command(folder), _command(folder, "memory.chunk=1", "memory.tile=2")
    counts = _Counts(plain, lambda model: None)
    whole, pieces = (_peaks(counts.of(command, has_groups=True)[1]) for command in (plain, smaller))
    (changed,) = (name for name in whole if whole[name] != pieces[name])
    assert changed.startswith("finishing")
    assert pieces[changed] < 0.7 * whole[changed]
    with counted_as(has_groups=True):
        anew = blank_model(str(folder), smaller.sampler, smaller.stages, memory=smaller.memory)
        assert finishing(smaller, anew.model).peak_bytes == pieces[changed]


def test_a_text_model_decodes_in_pieces_as_planned(tmp_path: Path) -> None:
    shared = ["rollout", "family=text", f"model={write_tiny_text(tmp_path / 'text')}", "stages.upsampling=NONE"]
    commands = [compose("plan", [*shared, *pieces]) for pieces in ([], ["memory.chunk=1", "memory.tile=2"])]
    whole, smaller = (decoding(command, blank_text_model(command)).peak_bytes for command in commands)
    assert smaller < 0.8 * whole


def test_with_offload_each_phase_holds_its_own_weights(folder: Path) -> None:
    command, changed = _command(folder), _command(folder, "memory.offload=true")
    plain, offloaded = (_counted(how, lambda model: None)[1] for how in (command, changed))
    parts = blank_model(str(folder), command.sampler, command.stages).parts
    weights = {name: weight_bytes(part) for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    assert (plain.resident["weights"], offloaded.resident["weights"]) == (sum(weights.values()), 0)
    for phase, names in {
        "encoding the start": ["autoencoder"],
        "predicting key frames": ["backbone", "conditioner", "temporal"],
        "filling in frames": ["backbone", "conditioner", "interpolation", "rate_label"],
    }.items():
        assert _peaks(offloaded)[phase] == _peaks(plain)[phase] + sum(weights[name] for name in names), phase
    assert offloaded.peak_bytes < plain.peak_bytes
    (said,) = waiting_notes(changed, offloaded)
    assert "of weights wait in the machine's own memory" in said


def test_least_harm_is_proposed_first(folder: Path) -> None:
    command = _command(folder, "plan.hardware=l4", "plan.changes=true")
    plan = plan_rollout(command, command.plan)
    proposed = [change.overrides for change in plan.changes or []]
    assert proposed[:2] == [["memory.offload=true"], ["memory.chunk=8"]]
    for overrides in proposed:
        compose("rollout", ["start=cut_in", *overrides])  # they can be typed
    assert all(change.memory_bytes < plan.memory_bytes for change in plan.changes or [])


def test_pieces_are_tried_from_the_largest_down_and_only_where_something_decodes_in_pieces(folder: Path) -> None:
    command = _command(folder, "memory.chunk=8", "memory.tile=32")
    tried = list(rollout_changes(command, 1, is_gpu=False, decoded_hw=(64, 128)))
    pieces = [overrides for overrides in tried if overrides[0][0].startswith("memory.")]
    assert pieces[:2] == [[("memory.chunk", 4)], [("memory.chunk", 1)]]
    assert pieces[2:5] == [[("memory.tile", 16)], [("memory.tile", 8)], [("memory.tile", 4)]]
    assert pieces[5] == [("memory.chunk", 1), ("memory.tile", 4)]
    none = rollout_changes(command, 1, is_gpu=False, decoded_hw=None)
    assert not [overrides for overrides in none if "memory" in str(overrides)]


def test_the_cpu_in_place_of_a_gpu_is_proposed_without_offload(folder: Path) -> None:
    command = _command(folder, "memory.offload=true", "device=cuda")
    tried = list(rollout_changes(command, 1, is_gpu=True, decoded_hw=None))
    assert [("device", "cpu"), ("memory.offload", False)] in tried


def test_offload_is_planned_for_gpus_alone(folder: Path) -> None:
    command = _command(folder, "memory.offload=true")
    with pytest.raises(ValueError, match="memory.offload=true with device=cpu"):
        plan_rollout(command, command.plan)


def test_numbers_that_make_no_pieces_are_refused_by_the_command(folder: Path) -> None:
    with pytest.raises(ValueError, match="memory.chunk=0; valid: 1 frame or more"):
        _command(folder, "memory.chunk=0")
