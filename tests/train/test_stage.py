"""What all training stages share."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drivesim.train import stage as stage_module
from drivesim.train.config import TrainConfig, TrainerConfig
from drivesim.train.fit import _trainer
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import VALIDATION_SEED, Stage


@pytest.mark.parametrize("world", [1, 3])
def test_each_process_validates_with_noise_of_its_own(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[object, ...]] = []
    monkeypatch.setattr(stage_module, "torch_generator", lambda *key: keys.append(key))

    def validate(rank: int, number: int) -> None:
        own = SimpleNamespace(
            trainer=SimpleNamespace(world_size=world), global_rank=rank, ema=SimpleNamespace(swapped_in=nullcontext),
            loss=lambda *_: {}, log_dict=lambda *_, **__: None,
        )  # fmt: skip
        Stage.validation_step(own, {}, number)  # type: ignore[arg-type]

    for number in range(2):
        for rank in range(world):
            validate(rank, number)
    assert keys == [(VALIDATION_SEED, "val", number) for number in range(2 * world)]


class OneLayer(Stage):
    """A stage that trains one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(nn.ModuleDict({"layer": layer}), nn.ModuleDict(), OptimConfig(), seed=0)

    def loss(self, *_: object) -> dict[str, torch.Tensor]:
        """Never asked for."""
        raise AssertionError

    sample_pictures = loss  # type: ignore[assignment]


def test_processes_send_each_other_no_averages(tmp_path: Path) -> None:
    trainer = _trainer(TrainConfig(trainer=TrainerConfig(devices=2, accelerator="cpu", progress=False)), tmp_path)
    with patch("lightning.pytorch.strategies.ddp.DistributedDataParallel", spec=DistributedDataParallel) as made:
        trainer.strategy._setup_model(OneLayer(nn.Linear(1, 1)))  # type: ignore[attr-defined]
    said = {key: value for key, value in made.call_args.kwargs.items() if key.endswith("_buffers")}
    assert said in ({"forward_sync_buffers": False}, {"broadcast_buffers": False})  # torch has renamed it


def test_running_statistics_of_batches_are_not_trained_since_each_process_would_have_its_own() -> None:
    OneLayer(nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(AssertionError, match="running statistics would differ between processes"):
        OneLayer(nn.Sequential(nn.BatchNorm1d(2)))
