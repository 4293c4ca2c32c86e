"""The Fréchet distance as a torchmetrics metric: streams, resets, and adds up over processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from drivesim.evaluate.extractors import Extractor
from drivesim.evaluate.frechet import Covariance, FrechetStatistics, frechet_distance


class FrechetDistance(Metric):
    """A Fréchet distance between generated and real frames under one extractor.

    Each side is one packed float64 vector (count, mean, scatter), so that processes are merged as
    exactly as batches are.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    real: Tensor
    generated: Tensor

    def __init__(self, extractor: Extractor, covariance: Covariance = Covariance.UNBIASED, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = extractor
        self.covariance = covariance
        empty = torch.from_numpy(FrechetStatistics.empty(extractor.feature_dim).packed())
        for side in ("real", "generated"):
            self.add_state(side, default=empty.clone(), dist_reduce_fx=self._merged)

    def update(self, frames_BTHWC: NDArray[np.uint8], real: bool) -> None:
        """Adds clips (B, T, H, W, 3), uint8 or floats in [0, 1], to one side."""
        features = self.extractor(frames_BTHWC).numpy()
        batch = FrechetStatistics.empty(self.extractor.feature_dim)
        batch.update(features)
        side = "real" if real else "generated"
        packed = torch.from_numpy(batch.packed()).to(self.device)
        setattr(self, side, self._merged(torch.stack([getattr(self, side), packed])))

    def compute(self) -> Tensor:
        """The distance, a float64 scalar."""
        distance = frechet_distance(self._unpacked(self.generated), self._unpacked(self.real), self.covariance)
        return torch.tensor(distance, dtype=torch.float64)

    def _unpacked(self, packed: Tensor) -> FrechetStatistics:
        return FrechetStatistics.unpacked(packed.double().cpu().numpy(), self.extractor.feature_dim)

    def _merged(self, stacked: Tensor) -> Tensor:
        """One packed vector of several (P, 1 + D + D * D)."""
        total = FrechetStatistics.empty(self.extractor.feature_dim)
        for packed in stacked:
            total.merge(self._unpacked(packed))
        return torch.from_numpy(total.packed()).to(stacked.device)
