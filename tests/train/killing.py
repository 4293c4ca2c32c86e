"""A training that ends in the middle of a step, as a kill ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from drivesim.train.stage import Batch, Stage


@contextmanager
def killed_within(step: int) -> Iterator[None]:
    """A block in which a training is run, which is killed at the second batch of a step that is made of two."""
    batches: list[int] = []
    step_of = Stage.training_step

    def killed(self: Stage, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            batches.append(batch_idx)
        if len(batches) == 2:
            raise SystemExit("killed")
        return step_of(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="killed"):
        patch.setattr(Stage, "training_step", killed)
        yield
