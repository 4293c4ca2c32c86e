"""A run that is given more steps than it was begun with, or fewer, and goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from drivesim.core.files import read_json, write_json
from drivesim.core.run_folder import IDENTITY_FILE

LENGTHS = "earlier_lengths.json"  # in a run folder: how long the run was to be before, and up to which step
_LENGTH = "max_steps"
_log = logging.getLogger(__name__)


class RateOfLength(L.Callback):
    """Gives the first step of a run that is gone on with the learning rate of the run's own length.

    A checkpoint holds the rate of the next step of the length that it was made for.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called when all is restored."""
        for schedule in (config.scheduler for config in trainer.lr_scheduler_configs):
            assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR), schedule
            groups = schedule.optimizer.param_groups
            for group, peak, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = peak * share(schedule.last_epoch)


def last_checkpoint(out: Path) -> Path:
    """Where a run goes on from, whether there is one yet or not."""
    return out / "checkpoints" / "last.ckpt"


def change_length(out: Path, identity: Mapping[str, Any]) -> bool:
    """Gives the run in `out` another number of steps, where that alone is what differs from it.

    From its last checkpoint on the learning rate is that of a run of the new length.

    Args:
        out: run folder; may not be there.
        identity: what fixes the run's weights (`core.run_folder.claim_folder`), with its `max_steps`.

    Returns:
        Whether it had another length.

    Raises:
        ValueError: the last checkpoint is behind the new end.
    """
    path = out / IDENTITY_FILE
    held = read_json(path) if path.is_file() else {}
    if _LENGTH not in held or held == identity or dict(held) | {_LENGTH: identity[_LENGTH]} != identity:
        return False
    checkpoint = last_checkpoint(out)
    if not checkpoint.is_file():  # there is nothing to go on from
        return False
    step = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["global_step"]
    if step > identity[_LENGTH]:
        raise ValueError(
            f"trainer.max_steps={identity[_LENGTH]}, but {out} is at step {step} already; the fewest are {step}"
        )
    earlier = read_json(out / LENGTHS) if (out / LENGTHS).is_file() else []
    write_json(out / LENGTHS, [*earlier, {"until_step": step, _LENGTH: held[_LENGTH]}])
    write_json(path, dict(identity))
    _log.warning(
        "%s: was to end at step %d and goes on from step %d to %d", out, held[_LENGTH], step, identity[_LENGTH]
    )
    return True
