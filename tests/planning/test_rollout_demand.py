"""What a rollout asks for: the model's own calls, counted without weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.config import PlanRolloutCommand, compose, recipe_that_writes
from drivesim.core.motion import MotionSegment
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import PredictionOverrides, Sampler, ScheduleConfig
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import blank_parts, load_parts, save_parts
from drivesim.planning import plan_rollout as plan_rollout_module
from drivesim.planning import rollout_demand as counting
from drivesim.planning.command import plan_command
from drivesim.planning.demand import Demand
from drivesim.planning.disk import rollout_disk
from drivesim.planning.hardware import PlanConfig
from drivesim.planning.plan import Plan
from drivesim.planning.plan_rollout import plan_rollout
from drivesim.rollout.pools import PoolConfig, PoolKind
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from drivesim.train.config import StageName
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_family import write_tiny_family
from tests.train.test_fit import config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


def demand(model: Path, config: RolloutConfig, **sampling: float) -> Demand:
    blank = counting.blank_model(str(model), PredictionOverrides(**sampling))
    return counting.rollout_demand(config, blank, None, is_designed=True)


def test_blank_parts_have_the_shapes_of_the_stored_ones_and_no_memory(model: Path) -> None:
    real, blank = load_parts(model), blank_parts(model)
    for name, part in real.items():
        if isinstance(part, torch.nn.Module):
            shapes = {key: value.shape for key, value in part.state_dict().items()}
            assert {key: value.shape for key, value in blank[name].state_dict().items()} == shapes
            assert all(value.is_meta for value in blank[name].state_dict().values())


def test_steps_that_are_not_run_are_counted_as_the_second_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RolloutConfig(futures=1, seconds=2)
    short = demand(model, config, steps=4)
    monkeypatch.setattr(counting, "sampled", lambda name, count, _, run: counting.counted(name, count, run))
    for phase, expected in zip(short.phases, demand(model, config, steps=4).phases, strict=True):
        assert phase.work.flops == pytest.approx(expected.work.flops), phase.name
        assert phase.peak_bytes == pytest.approx(expected.peak_bytes, rel=0.02), phase.name


def test_a_guidance_of_videos_that_are_told_how_to_drive_is_counted_for_these_alone(tmp_path: Path) -> None:
    told = write_tiny_family(tmp_path / "told", ego_motion=True)
    blank = counting.blank_model(str(told), PredictionOverrides(guidance=1.0, told_guidance=2.0))
    turn = DriveFacts(motion=(MotionSegment(seconds=9.0, speed_mps=5.0, yaw_deg_per_s=9.0),))
    works = []
    for said in (None, turn):
        phases = counting.rollout_demand(RolloutConfig(futures=1, seconds=2), blank, said, is_designed=True).phases
        works.append(next(phase.work.flops for phase in phases if phase.name == "predicting key frames"))
    assert works[1] == pytest.approx(2 * works[0], rel=0.02)


def test_guidance_doubles_the_network_calls(model: Path) -> None:
    config = RolloutConfig(futures=1, seconds=2)
    plain, guided = (demand(model, config, guidance=scale) for scale in (1.0, 2.0))
    name = "predicting key frames"
    flops = [next(p for p in d.phases if p.name == name).work.flops for d in (plain, guided)]
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.01)


def test_a_rollout_twice_as_long_takes_twice_the_work_and_the_same_memory(model: Path) -> None:
    # 10 + 8 n key frames at 4 a second
    short, long = (demand(model, RolloutConfig(futures=2, seconds=frames / 4)) for frames in (26, 50))
    assert short.peak_bytes == long.peak_bytes
    counts = [{p.name: p.count for p in d.phases} for d in (short, long)]
    assert [c["predicting key frames"] for c in counts] == [2 * 3, 2 * 6]
    assert [c["finishing 10 frames"] * 10 for c in counts] == [2 * 26, 2 * 50]
    assert all(c["designing the start"] == 1 for c in counts)


def plan(model: Path, pool: PoolConfig, **wanted: float | str) -> Plan:
    command = PlanRolloutCommand(
        futures=4, seconds=2, pool=pool, model=str(model), start="photo.jpg", plan=PlanConfig(measure_s=0, **wanted)
    )
    return plan_rollout(command, command.plan)


def test_workers_hold_the_model_each_and_fewer_of_them_are_offered(model: Path) -> None:
    pool = PoolConfig(kind=PoolKind.RAY, workers=4)
    four = plan(model, pool)
    one = plan(model, PoolConfig())
    assert four.memory_bytes > 4 * one.memory_bytes
    tight = plan(model, pool, memory_gib=0.7 * four.memory_bytes / (1 << 30))
    assert [change.overrides for change in tight.changes or []] == [["pool.workers=2"]]


def test_weights_of_16_bits_are_half_as_large_and_are_offered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_rollout_module, "resident_bytes", lambda: 2**28)  # grows from plan to plan
    whole = plan(model, PoolConfig())
    tight = plan(model, PoolConfig(), memory_gib=(whole.memory_bytes - 2**16) / (1 << 30))
    assert ["weights=bfloat16"] in [change.overrides for change in tight.changes or []]
    sizes = [
        counting.rollout_demand(RolloutConfig(seconds=2), blank, None, is_designed=True)
        for blank in (
            counting.blank_model(str(model), PredictionOverrides(), dtype=dtype)
            for dtype in (torch.float32, torch.bfloat16)
        )
    ]
    assert sizes[1].resident["weights"] == sizes[0].resident["weights"] / 2
    whole_peak, half_peak = (
        next(phase.peak_bytes for phase in size.phases if phase.name == "predicting key frames") for size in sizes
    )
    assert half_peak < 0.6 * whole_peak


def test_a_gpu_that_is_not_here_is_marked_as_not_measured(model: Path) -> None:
    text = plan(model, PoolConfig(), hardware="l4").text()
    assert "on l4 (not measured: from its data sheet)" in text
    assert "% of the data sheet's peak" in text


def test_a_rollouts_plan_imports_no_lightning(repo_root: Path) -> None:
    code = "import sys, drivesim.planning.plan_rollout; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_that_recipes_have_yet_to_write_is_planned_by_what_they_make(tmp_path: Path) -> None:
    recipes = {
        f"{before}/model": config(stage, tmp_path, None if init is None else Path(f"{init}/model"))
        for before, stage, init in (
            ("coder", StageName.AUTOENCODER, None),
            ("image", StageName.IMAGE, "coder"),
            ("keys", StageName.PREDICTION, "image"),
            ("between", StageName.INTERPOLATION, "keys"),
            ("decoder", StageName.VIDEO_DECODER, "coder"),
        )
    }
    recipes["between/model"].joins = ["decoder/model"]
    sampling = PredictionOverrides(sampler=Sampler.DDIM)
    found = counting.blank_model("between/model", sampling, find_recipe=recipes.get)
    demand = counting.rollout_demand(RolloutConfig(futures=1, seconds=2), found, None, is_designed=True)
    assert all(sum(phase.work.flops_of.values()) > 0 and phase.peak_bytes > 0 for phase in demand.phases)
    assert set(found.parts) == {
        "autoencoder", "backbone", "conditioner", "temporal", "scheduler", "interpolation", "rate_label",
        "video_decoder",
    }  # fmt: skip
    assert (found.model.fps, found.model.key_fps, found.model.size_hw) == (4.0, 2.0, (32, 64))
    assert all(
        p.is_meta for part in found.parts.values() if isinstance(part, torch.nn.Module) for p in part.parameters()
    )
    alone = counting.blank_model("keys/model", PredictionOverrides(), find_recipe=recipes.get)
    assert "interpolation" not in alone.parts
    with pytest.raises(
        ValueError, match="model=image/model is not there yet, .* makes no whole driving model: missing"
    ):
        counting.blank_model("image/model", PredictionOverrides(), find_recipe=recipes.get)
    with pytest.raises(ValueError, match="that is not there yet; plan family=text model=published"):
        counting.blank_model("runs/toytown_text/base/model", PredictionOverrides(), find_recipe=recipe_that_writes)
    save_parts(tmp_path / "bare", {"scheduler": training_schedule(ScheduleConfig())})
    recipes["image/model"].init = str(tmp_path / "bare")
    with pytest.raises(ValueError, match="init=.*bare: part 'autoencoder' is missing, which stage image needs"):
        counting.blank_model("keys/model", PredictionOverrides(), find_recipe=recipes.get)
    with pytest.raises(ValueError, match="no model folder 'other/model'"):
        counting.blank_model("other/model", PredictionOverrides(), find_recipe=recipes.get)


def test_the_command_finds_the_recipes_of_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def found(model: str, *_: object, find_recipe: object) -> None:
        seen.append(model)
        assert find_recipe is recipe_that_writes
        raise ValueError("that will do")

    monkeypatch.setattr(plan_rollout_module, "blank_model", lambda *a: found(*a[:-1], find_recipe=a[-1]))
    command = compose("plan", ["rollout", "start=photo.jpg", "model=runs/driving/upsampler/model"])
    with pytest.raises(ValueError, match="that will do"):
        plan_command(command, recipe_that_writes, Path("run"))
    assert seen == ["runs/driving/upsampler/model"]
    recipe = recipe_that_writes(seen[0])
    assert recipe is not None
    assert [recipe_that_writes(source) is not None for source in (recipe.init, *recipe.joins)] == [True] * 3


def test_states_that_longer_futures_go_on_from_take_the_disk_that_was_planned(tmp_path: Path) -> None:
    model = DrivingModel.from_pretrained(write_tiny_cascade(tmp_path / "model"))
    config = RolloutConfig(futures=2, seconds=20)
    start = Start(name="street", frame_HWC=np.zeros((*model.size_hw, 3), np.uint8))
    assert all(row.ok for row in run_rollout(config, start, lambda: model, tmp_path / "run"))
    written = sum(path.stat().st_size for path in (tmp_path / "run" / ".ends").iterdir())
    (planned,) = (row.value for row in rollout_disk(config, model) if row.name.startswith("states"))
    assert 0.4 * planned < written < planned + 2 * 4096  # and what the files' heads take
