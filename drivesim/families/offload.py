"""Networks that come to the device when their stage runs, and wait in the machine's own memory while others do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Bring = Callable[[str], None]  # called before a stage runs, with its name


class Offload:
    """Which networks are on the device: those of the stage that ran last.

    Weights do not change, so what has come to the device keeps its place where it waits: leaving copies nothing.

    Args:
        device: that stages run on; None = nothing waits, all networks stay where they are.
        stages: the networks of each stage, which wait where they are now; one may be in several.
    """

    def __init__(self, device: torch.device | str | None, stages: Mapping[str, Sequence[nn.Module]]):
        self.device = None if device is None else torch.device(device)
        self._stages = {name: list(networks) for name, networks in stages.items()}
        may_wait = [] if device is None else [network for of_stage in stages.values() for network in of_stage]
        # What waits, and as which attribute of which layer.
        self._waiting: dict[nn.Module, list[tuple[nn.Module, str, Tensor]]] = {
            network: [
                (layer, name, tensor)
                for layer in network.modules()
                for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            ]
            for network in may_wait
        }
        self._here: list[nn.Module] = []

    def bring(self, stage: str) -> None:
        """Sends away what the stage does not need, then fetches what it lacks."""
        networks = self._stages[stage]
        if self.device is None:
            return
        self._leave([network for network in self._here if network not in networks])
        for network in networks:
            if network not in self._here:
                self._here.append(network)
                self._fetch(network)

    def leave(self) -> None:
        """Sends all networks away."""
        self._leave(list(self._here))

    def _fetch(self, network: nn.Module) -> None:
        try:
            for layer, name, waiting in self._waiting[network]:
                there = waiting.detach().to(self.device, copy=True)
                is_weight = isinstance(waiting, nn.Parameter)
                setattr(layer, name, nn.Parameter(there, requires_grad=False) if is_weight else there)
        except BaseException:  # such as no memory: half a network is none
            self._leave([network])
            raise

    def _leave(self, networks: Sequence[nn.Module]) -> None:
        for network in networks:
            for layer, name, waiting in self._waiting[network]:
                setattr(layer, name, waiting)
            self._here.remove(network)
