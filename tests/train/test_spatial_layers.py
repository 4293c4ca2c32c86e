"""The image layers during the training of the temporal ones: frozen, tuned, or trained from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.conditioning.driving import DrivingConditions
from drivesim.data.module import DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.diffusion.settings import PredictionSamplingConfig
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import REQUIRED, load_parts
from drivesim.models.build import InterpolationConfig, SpatialLayers, TemporalConfig
from drivesim.nn.temporal import TemporalResBlock
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.fit import fit
from drivesim.train.optim import OptimConfig
from drivesim.train.recipes import RECIPES, trained_parts

LEARNING_RATE = 1e-4


def config(init: Path, cache: Path, **temporal: object) -> TrainConfig:
    return TrainConfig(
        stage=StageName.PREDICTION,
        name="tiny",
        init=str(init),
        size_hw=[32, 64],
        cache_dir=str(cache),
        temporal=TemporalConfig(num_frames=4, context_channels=8, feed_forward_mult=1, **temporal),  # type: ignore[arg-type]
        predict_sampling=PredictionSamplingConfig(steps=2),
        optim=OptimConfig(learning_rate=LEARNING_RATE, warmup_steps=1, ema_decay=0.0),
        loader=DataModuleConfig(batch_size=2, num_val_items=2),
        trainer=TrainerConfig(max_steps=1, progress=False, accelerator="cpu"),
    )


@pytest.fixture(scope="module")
def trained(image_model: Path, short_town: ClipSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One step of each way."""
    root = tmp_path_factory.mktemp("trained")
    return {
        spatial.value: fit(config(image_model, root / "cache", spatial=spatial), short_town, root / spatial.value)
        for spatial in SpatialLayers
    }


def backbone(folder: Path) -> torch.Tensor:
    """All of its weights in one row."""
    weights = load_parts(folder, ("backbone",))["backbone"].state_dict()
    return torch.cat([value.flatten() for value in weights.values()])


def test_the_image_layers_stay_move_or_begin_anew(image_model: Path, trained: dict[str, Path]) -> None:
    before = backbone(image_model)
    assert torch.equal(backbone(trained["frozen"]), before)
    moved = (backbone(trained["tuned"]) - before).abs()
    assert 0 < moved.max() <= 1.01 * LEARNING_RATE  # one step of AdamW
    apart = (backbone(trained["scratch"]) - before).abs()
    assert apart.max() > 100 * LEARNING_RATE


def test_every_way_gives_a_whole_model_that_predicts_and_says_how_it_was_trained(trained: dict[str, Path]) -> None:
    for spatial, folder in trained.items():
        stored = json.loads((folder / "temporal" / "config.json").read_text())
        assert stored["spatial"] == spatial
        model = DrivingModel.from_pretrained(folder)
        latents = model.encode(np.zeros((1, 32, 64, 3), dtype=np.uint8))
        made = model.predict(latents[None], generators=[torch.Generator().manual_seed(0)], conditions=[None])
        assert made.shape == (1, 4, 4, 4, 8)


def test_only_image_layers_that_stayed_design_start_frames(trained: dict[str, Path]) -> None:
    conditions = DrivingConditions.of_pictures([None], (32, 64), [None], [None])
    generators = [torch.Generator().manual_seed(0)]
    assert DrivingModel.from_pretrained(trained["frozen"]).design(conditions, generators).shape == (1, 4, 4, 8)
    with pytest.raises(ValueError, match=r"designs no start frames: .*temporal.spatial=scratch"):
        DrivingModel.from_pretrained(trained["scratch"]).design(conditions, generators)


def test_an_interpolation_needs_the_image_layers_of_an_image_model(trained: dict[str, Path], tmp_path: Path) -> None:
    parts = load_parts(trained["tuned"], REQUIRED)
    for init in (trained["tuned"], trained["tuned"].parent):  # the run folder stands for it
        settings = config(init, tmp_path)
        settings.stage = StageName.INTERPOLATION
        settings.interpolation = InterpolationConfig(num_frames=3, rates=[8.0])
        with pytest.raises(ValueError, match=r"trained with its prediction \(temporal.spatial=tuned\)"):
            RECIPES[StageName.INTERPOLATION].make(settings, parts)


def test_a_warm_start_brings_all_that_is_trained(image_model: Path, tmp_path: Path) -> None:
    assert trained_parts(config(image_model, tmp_path)) == ("temporal",)
    assert set(trained_parts(config(image_model, tmp_path, spatial=SpatialLayers.SCRATCH))) == {
        "temporal", "backbone", "conditioner",
    }  # fmt: skip


@pytest.mark.parametrize(("time_kernel", "seen"), [(1, [3]), (3, [1, 2, 3, 4, 5])])
def test_a_convolution_sees_as_many_frames_as_its_kernel_says(time_kernel: int, seen: list[int]) -> None:
    torch.manual_seed(0)
    block = TemporalResBlock(8, 4, groups=8, time_kernel=time_kernel)
    torch.nn.init.normal_(block.conv2.weight)
    if time_kernel > 1:  # groups then span all frames; without the norms only the convolutions see other ones
        block.norm1, block.norm2 = torch.nn.Identity(), torch.nn.Identity()
    video = torch.randn(1, 8, 7, 6)
    other = video.clone()
    other[:, :, 3, :2] += 1.0  # not the same everywhere, which norms of single frames would take away
    embed = torch.zeros(1, 7, 4)
    changed = (block(video, embed) - block(other, embed)).abs().amax(dim=(0, 1, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == seen


def test_a_stack_without_temporal_convolution_comes_back_as_one(
    image_model: Path, short_town: ClipSource, tmp_path: Path
) -> None:
    model = fit(config(image_model, tmp_path / "cache", time_kernel=1), short_town, tmp_path / "run")
    stack = load_parts(model, ("temporal",))["temporal"]
    assert stack.config.time_kernel == 1
    assert stack.down_blocks[0].resnets[0].block.conv1.weight.shape[2:] == (1, 1)
    with pytest.raises(ValueError, match="time_kernel is 2; it must be an odd number"):
        TemporalConfig(time_kernel=2)
