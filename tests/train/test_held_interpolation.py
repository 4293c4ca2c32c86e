"""An interpolation whose frames between see both given ones, also past its convolutions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivesim.data.module import DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.diffusion.settings import SamplingConfig
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import INDEX, load_parts
from drivesim.models.build import InterpolationConfig
from drivesim.models.video_unet import VideoUNet
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.fit import fit
from drivesim.train.interpolation import InterpolationLossConfig
from drivesim.train.optim import OptimConfig

KEY_FPS = 2.0  # the town has 4 frames a second
PLAIN = InterpolationConfig(num_frames=3, rates=[4.0], label_dim=8, context_channels=8, feed_forward_mult=1)


@pytest.fixture(scope="module")
def slow_model(image_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image model, for key frames half as many a second."""
    folder = tmp_path_factory.mktemp("slow") / "tiny"
    shutil.copytree(image_model, folder)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"fps": KEY_FPS}))
    return folder


def settings(image_model: Path, folder: Path, interpolation: InterpolationConfig, **others: Any) -> TrainConfig:
    return TrainConfig(
        stage=StageName.INTERPOLATION,
        name="tiny",
        init=str(image_model),
        size_hw=[32, 64],
        fps=KEY_FPS,
        cache_dir=str(folder / "cache"),
        interpolation=interpolation,
        interpolation_loss=InterpolationLossConfig(drop_context=0.0),
        interpolate_sampling=SamplingConfig(steps=1),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.0),
        loader=DataModuleConfig(batch_size=2, num_val_items=2),
        trainer=TrainerConfig(max_steps=2, progress=False, accelerator="cpu"),
        **others,
    )


def test_frames_between_see_both_ends_in_training_and_in_its_pictures_and_shortcuts_are_trained(
    slow_model: Path, short_town: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fit(settings(slow_model, tmp_path, PLAIN), short_town, tmp_path / "plain")
    seen: list[tuple[bool, Tensor]] = []
    forward = VideoUNet.forward

    def watched(self: VideoUNet, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((torch.is_grad_enabled(), kwargs["context_BTCHW"].detach().clone()))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(VideoUNet, "forward", watched)
    held = replace(PLAIN, hold_context=True, context_shortcut=True, still_below=1e6)
    folder = fit(settings(slow_model, tmp_path, held, warm_start=str(plain)), short_town, tmp_path / "held")
    assert {is_training for is_training, _ in seen} == {True, False}
    for _, context in seen:
        torch.testing.assert_close(context[:, 1, :-1], context[:, [0, 2], :-1].mean(dim=1))
        assert context[:, :, -1].mean(dim=(2, 3)).tolist() == [[1, 0, 1]] * len(context)
    stack = load_parts(folder, ["interpolation"])["interpolation"]
    assert stack.config.hold_context and stack.config.context_shortcut
    shortcuts = {name: p for name, p in stack.named_parameters() if name.endswith("block.shortcut.weight")}
    assert shortcuts and all(p.any() for p in shortcuts.values()), "they begin at zero"
    ends = torch.randn(1, 2, 4, 4, 8)
    model = DrivingModel.from_pretrained(folder)
    made = model.interpolate(ends, 0, generators=[torch.Generator().manual_seed(0)], conditions=[None])
    torch.testing.assert_close(made[:, 1], ends.mean(dim=1), msg="below 1e6 frames between are the mix of both")
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"interpolation.still_below is {wrong}; it must be a number from 0 up"):
            replace(PLAIN, still_below=wrong)


def test_shortcuts_that_are_there_are_not_left_out(slow_model: Path, short_town: ClipSource, tmp_path: Path) -> None:
    held = replace(PLAIN, context_shortcut=True)
    folder = fit(settings(slow_model, tmp_path, held), short_town, tmp_path / "held")
    with pytest.raises(ValueError, match=r"warm_start=.*part 'interpolation' does not fit.*shortcut"):
        fit(settings(slow_model, tmp_path, PLAIN, warm_start=str(folder)), short_town, tmp_path / "plain")
