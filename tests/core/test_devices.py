"""Devices of this machine: which one an accelerator is, and what is refused."""

from __future__ import annotations

import pytest
import torch

from drivesim.core.devices import accelerator_device, check_accelerator


def test_the_device_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivesim.core.devices.devices", lambda: ["cpu", "cuda", "cuda:0", "cuda:1"])
    for key in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(key, raising=False)
    assert [accelerator_device(name) for name in ("auto", "gpu", "cuda", "cpu")] == ["cuda", "cuda", "cuda", "cpu"]
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert accelerator_device("auto") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [accelerator_device(name) for name in ("gpu", "cpu")] == ["cuda:1", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert accelerator_device("auto") == "cuda", "each process is shown its own GPU alone"
    monkeypatch.setattr("drivesim.core.devices.devices", lambda: ["cpu"])
    assert accelerator_device("auto") == "cpu"


def test_more_devices_than_there_are_need_more_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivesim.core.devices.devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    check_accelerator("auto", 40, 5)
    with pytest.raises(
        ValueError, match="devices=40 on trainer.num_nodes=1: this machine has 8 GPUs; set trainer.num_n"
    ):
        check_accelerator("gpu", 40)
    with pytest.raises(
        ValueError, match="set trainer.num_nodes=4 and start the command on each .* or trainer.devices=24"
    ):
        check_accelerator("gpu", 28, 3)
    monkeypatch.setattr("drivesim.core.devices.devices", lambda: ["cpu"])
    check_accelerator("cpu", 40)
    with pytest.raises(ValueError, match="processors and no GPU"):
        check_accelerator("auto", 4096)
