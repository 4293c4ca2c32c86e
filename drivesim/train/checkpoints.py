"""Checkpoints that a kill cannot tear, and pictures of what a model has learned so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from drivesim.core.files import atomic_path
from drivesim.core.picture import save_png
from drivesim.train.stage import Stage


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name first: a killed run leaves the last one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes `checkpoint` to `path` in one step."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class WholeStepCheckpoint(ModelCheckpoint):
    """Writes checkpoints between optimizer steps alone.

    Lightning's forgets in a resume which step it has written. The first micro-batch after it is still of that step: it
    would write the checkpoint again, with that batch counted as seen and its gradients lost.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes when the step is due and whole."""
        if is_whole_step(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def is_whole_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a batch is the last of its optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class SamplePictures(L.Callback):
    """Every `every_steps` steps a picture from the first validation items, as PNG and in TensorBoard."""

    def __init__(self, folder: Path, every_steps: int):
        self.folder = folder
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when the step is due."""
        step = trainer.global_step
        due = step % self.every_steps == 0 or step == trainer.max_steps
        if not due or not trainer.is_global_zero or not is_whole_step(trainer, batch_idx):
            return
        assert isinstance(pl_module, Stage)
        batch = trainer.datamodule.sample_batch()  # type: ignore[attr-defined]
        batch = trainer.precision_plugin.convert_input(pl_module.transfer_batch_to_device(batch, pl_module.device, 0))
        picture = pl_module.sample_pictures(batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_png(self.folder / f"step_{step:06d}.png", picture)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", picture, step, dataformats="HWC")
