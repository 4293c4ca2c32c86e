"""Length, devices and machines of a training, and what Lightning is kept from saying."""

from __future__ import annotations

import logging
import warnings

import pytest

from drivesim.data.module import DataModuleConfig
from drivesim.train.config import TrainConfig, TrainerConfig
from drivesim.train.quiet import quiet_lightning


@pytest.mark.parametrize(("devices", "num_nodes"), [(16, 3), (0, 1), (1, 2), (4, 0)])
def test_devices_that_machines_cannot_share_alike_are_refused(devices: int, num_nodes: int) -> None:
    assert TrainerConfig(devices=16, num_nodes=2).devices_per_node == 8
    with pytest.raises(ValueError, match=f"devices={devices} on trainer.num_nodes={num_nodes}: .*must be 1 or more on"):
        TrainerConfig(devices=devices, num_nodes=num_nodes)


def test_fewer_validation_items_than_devices_are_refused_by_both_keys() -> None:
    trainer = TrainerConfig(devices=4, num_nodes=2)
    TrainConfig(loader=DataModuleConfig(num_val_items=4), trainer=trainer)
    with pytest.raises(ValueError, match="^loader.num_val_items=3 for trainer.devices=4: .*set loader.num_val_items=4"):
        TrainConfig(loader=DataModuleConfig(num_val_items=3), trainer=trainer)


def test_processes_that_are_started_one_by_one_have_to_be_told_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    alone, pair = (TrainerConfig(devices=devices, accelerator="cpu") for devices in (1, 2))
    pair.check_machine(None)  # Lightning starts the second and tells it
    monkeypatch.setenv("RANK", "0")
    alone.check_machine(None)
    pair.check_machine("run")
    for settings in (pair, TrainerConfig(devices=2, num_nodes=2, accelerator="cpu")):
        with pytest.raises(ValueError, match="trainer.devices=2 are started one by one.*give out=FOLDER"):
            settings.check_machine(None)
        monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize("key", ["max_steps", "accumulate", "num_threads", "picture_every", "validate_every"])
def test_a_trainer_of_nothing_is_refused_by_its_key(key: str) -> None:
    with pytest.raises(ValueError, match=f"^trainer.{key}=0; must be 1 or more"):
        TrainerConfig(**{key: 0})  # type: ignore[arg-type]


def test_lightning_speaks_of_real_problems_alone() -> None:
    quiet_lightning()
    assert not logging.getLogger("lightning.pytorch.utilities.rank_zero").isEnabledFor(logging.INFO)
    assert logging.getLogger("lightning.pytorch.utilities.rank_zero").isEnabledFor(logging.WARNING)
    with warnings.catch_warnings(record=True) as told:
        quiet_lightning()
        warnings.warn("Checkpoint directory a/b exists and is not empty.", stacklevel=1)
        warnings.warn("GPU available but not used.", stacklevel=1)
    assert [str(warning.message) for warning in told] == ["GPU available but not used."]
