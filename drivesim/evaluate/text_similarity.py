"""CLIPSIM: how well frames agree with the prompt that they were made from.

Legend: B clips, T frames, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from drivesim.evaluate.extractors import ExtractorConfig, FeatureKind
from drivesim.evaluate.frames import as_uint8
from drivesim.evaluate.metric_kinds import MetricKind, chosen_kinds


class ClipSimilarity(Metric):
    """Cosine of a prompt's embedding with each frame's, averaged over frames, then over clips (Wu et al. 2021).

    Takes embeddings and knows no network; published numbers are by CLIP ViT-B/32
    (`drivesim.models.text_frame_embeddings.TextFrameEmbedder`).
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    num_clips: Tensor
    cosine_sum: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("num_clips", "cosine_sum"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, texts_BD: Tensor, frames_BTD: Tensor) -> None:
        """Adds clips by the embeddings of their prompts and frames, of any length.

        Raises:
            ValueError: shapes that do not belong together, values that are not finite, or a vector of length 0.
        """
        cosines_B = clip_cosines(texts_BD.to(self.device), frames_BTD.to(self.device))
        self.num_clips += len(cosines_B)
        self.cosine_sum += cosines_B.sum()

    def compute(self) -> Tensor:
        """The mean cosine, a float64 scalar in [-1, 1].

        Raises:
            ValueError: no clips.
        """
        if self.num_clips == 0:
            raise ValueError("no clips were added; a similarity needs at least one")
        return self.cosine_sum / self.num_clips


def clip_cosines(texts_BD: Tensor, frames_BTD: Tensor) -> Tensor:
    """(B,) float64: the cosine of each clip's prompt with its frames, averaged over those.

    Raises:
        ValueError: as `ClipSimilarity.update`.
    """
    if frames_BTD.ndim != 3 or texts_BD.shape != (len(frames_BTD), frames_BTD.shape[-1]) or not frames_BTD.shape[1]:
        raise ValueError(
            f"embeddings have shapes {tuple(texts_BD.shape)} and {tuple(frames_BTD.shape)}, "
            "expected (B, D) for texts and (B, T, D) for frames"
        )
    texts, frames = texts_BD.double(), frames_BTD.double()
    cosines_BT = torch.einsum("bd,btd->bt", texts, frames) / (texts.norm(dim=-1)[:, None] * frames.norm(dim=-1))
    if not cosines_BT.isfinite().all():
        raise ValueError("embeddings hold NaN, infinite or zero vectors; look at the frames and the network")
    return cosines_BT.mean(dim=1)


class TextFrameNetwork(Protocol):
    """A network that puts prompts and frames into one space."""

    fingerprint: str  # sha256 of its weights
    feature_dim: int  # D
    is_standard: bool  # the CLIP ViT-B/32 by which CLIPSIM is published, checked by its bytes

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """(B, D) of prompts."""
        ...

    def frames(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """(B, T, D) of frames."""
        ...


class TextFrameExtractor:
    """A vector a frame by a network that knows texts, too, in the form of an `Extractor`."""

    kind = FeatureKind.FRAME
    min_frames = 1

    def __init__(self, network: TextFrameNetwork, config: ExtractorConfig) -> None:
        self.network = network
        self.name = config.name
        self.fingerprint = network.fingerprint
        self.is_standard = network.is_standard
        self.metrics = chosen_kinds(config.metrics, (MetricKind.TEXT_SIMILARITY,))
        self.feature_dim = network.feature_dim
        described = self.name if self.is_standard else f"{self.name} of other weights, {self.fingerprint[:8]}"
        self.metric_name = f"Fréchet frame distance ({described})"

    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """float32 (B * T, D)."""
        return self.network.frames(as_uint8(frames_BTHWC)).flatten(0, 1).float()

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """float32 (B, D) of prompts."""
        return self.network.texts(prompts).float()
