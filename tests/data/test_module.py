"""The order of training batches, with and without a stop, under the real Trainer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from drivesim.data.batches import Item
from drivesim.data.module import CachedDataModule, DataModuleConfig, StepSampler


class Numbers(Dataset[Item]):
    """Item i says i."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Item:
        return {
            "latents_TCHW": torch.full((1, 1, 1, 1), float(index)),
            "boxes_TN4": torch.zeros(1, 0, 4),
            "classes_TN": torch.zeros(1, 0, dtype=torch.int64),
            "num_cars_T": torch.zeros(1, dtype=torch.int64),
            "is_night": torch.tensor(0),
            "has_boxes": torch.tensor(True),
        }


class Listens(LightningModule):
    """Notes the numbers that it is trained and validated on; steps one optimizer, or two by hand."""

    def __init__(self, num_optimizers: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.num_optimizers = num_optimizers
        self.automatic_optimization = num_optimizers == 1
        self.seen: list[list[int]] = []
        self.validated: list[list[int]] = []

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([self.weight], lr=0.1) for _ in range(self.num_optimizers)]

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["latents_BTCHW"].flatten().int().tolist())
        loss = (self.weight * batch["latents_BTCHW"].mean()).sum()
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                optimizer.step()
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.validated.append(batch["latents_BTCHW"].flatten().int().tolist())


def _fit(folder: Path, max_steps: int, *, module: Listens, resume: Path | None = None, **settings: Any) -> Listens:
    save = ModelCheckpoint(
        folder, filename="at-{step}", every_n_train_steps=settings.pop("save_every", 3), save_top_k=-1
    )
    trainer = Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[save],
        **settings,
    )
    config = DataModuleConfig(batch_size=2, num_val_items=5)
    data = CachedDataModule(Numbers(), Numbers(), config)
    trainer.fit(module, data, ckpt_path=resume)
    return module


def _batches(first: int, last: int) -> list[list[int]]:
    return [[2 * k, 2 * k + 1] for k in range(first, last)]


def test_batch_k_is_the_same_wherever_the_sampler_starts() -> None:
    whole = list(islice(StepSampler(4), 20))
    assert whole[3] == [12, 13, 14, 15]
    assert list(islice(StepSampler(4, first_step=13), 7)) == whole[13:]


def test_processes_share_a_batch_without_overlap() -> None:
    parts = [list(islice(StepSampler(3, 5, rank, 4), 2)) for rank in range(4)]
    together = sorted(number for part in parts for batch in part for number in batch)
    assert together == list(range(5 * 12, 7 * 12))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [
    {},
    {"accumulate_grad_batches": 2},
    {"val_check_interval": 2},
    {"limit_train_batches": 4},
], ids=str)  # fmt: skip
def test_a_resumed_training_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    per_step = settings.get("accumulate_grad_batches", 1)
    whole = _fit(tmp_path / "whole", 9, module=Listens(), **settings)
    assert whole.seen == _batches(0, 9 * per_step)
    _fit(tmp_path / "cut", 6, module=Listens(), **settings)
    (checkpoint,) = (tmp_path / "cut").glob("at-step=3.ckpt")
    resumed = _fit(tmp_path / "resumed", 9, module=Listens(), resume=checkpoint, **settings)
    assert resumed.seen == _batches(3 * per_step, 9 * per_step)


@pytest.mark.filterwarnings("ignore")
def test_two_optimizers_do_not_count_twice(tmp_path: Path) -> None:
    _fit(tmp_path / "cut", 12, module=Listens(2), save_every=2)
    checkpoint = sorted((tmp_path / "cut").glob("*.ckpt"))[0]
    done = torch.load(checkpoint, weights_only=False)["global_step"] // 2
    resumed = _fit(tmp_path / "resumed", 12, module=Listens(2), resume=checkpoint)
    assert resumed.seen == _batches(done, 6)


@pytest.mark.filterwarnings("ignore")
def test_validation_sees_the_same_items_each_time(tmp_path: Path) -> None:
    module = _fit(tmp_path, 4, module=Listens(), val_check_interval=2)
    assert module.validated == [[0, 1], [2, 3], [4]] * 2


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_batches_for_a_cuda_device_lie_in_pinned_memory(device: str) -> None:
    module = CachedDataModule(Numbers(), Numbers(), DataModuleConfig())
    assert not module.train_dataloader().pin_memory
    strategy = SimpleNamespace(root_device=torch.device(device))
    module.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
    loaders = [module.train_dataloader(), *module.val_dataloader()]
    assert [loader.pin_memory for loader in loaders] == [device == "cuda"] * 2
