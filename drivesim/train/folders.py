"""How a training reads and writes the model folders of its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from drivesim.core.devices import number_type
from drivesim.families.folder import (
    blank_parts,
    find_model,
    fingerprint,
    judged_parts,
    load_parts,
    save_parts,
    write_index,
)
from drivesim.families.joining import carry, check_joined, check_outcome
from drivesim.train.config import TrainConfig

Parts = dict[str, Any]  # of a model folder, by name


class ModelFolders(ABC):
    """Model folders of one family."""

    @abstractmethod
    def check(self, config: TrainConfig, trained: Iterable[str]) -> None:
        """Raises ValueError when the folders that go into the exported model contradict each other."""

    @abstractmethod
    def check_outcome(self, config: TrainConfig, parts: Parts, trained: Iterable[str], index: dict[str, Any]) -> None:
        """Raises ValueError when the exported model would be a whole one whose parts do not fit together.

        Args:
            config: of the training, which `check` has passed.
            parts: those of `init` and those that the stage makes, with or without weights.
            trained: names of the parts that are made anew.
            index: facts that the stage adds to the model's index.
        """

    @abstractmethod
    def load(self, source: str, names: Iterable[str]) -> Parts:
        """Parts by name, in evaluation mode.

        Raises:
            ValueError: a part that is missing or cannot be used; says which.
        """

    @abstractmethod
    def blank(self, source: str, names: Iterable[str]) -> Parts:
        """The same parts without weights, on the meta device; errors as in `load`."""

    @abstractmethod
    def judged(self, source: str, names: Iterable[str]) -> Parts:
        """As `blank`, once the headers of the files that hold the weights have been read; errors as in `load`."""

    @abstractmethod
    def fingerprint(self, source: str, names: Iterable[str]) -> str:
        """Changes when the weights or configs of these parts do."""

    @abstractmethod
    def export(
        self, config: TrainConfig, made: Parts, trained: Iterable[str], index: dict[str, Any], folder: Path
    ) -> None:
        """Writes a model folder: the parts that were made, and those that `init` and `joins` have beside them.

        Args:
            config: of the training; its name, `init` and type of weights are read.
            made: parts by name.
            trained: names of the parts that a later model's must not be mixed with.
            index: facts that the stage adds to the model's index.
            folder: a new folder.
        """


def weight_type(config: TrainConfig) -> torch.dtype:
    """The type of exported weights."""
    return number_type(config.weights)


class _DrivingFolders(ModelFolders):
    """One sub-folder a part, those of `families.folder`."""

    def check(self, config: TrainConfig, trained: Iterable[str]) -> None:
        check_joined(self._sources(config), trained)

    def check_outcome(self, config: TrainConfig, parts: Parts, trained: Iterable[str], index: dict[str, Any]) -> None:
        check_outcome(self._sources(config), parts, trained, {"name": config.name} | index)

    def load(self, source: str, names: Iterable[str]) -> Parts:
        return load_parts(find_model(source), names)

    def blank(self, source: str, names: Iterable[str]) -> Parts:
        return blank_parts(find_model(source), names)

    def judged(self, source: str, names: Iterable[str]) -> Parts:
        return judged_parts(find_model(source), names)

    def fingerprint(self, source: str, names: Iterable[str]) -> str:
        return fingerprint(find_model(source), names)

    def export(
        self, config: TrainConfig, made: Parts, trained: Iterable[str], index: dict[str, Any], folder: Path
    ) -> None:
        save_parts(folder, made, weight_type(config))
        facts = carry(self._sources(config), trained, folder) | index
        if facts:
            write_index(folder, {"name": config.name} | facts)

    def _sources(self, config: TrainConfig) -> list[Path]:
        return [find_model(source) for source in (config.init, *config.joins) if source is not None]


DRIVING_FOLDERS = _DrivingFolders()
