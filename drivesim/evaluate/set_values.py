"""Scores of one set alone, from stored features: Inception Score and text similarity, and how drives move them.

Legend: N vectors, C classes, S splits, K drives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.evaluate.drive_jackknife import Jackknife
from drivesim.evaluate.extractors import ClassScores
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.inception_score import class_probabilities, equal_parts, split_key, split_scores, split_sums
from drivesim.evaluate.text_similarity import clip_cosines

NUM_SPLITS = 10  # of an Inception Score, as published ones have


def inception_value(
    features: FeatureSet, class_scores: ClassScores, name: str
) -> tuple[NDArray[np.float64], Jackknife]:
    """The score of each split (S,), and their mean with what each drive does to it.

    Args:
        features: Of a set.
        class_scores: What the features are.
        name: Of the network, for messages.

    Raises:
        ValueError: features that are no class scores.
    """
    vectors_NC, drives_N = features.vectors()
    probabilities_NC = class_probabilities(torch.from_numpy(vectors_NC), class_scores, name)
    splits_N = torch.from_numpy(equal_splits(features, min(NUM_SPLITS, len(vectors_NC))))
    num_splits = int(splits_N.max()) + 1
    names_K, codes_N = np.unique(drives_N, return_inverse=True)
    whole = split_sums(probabilities_NC, splits_N, num_splits)
    each_S = split_scores(*whole)
    order_N = np.argsort(codes_N, kind="stable")
    counts_K = np.bincount(codes_N)
    without_K = np.empty(len(names_K))
    for drive, members in enumerate(np.split(order_N, np.cumsum(counts_K)[:-1])):
        own = split_sums(probabilities_NC[members], splits_N[members], num_splits)
        num_S, sums_SC, logs_S = (total - part for total, part in zip(whole, own, strict=True))
        has_all = bool((num_S == 0).any())  # of a split, which then has no score
        # A class of which rounding alone is left has no probability below 0.
        without_K[drive] = np.nan if has_all else float(split_scores(num_S, sums_SC.clamp(min=0), logs_S).mean())
    jackknife = Jackknife(
        value=float(each_S.mean()),
        num_vectors=len(codes_N),
        drives_K=names_K,
        without_K=without_K,
        shares_K=counts_K / len(codes_N),
    )
    return np.asarray(each_S.numpy()), jackknife


def text_value(
    features: FeatureSet, prompts: Sequence[str | None], texts: Callable[[Sequence[str]], Tensor]
) -> Jackknife:
    """The mean cosine of clips and prompts with what each drive does to it.

    Args:
        features: Of a set.
        prompts: Of each of its videos; those with None are left out. At least one.
        texts: From prompts to vectors.
    """
    kept = [(video, prompt) for video, prompt in zip(features.videos, prompts, strict=True) if prompt is not None]
    cosines, drives = [], []
    for (video, _), text_D in zip(kept, texts([prompt for _, prompt in kept]), strict=True):
        frames = torch.from_numpy(video.features())
        cosines.append(clip_cosines(text_D.expand(len(frames), -1), frames).numpy())
        drives += [video.drive] * len(frames)
    values_N = np.concatenate(cosines)
    names_K, codes_N = np.unique(drives, return_inverse=True)
    counts_K = np.bincount(codes_N)
    rest_K = values_N.sum() - np.bincount(codes_N, weights=values_N)
    left_K = len(values_N) - counts_K
    without_K = np.divide(rest_K, left_K, out=np.full(len(names_K), np.nan), where=left_K > 0)
    return Jackknife(
        value=float(values_N.mean()),
        num_vectors=len(values_N),
        drives_K=names_K,
        without_K=without_K,
        shares_K=counts_K / len(values_N),
    )


def equal_splits(features: FeatureSet, num_splits: int) -> NDArray[np.int64]:
    """A split for each vector: equal parts of an order that videos' bytes and clips' numbers fix.

    So neither the order of the videos nor their names change a score. `InceptionScore` has the same parts where each
    video is one clip in memory without a rate; of files it has other ones, equal too.
    """
    keys = []
    for video in features.videos:
        num_clips, num_vectors = video.features().shape[:2]
        start = video.clips.start or 0
        keys += [
            split_key(video.sha256, start + clip, vector) for clip in range(num_clips) for vector in range(num_vectors)
        ]
    return equal_parts(keys, num_splits)
