"""What all training stages share."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from drivesim.train import stage as stage_module
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
