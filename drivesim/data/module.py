"""Batches for Lightning in an order that a kill does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from drivesim.data.batches import Batch, Item, collate
from drivesim.data.windows import CaptionWeight


class StepSampler(Sampler[list[int]]):
    """Endless batches of item numbers: batch k holds items k * size to (k + 1) * size - 1.

    Items are pure functions of their number, so a run resumed at step k sees the batches that it
    would have seen without a stop. Of several processes each takes its part of every batch.
    """

    def __init__(
        self, batch_size: int, first_step: Callable[[], int] | int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Sets the order.

        Args:
            batch_size: Items a batch and process.
            first_step: Batches seen before; a function is asked each time that an epoch begins.
            rank: Number of this process.
            world_size: Number of processes.
        """
        self.batch_size, self.first_step = batch_size, first_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step() if callable(self.first_step) else self.first_step
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


@dataclass(kw_only=True, slots=True)
class DataModuleConfig:
    """How items become batches."""

    batch_size: int = 8  # items a batch and process
    num_workers: int = 0  # processes that load; 0 = the training process itself
    num_val_items: int = 32  # items of the validation set, always the same; one or more a process
    caption_weights: list[CaptionWeight] = field(default_factory=list)  # of training clips; [] = all come alike


class CachedDataModule(LightningDataModule):
    """Endless training batches and a fixed validation set.

    The Trainer needs `use_distributed_sampler=False`: the order is this module's.
    """

    def __init__(self, train_set: Dataset[Item], val_set: Dataset[Item] | None, config: DataModuleConfig) -> None:
        """Takes data sets of `batches`; without a val_set there is no validation."""
        super().__init__()
        self.train_set, self.val_set, self.config = train_set, val_set, config

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the one after the last that the trainer, or the run it resumes, has processed."""
        rank, world_size = self._place()
        sampler = StepSampler(self.config.batch_size, self._batches_seen, rank, world_size)
        return DataLoader(self.train_set, batch_sampler=sampler, **self._loading())

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The first `num_val_items` items of the validation set."""
        if self.val_set is None:
            return []
        rank, world_size = self._place()
        items = Subset(self.val_set, range(rank, self.config.num_val_items, world_size))
        return [DataLoader(items, batch_size=self.config.batch_size, **self._loading())]

    def sample_batch(self) -> Batch:
        """What sample pictures are drawn from: the first validation batch, or, without any, of the training items."""
        items = self.train_set if self.val_set is None else self.val_set
        num = min(self.config.batch_size, self.config.num_val_items)
        return collate([items[number] for number in range(num)])

    def _loading(self) -> dict[str, Any]:
        # Lightning copies to a CUDA device while that computes, which works from pinned memory alone.
        is_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"collate_fn": collate, "num_workers": self.config.num_workers, "pin_memory": is_cuda}

    def _batches_seen(self) -> int:
        # Not `global_step`: that counts the steps of every optimizer, and one step a few batches
        # where gradients are accumulated. Lightning stores this one in its checkpoints too.
        if self.trainer is None:
            return 0
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
