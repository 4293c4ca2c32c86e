"""Networks that wait for their stage: who is where, and that no stage runs without its networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drivesim import Scene, Simulator
from drivesim.core.boxes import Boxes2D
from drivesim.families.driving import DrivingModel, model_facts
from drivesim.families.folder import load_parts, part_names
from drivesim.families.memory import MemoryConfig
from drivesim.families.offload import Offload
from drivesim.families.prompts import Prompts
from drivesim.families.text import TextModel, text_facts
from drivesim.families.text_parts import judge_text_parts
from drivesim.families.text_sources import Sources
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_text import write_tiny_text


def _places(*networks: nn.Module) -> list[str]:
    return [next(network.parameters()).device.type for network in networks]


def test_a_stage_fetches_its_networks_and_sends_the_others_back_to_where_they_were() -> None:
    shared, one, other = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)
    before = {network: next(network.parameters()).data_ptr() for network in (shared, one, other)}
    offload = Offload("meta", {"first": [shared, one], "second": [shared, other]})
    assert _places(shared, one, other) == ["cpu", "cpu", "cpu"]
    offload.bring("first")
    assert _places(shared, one, other) == ["meta", "meta", "cpu"]
    assert one.running_mean is not None and one.running_mean.is_meta, "buffers come along"
    fetched = shared.weight.untyped_storage()._cdata
    offload.bring("second")
    assert _places(shared, one, other) == ["meta", "cpu", "meta"]
    assert shared.weight.untyped_storage()._cdata == fetched, "what both stages need stays"
    offload.leave()
    assert {network: next(network.parameters()).data_ptr() for network in before} == before


def test_a_network_that_does_not_fit_goes_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    offload, to = Offload("meta", {"first": [first], "second": [second]}), Tensor.to

    def full(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.shape == second.bias.shape:
            raise torch.OutOfMemoryError("no memory")
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", full)
    with pytest.raises(torch.OutOfMemoryError):
        offload.bring("second")
    monkeypatch.undo()
    assert _places(first, second) == ["cpu", "cpu"] and not second.weight.is_meta
    offload.bring("second")
    assert _places(first, second) == ["cpu", "meta"]


def _watched(offload: Offload, networks: dict[str, nn.Module]) -> tuple[set[str], set[str]]:
    """Names of networks that ran, and of those that ran while they were not on the device."""
    ran, absent = set(), set()

    def watch(name: str, network: nn.Module) -> Callable[..., None]:
        def note(*_: object) -> None:
            ran.add(name)
            if all(network is not here for here in offload._here):
                absent.add(name)

        return note

    for name, network in networks.items():
        for module in network.modules():  # some are called by their layers alone
            module.register_forward_pre_hook(watch(name, network))
    return ran, absent


def test_every_stage_of_driving_runs_with_its_networks_and_makes_the_same_bytes(tmp_path: Path) -> None:
    folder = write_tiny_cascade(tmp_path / "model")
    index = model_facts(folder)
    scene, made = Scene(name="street", size_hw=(64, 128), boxes_2d=Boxes2D.empty()), []
    for device in (None, "cpu"):
        parts = load_parts(folder, part_names(index))
        model = DrivingModel(parts, index, "", offload_to=device)
        networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        ran, absent = _watched(model.offload, networks)
        sim = Simulator(model)
        start = sim.start(scene, seed=1)
        assert start.frame_HWC is not None
        made.append([*sim.rollout(start, seconds=6.0), *sim.rollout(start.frame_HWC, seconds=1.0)])
        assert ran == set(networks)
    assert not absent
    assert len(model.offload._here) < 4
    assert all(np.array_equal(whole, offloaded) for whole, offloaded in zip(*made, strict=True))


def _on(part: Any, device: str) -> Any:
    return part.to(device) if isinstance(part, nn.Module) else part


def test_a_model_whose_networks_wait_is_where_they_will_run(tmp_path: Path) -> None:
    folder = write_tiny_cascade(tmp_path / "model")
    index = model_facts(folder)
    model = DrivingModel(load_parts(folder, part_names(index)), index, "", offload_to="meta")
    assert (model.device, model.dtype) == (torch.device("meta"), torch.float32)
    assert model.video_unet.backbone.device == torch.device("cpu")
    plain = DrivingModel(load_parts(folder, part_names(index)), index, "")
    assert plain.device == torch.device("cpu")
    there = DrivingModel(
        {name: _on(part, "meta") for name, part in load_parts(folder, part_names(index)).items()}, index, ""
    )
    assert there.fingerprint == model.fingerprint, "where networks wait changes no frame"
    assert plain.fingerprint != model.fingerprint, "another kind of device rounds otherwise"


def test_every_stage_of_a_text_model_runs_with_its_networks_and_makes_the_same_bytes(tmp_path: Path) -> None:
    folder, made = write_tiny_text(tmp_path / "model"), []
    frame = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    index = text_facts(folder)
    for device in (None, "cpu"):
        parts = judge_text_parts(folder, index, Sources()).read()
        model = TextModel(parts, index, "", offload_to=device)
        networks = {name: net for name, net in parts.networks().items() if isinstance(net, nn.Module)}
        ran, absent = _watched(model.offload, networks)
        made.append(list(Simulator(model).rollout(frame, prompt=Prompts(prompts=["a car", "night"]), seed=1)))
        assert ran == set(networks)
    assert not absent
    assert all(np.array_equal(whole, offloaded) for whole, offloaded in zip(*made, strict=True))


def test_without_a_gpu_there_is_nowhere_else_to_wait(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="memory.offload=true with device=cpu, whose memory is the machine's own"):
        DrivingModel.from_pretrained(write_tiny_cascade(tmp_path / "model"), memory=MemoryConfig(offload=True))
    MemoryConfig(offload=True).check_offload("cuda:1")
