"""The Inception Score of generated clips by the classes that a network sees in them.

Legend: B clips or frames, T frames, H x W pixels, C channels, K classes, S splits.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from drivesim.evaluate.extractors import ClassScores, Extractor, FeatureKind
from drivesim.evaluate.frames import as_uint8


class InceptionScore(Metric):
    """exp of the mean KL divergence of p(class | clip) from p(class), in splits (Salimans et al. 2016).

    KL = mean_i sum_k p_ik log p_ik - sum_k q_k log q_k with q = mean_i p_i, so three sums a split are all that is
    kept. The published form shuffles by a seed and cuts into equal parts; here a clip's own pixels choose its
    split, so that neither the order nor the number of processes matters, and parts are equal on average only.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    num_scored: Tensor  # (S,)
    probability_sum: Tensor  # (S, K)
    log_likelihood_sum: Tensor  # (S,) of sum_k p log p

    def __init__(self, extractor: Extractor, num_splits: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        class_scores: ClassScores | None = getattr(extractor, "class_scores", None)
        if class_scores is None:
            raise ValueError(
                f"{extractor.name}: its features are no class scores; "
                "choose c3d-ucf101, i3d-torchscript or i3d-kinetics400"
            )
        if num_splits < 1:
            raise ValueError(f"num_splits is {num_splits}; it must be at least 1")
        self.extractor = extractor
        self.class_scores = class_scores
        self.num_splits = num_splits
        for name, shape in (
            ("num_scored", (num_splits,)),
            ("probability_sum", (num_splits, extractor.feature_dim)),
            ("log_likelihood_sum", (num_splits,)),
        ):
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, frames_BTHWC: NDArray[np.uint8]) -> None:
        """Adds clips (B, T, H, W, 3), uint8 or floats in [0, 1].

        Raises:
            ValueError: the network's answers are not what it says they are.
        """
        frames = as_uint8(frames_BTHWC)
        probabilities = class_probabilities(self.extractor(frames), self.class_scores, self.extractor.name)
        probabilities = probabilities.to(self.device)
        scored = frames if self.extractor.kind is FeatureKind.CLIP else frames.reshape(-1, *frames.shape[2:])
        splits = torch.tensor([split_of(pixels, self.num_splits) for pixels in scored], device=self.device)
        likelihood = torch.special.xlogy(probabilities, probabilities).sum(dim=1)
        self.num_scored.index_add_(0, splits, torch.ones_like(likelihood))
        self.probability_sum.index_add_(0, splits, probabilities)
        self.log_likelihood_sum.index_add_(0, splits, likelihood)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1 / S) over the splits, float64 scalars; 1 = all clips alike, at most K.

        Raises:
            ValueError: a split without clips.
        """
        if not (self.num_scored > 0).all():
            raise ValueError(
                f"{int(self.num_scored.sum())} clips leave {int((self.num_scored == 0).sum())} of {self.num_splits} "
                "splits empty (equal clips share one); score more clips or lower num_splits"
            )
        scores = split_scores(self.num_scored, self.probability_sum, self.log_likelihood_sum)
        return scores.mean(), scores.std(correction=0)


def split_scores(num_S: Tensor, probability_sum_SK: Tensor, log_likelihood_sum_S: Tensor) -> Tensor:
    """(S,) the score of each split, from the number of its clips and the sums of p and of sum_k p log p over them."""
    marginal = probability_sum_SK / num_S[:, None]
    return (log_likelihood_sum_S / num_S - torch.special.xlogy(marginal, marginal).sum(dim=1)).exp()


def class_probabilities(scores_BK: Tensor, kind: ClassScores, name: str) -> Tensor:
    """Float64 probabilities (B, K) of a classifier's answers.

    Args:
        scores_BK: What the network says.
        kind: What that is.
        name: Of the network, for messages.

    Raises:
        ValueError: values that are not finite, or answers that are no probabilities where they ought to be.
    """
    scores = scores_BK.double()
    if not scores.isfinite().all():
        raise ValueError(f"{name}: class scores hold NaN or infinite values; look at the frames")
    if kind is ClassScores.LOGITS:
        return scores.softmax(dim=1)
    sums = scores.sum(dim=1)
    if (scores < 0).any() or (sums - 1).abs().max() > 1e-3:
        raise ValueError(
            f"{name}: answers between {scores.min():.3g} and {scores.max():.3g} that add up to "
            f"{sums.min():.3g} .. {sums.max():.3g} are no probabilities; are these the right weights?"
        )
    return scores


def split_of(pixels: NDArray[np.uint8], num_splits: int) -> int:
    """The split that a clip or frame belongs to, by its pixels alone."""
    return zlib.crc32(np.ascontiguousarray(pixels).data) % num_splits
