"""The Inception Score of generated clips by the classes that a network sees in them.

Legend: B clips, T frames, H x W pixels, C channels, K or C classes, N clips or frames, S splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from drivesim.core.wording import number_of
from drivesim.evaluate.extractors import ClassScores, Extractor, FeatureKind
from drivesim.evaluate.frames import as_uint8
from drivesim.evaluate.videos import Video


class InceptionScore(Metric):
    """exp of the mean KL divergence of p(class | clip) from p(class), in splits (Salimans et al. 2016).

    KL = mean_i sum_k p_ik log p_ik - sum_k q_k log q_k with q = mean_i p_i. The published form shuffles by a seed and
    cuts into equal parts; here the clips' own pixels fix their order, so that neither the order of the calls nor the
    number of processes matters. Hence a clip's digest and its K probabilities are kept.

    Each clip counts as a video of its own, and gets the split that `drivesim evaluate` gives such a video in memory
    that tells no rate. Of files, and of videos of several clips, `drivesim evaluate` orders clips by the videos' bytes,
    which this metric does not see: equal parts too, but other ones, so that mean and spread differ by that chance.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    keys: list[Tensor]  # (N, 32) uint8, of which the order follows
    probabilities: list[Tensor]  # (N, K) float64

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
        for name in ("keys", "probabilities"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all clips."""
        super().reset()
        # Of no clips, but with their axes: a process that gets none is gathered with the others.
        self.keys.append(torch.zeros(0, 32, dtype=torch.uint8, device=self.device))
        shape = (0, self.extractor.feature_dim)
        self.probabilities.append(torch.zeros(shape, dtype=torch.float64, device=self.device))

    def update(self, frames_BTHWC: NDArray[np.uint8]) -> None:
        """Adds clips (B, T, H, W, 3), uint8 or floats in [0, 1].

        Raises:
            ValueError: the network's answers are not what it says they are.
        """
        frames = as_uint8(frames_BTHWC)
        probabilities = class_probabilities(self.extractor(frames), self.class_scores, self.extractor.name)
        num_vectors = 1 if self.extractor.kind is FeatureKind.CLIP else frames.shape[1]
        digests = [Video(name="clip", frames=clip).sha256() for clip in frames]
        keys = [list(bytes.fromhex(split_key(digest, 0, v))) for digest in digests for v in range(num_vectors)]
        self.keys.append(torch.tensor(keys, dtype=torch.uint8, device=self.device))
        self.probabilities.append(probabilities.to(self.device))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1 / S) over the splits, float64 scalars; 1 = all clips alike, at most K.

        Raises:
            ValueError: fewer clips than splits.
        """
        keys = [bytes(row).hex() for row in dim_zero_cat(self.keys).tolist()]
        if len(keys) < self.num_splits:
            raise ValueError(
                f"{number_of(len(keys), 'clip')} for {self.num_splits} splits; score more clips or lower num_splits"
            )
        probabilities = dim_zero_cat(self.probabilities)
        splits = torch.from_numpy(equal_parts(keys, self.num_splits)).to(probabilities.device)
        scores = split_scores(*split_sums(probabilities, splits, self.num_splits))
        return scores.mean(), scores.std(correction=0)


def split_key(sha256: str, clip: int, vector: int) -> str:
    """What the order of vectors goes by: a digest of the video's own, the clip's number and the vector's in it."""
    return hashlib.sha256(f"{sha256} {clip} {vector}".encode()).hexdigest()


def equal_parts(keys: Sequence[str], num_splits: int) -> NDArray[np.int64]:
    """(N,) a split for each key: equal parts of the keys in order, which differ by one at most."""
    ranks = np.argsort(np.argsort(np.array(keys), kind="stable"), kind="stable")
    return np.asarray(ranks * num_splits // len(keys))


def split_sums(probabilities_NC: Tensor, splits_N: Tensor, num_splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `split_scores` takes: numbers of clips, sums of p, sums of p log p, each by split."""
    likelihood_N = torch.special.xlogy(probabilities_NC, probabilities_NC).sum(dim=1)
    num_S = torch.bincount(splits_N, minlength=num_splits).double()
    sums_SC = probabilities_NC.new_zeros(num_splits, probabilities_NC.shape[1])
    logs_S = probabilities_NC.new_zeros(num_splits)
    return num_S, sums_SC.index_add_(0, splits_N, probabilities_NC), logs_S.index_add_(0, splits_N, likelihood_N)


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
