"""CLIPSIM: how well frames agree with the prompt that they were made from.

Legend: B clips, T frames, D values of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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
        if frames_BTD.ndim != 3 or texts_BD.shape != (len(frames_BTD), frames_BTD.shape[-1]) or not frames_BTD.shape[1]:
            raise ValueError(
                f"embeddings have shapes {tuple(texts_BD.shape)} and {tuple(frames_BTD.shape)}, "
                "expected (B, D) for texts and (B, T, D) for frames"
            )
        texts, frames = texts_BD.double().to(self.device), frames_BTD.double().to(self.device)
        cosines_BT = torch.einsum("bd,btd->bt", texts, frames) / (texts.norm(dim=-1)[:, None] * frames.norm(dim=-1))
        if not cosines_BT.isfinite().all():
            raise ValueError("embeddings hold NaN, infinite or zero vectors; look at the frames and the network")
        self.num_clips += len(cosines_BT)
        self.cosine_sum += cosines_BT.mean(dim=1).sum()

    def compute(self) -> Tensor:
        """The mean cosine, a float64 scalar in [-1, 1].

        Raises:
            ValueError: no clips.
        """
        if self.num_clips == 0:
            raise ValueError("no clips were added; a similarity needs at least one")
        return self.cosine_sum / self.num_clips
