"""A prediction that is told how the ego car drives: what of a clip it hears, and what comes out of its training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivesim.core.motion import MotionSegment
from drivesim.data.module import DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.diffusion.settings import PredictionSamplingConfig
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.models.build import TemporalConfig
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.fit import fit
from drivesim.train.latent_ldm import told_motion
from drivesim.train.optim import OptimConfig


def test_of_some_clips_it_hears_nothing_of_some_all_and_of_the_others_the_beginning() -> None:
    motion_BT2 = torch.randn(4000, 10, 2)
    told = told_motion(motion_BT2, 0.4, torch.Generator().manual_seed(0))
    is_told_BT = ~told.isnan().any(-1)
    numbers_B = is_told_BT.sum(1)
    assert (is_told_BT == (torch.arange(10)[None] < numbers_B[:, None])).all(), "what is told is the beginning"
    assert torch.equal(told[is_told_BT], motion_BT2[is_told_BT])
    shares = [(numbers_B == 0).float().mean().item(), (numbers_B == 10).float().mean().item()]
    assert shares == pytest.approx([0.4, 0.3], abs=0.03)
    assert (numbers_B.bincount(minlength=11)[1:10] > 0).all()
    assert told_motion(motion_BT2, 1.0, torch.Generator()).isnan().all()


def test_a_training_leaves_a_model_that_drives_as_it_is_told(
    image_model: Path, short_town: ClipSource, tmp_path: Path
) -> None:
    folder = fit(
        TrainConfig(
            stage=StageName.PREDICTION,
            name="tiny",
            init=str(image_model),
            size_hw=[32, 64],
            cache_dir=str(tmp_path / "cache"),
            temporal=TemporalConfig(
                num_frames=4,
                context_channels=8,
                feed_forward_mult=1,
                ego_motion=True,
                hold_context=True,
                view_fov_deg=64.0,
            ),
            predict_sampling=PredictionSamplingConfig(steps=2),
            optim=OptimConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.0),
            loader=DataModuleConfig(batch_size=2, num_val_items=2),
            trainer=TrainerConfig(max_steps=4, progress=False, accelerator="cpu"),
        ),
        short_town,
        tmp_path / "run",
    )
    model = DrivingModel.from_pretrained(folder)
    assert model.is_told_motion
    for name, parameter in model.video_unet.temporal.named_parameters():
        if name.endswith("motion_embed.proj_out.weight"):
            assert parameter.any(), f"{name} began at zero and was never trained"
    given = torch.randn(1, 1, 4, 4, 8, generator=torch.Generator().manual_seed(0))

    def made(*motion: MotionSegment) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(0)]
        return model.predict(given, generators=generators, conditions=[DriveFacts(motion=motion)])

    fast = MotionSegment(seconds=2.0, speed_mps=20.0, yaw_deg_per_s=40.0)
    assert not torch.allclose(made(), made(fast), atol=1e-4)


def test_a_view_that_moves_needs_a_held_frame_and_motion() -> None:
    with pytest.raises(ValueError, match="that takes temporal.hold_context and temporal.ego_motion, too"):
        TemporalConfig(view_fov_deg=64.0, hold_context=True)
    with pytest.raises(ValueError, match="view_fov_deg is 180.0; it must be from 0 up to 180"):
        TemporalConfig(view_fov_deg=180.0)
