"""What every stage asks for: counted without memory, and equal to what the real classes hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drivesim.config import compose, recipe_that_writes
from drivesim.core.picture import save_png
from drivesim.data import PictureFolder, PictureFolderConfig
from drivesim.models.build import SpatialLayers
from drivesim.planning.changes import applied, training_changes
from drivesim.planning.demand import weight_bytes
from drivesim.planning.hardware import PlanConfig
from drivesim.planning.plan_training import plan_training
from drivesim.planning.training_demand import blank_stage_parts, training_demand
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.fit import fit
from drivesim.train.optim import OptimizerName
from drivesim.train.recipes import RECIPES
from tests.models.tiny_stable_diffusion import save_tiny
from tests.train.test_fit import config as tiny_config
from tests.train.test_text_stages import config as text_config

STAGES = [stage for stage in StageName if not stage.is_text]
FOLDERS = {stage: f"nowhere/{stage.value}" for stage in STAGES}


def config(stage: StageName) -> TrainConfig:
    """A tiny recipe whose `init` is what the stage writes that makes the last of the parts it needs."""
    networks = [name for name in RECIPES[stage].needs if not name.endswith("scheduler")]
    makers = [s for s in STAGES if networks and networks[-1] in RECIPES[s].trains]
    made = tiny_config(stage, Path("cache"), Path(FOLDERS[makers[0]]) if makers else None)
    made.trainer.accumulate = 1
    return made


def recipe(folder: str) -> TrainConfig | None:
    return next((config(stage) for stage, name in FOLDERS.items() if name == folder), None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "sd", "v2")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    root = tmp_path_factory.mktemp("subject")
    for number in range(5):
        save_png(root / f"{number}.png", np.full((32, 64, 3), 40 * number, dtype=np.uint8))
    return PictureFolder(PictureFolderConfig(root=str(root), caption="a sks car"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_counted_from_its_own_loss(stage: StageName) -> None:
    settings = config(stage)
    parts = blank_stage_parts(settings, recipe)
    assert all(p.is_meta for part in parts.values() if isinstance(part, torch.nn.Module) for p in part.parameters())
    demand = training_demand(settings, parts, num_cached=80)
    trained = sum(part.num_parameters for part in demand.parts if part.is_trained)
    assert trained > 0
    assert {part.name for part in demand.parts} >= set(RECIPES[stage].trains)
    # The discriminator of an adversarial loss is trained, and is no part of the model.
    assert demand.resident["trained weights"] >= 4 * trained
    step, validation = demand.phases[-2:]
    if not RECIPES[stage].learns_from_pictures:  # those learn from pieces, and are validated on whole pictures
        assert step.work.flops > 2 * validation.work.flops
    assert min(step.work.flops, validation.work.flops) > 0
    assert step.peak_bytes > demand.resident["averaged weights"], "gradients are in it"
    caching = demand.phases[:-2]
    assert len(caching) == (0 if RECIPES[stage].learns_from_pictures else 1)
    assert all(phase.count == 10 for phase in caching)


def test_a_prediction_that_is_told_how_the_car_drives_is_counted() -> None:
    settings = config(StageName.PREDICTION)
    plain, told = (
        training_demand(settings, blank_stage_parts(settings, recipe)).phases[-2].work.flops
        for settings.temporal.ego_motion in (False, True)
    )
    assert told > plain > 0


def test_image_layers_that_are_trained_from_scratch_are_counted_as_trained() -> None:
    trained = {}
    for spatial in (SpatialLayers.FROZEN, SpatialLayers.SCRATCH):
        settings = config(StageName.PREDICTION)
        settings.temporal.spatial = spatial
        demand = training_demand(settings, blank_stage_parts(settings, recipe))
        trained[spatial] = ({part.name for part in demand.parts if part.is_trained}, demand.resident["trained weights"])
    assert trained[SpatialLayers.FROZEN][0] == {"temporal"}
    assert trained[SpatialLayers.SCRATCH][0] == {"temporal", "backbone", "conditioner"}
    assert trained[SpatialLayers.SCRATCH][1] > trained[SpatialLayers.FROZEN][1]


def test_adamw_keeps_two_numbers_a_weight_and_muon_one_for_matrices() -> None:
    settings = config(StageName.IMAGE)
    parts = blank_stage_parts(settings, recipe)
    state = {}
    for name in OptimizerName:
        settings.optim.optimizer = name
        demand = training_demand(settings, parts)
        state[name] = demand.resident["optimizer state"] / demand.resident["averaged weights"]
    assert state[OptimizerName.ADAMW] == pytest.approx(2)
    assert 1 < state[OptimizerName.MUON] < 1.5


def test_averages_of_16_bit_weights_are_counted_in_32() -> None:
    settings = config(StageName.IMAGE)
    parts = blank_stage_parts(settings, recipe)
    whole = training_demand(settings, parts).resident
    settings.trainer.precision = "bf16-true"
    short = training_demand(settings, parts).resident
    assert short["averaged weights"] == whole["averaged weights"]
    assert short["trained weights"] == pytest.approx(whole["trained weights"] / 2, rel=0.01)


def test_half_the_batch_in_two_parts_is_the_same_work_in_less_memory() -> None:
    settings = config(StageName.IMAGE)
    parts = blank_stage_parts(settings, recipe)
    overrides = next(iter(training_changes(settings)))
    assert overrides == [("loader.batch_size", 1), ("trainer.accumulate", 2)]
    whole, half = (training_demand(c, parts).phases[-2] for c in (settings, applied(settings, overrides)))
    assert half.work.flops == pytest.approx(whole.work.flops, rel=0.02)
    assert half.peak_bytes < whole.peak_bytes
    assert settings.loader.batch_size == 2, "the config itself was changed"


def test_the_batches_of_a_step_that_are_not_run_are_counted() -> None:
    settings = config(StageName.AUTOENCODER)
    parts = blank_stage_parts(settings, recipe)
    flops = {}
    for accumulate in (1, 2, 5):
        settings.trainer.accumulate = accumulate
        flops[accumulate] = training_demand(settings, parts).phases[-2].work.flops
    assert flops[5] - flops[2] == pytest.approx(3 * (flops[2] - flops[1]))


def test_convolutions_over_time_are_planned_with_all_their_products_where_no_cpu_groups_frames() -> None:
    settings = compose("train", ["experiment=toytown/video_decoder"])
    flops = {}
    for hardware, precision in (("h100", "32-true"), ("here", "32-true"), ("here", "bf16-mixed")):
        settings.trainer.accelerator, settings.trainer.precision = "cpu", precision
        wanted = PlanConfig(measure_s=0.01) if hardware == "here" else PlanConfig(hardware=hardware, measure_s=0.01)
        plan = plan_training(settings, wanted, recipe_that_writes, None)
        flops[hardware, precision] = plan.flops[0].value
    assert flops["here", "32-true"] < 0.95 * flops["h100", "32-true"]
    assert flops["here", "bf16-mixed"] == flops["h100", "32-true"]


def test_mixed_precision_needs_less_memory() -> None:
    settings = config(StageName.AUTOENCODER)
    parts = blank_stage_parts(settings, recipe)
    settings.loader.batch_size = 32
    full = training_demand(settings, parts).phases[-2].peak_bytes
    settings.trainer.precision = "bf16-mixed"
    assert 0.3 * full < training_demand(settings, parts).phases[-2].peak_bytes < 0.9 * full
    with pytest.raises(ValueError, match="trainer.precision=8-mixed; valid: 32-true"):
        TrainerConfig(precision="8-mixed")
    assert TrainerConfig(precision="bf16").precision == "bf16-mixed"


def test_a_plan_that_does_not_fit_names_changes_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the tests' own process holds shrinks and grows between two plans.
    monkeypatch.setattr("drivesim.planning.plan_training.resident_bytes", lambda: 500 << 20)
    settings = config(StageName.AUTOENCODER)
    settings.loader.batch_size, settings.crop.size_hw = 8, []
    wanted = PlanConfig(measure_s=0)
    whole = plan_training(settings, wanted, recipe, None)
    assert whole.fits and whole.changes is None
    wanted.memory_gib = (whole.memory_bytes - (1 << 20)) / (1 << 30)
    plan = plan_training(settings, wanted, recipe, None)
    assert not plan.fits
    assert plan.changes
    limit = wanted.memory_gib * (1 << 30)
    assert all(change.memory_bytes <= limit for change in plan.changes)
    assert plan.changes[0].overrides == ["loader.batch_size=4", "trainer.accumulate=2"]
    text = plan.text()
    assert "does not fit: " in text
    assert "loader.batch_size=4 trainer.accumulate=2" in text
    wanted.memory_gib = 0.001
    assert "no change of the configured keys would make it fit" in plan_training(settings, wanted, recipe, None).text()


def test_parts_of_a_recipe_that_was_not_run_yet_come_from_the_recipe() -> None:
    settings = config(StageName.PREDICTION)
    settings.init = "runs/driving/image/model"
    settings.size_hw = [128, 256]
    parts = blank_stage_parts(settings, recipe_that_writes)
    assert parts["autoencoder"].config.num_vq_embeddings == 16384
    assert tuple(parts["backbone"].config.block_out_channels) == (224, 448, 448, 672, 896)
    assert weight_bytes(parts["backbone"]) > 1e9
    settings.init = "runs/nobody/model"
    with pytest.raises(ValueError, match="init=runs/nobody/model: .* the sizes of autoencoder, backbone"):
        blank_stage_parts(settings, recipe_that_writes)


def tensor_bytes(*files: Path) -> int:
    return sum(tensor.nbytes for file in files for tensor in load_file(file).values())


@pytest.mark.parametrize("stage", [StageName.DREAMBOOTH, StageName.DREAMBOOTH_LORA])
def test_a_personal_model_is_planned_with_what_its_training_leaves(
    stage: StageName, checkpoint: Path, subject: PictureFolder, tmp_path: Path
) -> None:
    settings = text_config(stage, tmp_path / "cache", checkpoint, weights="float16", fps=1.0, cache_fps=1.0)
    settings.trainer.validate_every = 1
    plan = plan_training(settings, PlanConfig(measure_s=0), lambda _: None, subject)
    assert [row.name for row in plan.flops] == ["latents of 8 frames", "4 class pictures", "training step"]
    model = fit(settings, subject, tmp_path / "run")
    assert "val/loss" not in next((tmp_path / "run").rglob("metrics.csv")).read_text()
    disk = {row.name: row.value for row in plan.disk}
    frames, made = (list((tmp_path / "cache").rglob(name)) for name in ("frames-*/*.npy", "class-*/*"))
    assert disk["cache of pictures"] == sum(np.load(file).nbytes for file in frames)
    assert disk["latents of class pictures"] == tensor_bytes(*made)
    assert disk["exported weights"] == pytest.approx(tensor_bytes(*model.rglob("*.safetensors")), rel=0.01)
    assert ["5 pictures" in row.note for row in plan.disk[:2]] == [True, True]


def test_pictures_of_the_class_are_counted_as_often_as_they_are_made(checkpoint: Path, tmp_path: Path) -> None:
    settings = text_config(StageName.DREAMBOOTH, tmp_path, checkpoint)
    settings.dreambooth.num_class_pictures = 6  # files hold four, whole ones
    flops = {}
    for steps, guidance in ((4, 1.0), (9, 1.0), (9, 2.0)):
        settings.design_sampling.steps, settings.design_sampling.guidance = steps, guidance
        made, step = training_demand(settings, blank_stage_parts(settings, recipe), is_validated=False).phases[1:]
        assert (made.name, made.count, step.name) == ("4 class pictures", 2, "training step")
        flops[steps, guidance] = made.work.flops
    once = (flops[9, 1.0] - flops[4, 1.0]) / 5  # the rest is the text
    assert once > 0
    assert flops[9, 2.0] - flops[9, 1.0] == pytest.approx(9 * once)
    assert settings.design_sampling.steps == 9, "the config itself was changed"
    settings.dreambooth.prior_weight = 0
    demand = training_demand(settings, blank_stage_parts(settings, recipe))
    assert [phase.name for phase in demand.phases] == ["latents of 8 frames", "training step", "validation batch"]


def test_class_pictures_are_made_by_a_second_model_before_the_optimizer_holds_anything(
    checkpoint: Path, tmp_path: Path
) -> None:
    peaks = {}
    for stage in (StageName.DREAMBOOTH, StageName.DREAMBOOTH_LORA):
        settings = text_config(stage, tmp_path, checkpoint)
        parts = blank_stage_parts(settings, recipe)
        demand = training_demand(settings, parts)
        second = sum(weight_bytes(parts[name]) for name in ("backbone", "text_encoder"))
        later = sum(size for name, size in demand.resident.items() if name in ("optimizer state", "batch"))
        peaks[stage] = demand.phases[1].peak_bytes
        assert peaks[stage] > max(0, second - later)
    assert peaks[StageName.DREAMBOOTH] < peaks[StageName.DREAMBOOTH_LORA]


def test_a_checkpoint_that_is_named_and_not_changed_is_not_exported(checkpoint: Path, tmp_path: Path) -> None:
    exported = {}
    for stage in (StageName.TEXT_IMAGE, StageName.TEXT_KEY_FRAMES):
        plan = plan_training(text_config(stage, tmp_path, checkpoint), PlanConfig(measure_s=0), recipe, None)
        sizes = {part.name: 4 * part.num_parameters for part in plan.parts}
        exported[stage] = (plan.disk[-1].value, sizes)
    value, sizes = exported[StageName.TEXT_IMAGE]
    assert value == sum(sizes.values())
    value, sizes = exported[StageName.TEXT_KEY_FRAMES]
    assert value == sizes["temporal"]


def test_each_of_many_processes_validates_its_part_of_the_items() -> None:
    settings = config(StageName.IMAGE)
    settings.loader.num_val_items, settings.trainer.max_steps, settings.trainer.validate_every = 24, 10, 5
    parts, counts = blank_stage_parts(settings, recipe), {}
    for settings.trainer.devices in (1, 4, 12):
        counts[settings.trainer.devices] = training_demand(settings, parts).phases[-1].count
    assert counts == {1: 2 * 12, 4: 2 * 3, 12: 2}  # batches of 2


@pytest.mark.parametrize(
    ("stage", "accumulate", "devices", "words"),
    [
        (StageName.TEXT_KEY_FRAMES, 1, 1, "2 clips: loader.batch_size=2 on 1 device"),
        (StageName.TEXT_KEY_FRAMES, 3, 4, "24 clips: loader.batch_size=2 x trainer.accumulate=3 on 4 devices"),
        (StageName.TEXT_IMAGE, 1, 8, "16 pictures: loader.batch_size=2 on 8 devices"),
        (StageName.DREAMBOOTH, 1, 1, "2 pictures and as many of the class: loader.batch_size=2 on 1 device"),
    ],
    ids=str,
)
def test_a_plan_says_how_many_clips_a_step_sees(
    checkpoint: Path, tmp_path: Path, stage: StageName, accumulate: int, devices: int, words: str
) -> None:
    settings = text_config(stage, tmp_path, checkpoint)
    settings.trainer.accumulate, settings.trainer.devices = accumulate, devices
    plan = plan_training(settings, PlanConfig(measure_s=0), recipe, None)
    assert f"a step sees {words}" in plan.notes
    per_process = f"memory, FLOPs and time are those of each of the {devices} processes"
    assert (per_process in plan.notes) is (devices > 1)
