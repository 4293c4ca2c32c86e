"""What all training stages share: optimizer, averaged weights, keyed noise, small checkpoints."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.core.seeds import torch_generator
from drivesim.train.ema import EmaWeights
from drivesim.train.optim import OptimConfig, make_optimizer

_log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
# Of its clips and noise, whatever a recipe's seed: errors of two trainings can be compared. DreamBooth's class pictures
# follow the recipe's.
VALIDATION_SEED = 0


class Stage(L.LightningModule):
    """A training stage: some parts are trained, others are frozen and stay out of its checkpoints.

    Args:
        trained: the parts whose weights move.
        frozen: the parts that are only used.
        optim: optimizer and averaging.
        seed: key of all noise, so that a step's loss depends on the step alone, also after a resume.
    """

    def __init__(self, trained: nn.ModuleDict, frozen: nn.ModuleDict, optim: OptimConfig, seed: int):
        super().__init__()
        has_statistics = any(getattr(part, "running_mean", None) is not None for part in trained.modules())
        assert not has_statistics, "batches' running statistics would differ between processes, which send no buffers"
        self.trained = trained
        self.frozen = frozen.requires_grad_(False).eval()
        self.ema = EmaWeights(self.trained, optim.ema_decay)
        self.optim = optim
        self.seed = seed
        self.strict_loading = False  # frozen parts come from their own files

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms to log; "loss" is the one to descend. All randomness comes from the generator."""

    @abstractmethod
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """A picture (H, W, 3) that shows what the stage has learned, from a validation batch."""

    def finish(self) -> None:
        """Changes the averaged weights, which stand in the place of the trained ones, before they are written."""

    def on_fit_start(self) -> None:
        """Says of several processes that they have found one another."""
        if self.trainer.world_size > 1 and self.global_rank == 0:
            _log.info("training in %d processes by %s", self.trainer.world_size, torch.distributed.get_backend())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch."""
        key = (self.seed, "train", self.global_step, batch_idx % self.trainer.accumulate_grad_batches, self.global_rank)
        terms = self.loss(batch, torch_generator(*key))
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, prog_bar=True)
        if not bool(torch.isfinite(terms["loss"])):  # before a checkpoint could keep what comes of it
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise FloatingPointError(
                f"step {self.global_step}: the loss is not finite ({values}); the last checkpoint is older and whole; "
                "a lower optim.learning_rate or optim.clip_norm, in another folder, is the usual remedy"
            )
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged weights' loss on fixed data with fixed noise, the same for trainings of every seed.

        Noise is a batch's: errors of trainings with other batches of validation, or on more devices, differ by it.
        """
        number = batch_idx * self.trainer.world_size + self.global_rank
        with self.ema.swapped_in():
            terms = self.loss(batch, torch_generator(VALIDATION_SEED, "val", number))
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, sync_dist=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Moves the averages with the weights: checkpoint callbacks run before the module's own batch-end hook."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.global_step)

    def on_train_start(self) -> None:
        """Lightning puts everything in training mode; frozen parts stay as they are."""
        self.frozen.eval()

    def on_validation_model_train(self) -> None:
        """As `on_train_start`, after validation."""
        super().on_validation_model_train()
        self.frozen.eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the trained parts and their averages; frozen parts come from their own files."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: w for name, w in weights.items() if name.startswith(("trained.", "ema."))}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimizer with a schedule by step."""
        optimizer, schedule = make_optimizer(self.trained, self.optim, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
