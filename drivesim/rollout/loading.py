"""A model that a process loads when it is needed and lets go of when it is not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from drivesim.rollout.model import PredictionModel

LoadModel = Callable[[], PredictionModel]
M = TypeVar("M", bound=PredictionModel)


class OnceLoaded(Generic[M]):
    """Loads a model at the first call in a process; further calls give the same one.

    Sent to another process, as to Ray's workers, it goes without the model, which is loaded anew there.

    Args:
        load: makes the model; a function of a module or a partial of one where it is sent.
    """

    def __init__(self, load: Callable[[], M]) -> None:
        self._load = load
        self._model: M | None = None

    def __call__(self) -> M:
        """The model, loaded or known."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def let_go(self) -> None:
        """Gives the model's memory back; whoever else holds it keeps it."""
        self._model = None
        gc.collect()  # what goes round in circles, too
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for the workers of the same GPU

    def __reduce__(self) -> tuple[type[OnceLoaded[M]], tuple[Callable[[], M]]]:
        return OnceLoaded, (self._load,)


def once_loaded(load: LoadModel) -> OnceLoaded[PredictionModel]:
    """`load`, or what loads by it once."""
    return load if isinstance(load, OnceLoaded) else OnceLoaded(load)
