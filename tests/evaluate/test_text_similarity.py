"""CLIPSIM of embeddings: a cosine a frame, averaged over frames, then over clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drivesim.evaluate.text_similarity import ClipSimilarity


def test_known_angles_give_their_cosines() -> None:
    texts = torch.tensor([[3.0, 0.0], [0.0, 0.5]])  # lengths do not count
    frames = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, -2.0]]])
    metric = ClipSimilarity()
    metric.update(texts, frames)
    assert float(metric.compute()) == pytest.approx(((1 + np.sqrt(0.5)) / 2 + (0 - 1) / 2) / 2, rel=1e-9)


def test_a_long_clip_counts_as_much_as_a_short_one() -> None:
    texts = torch.tensor([[1.0, 0.0]])
    metric = ClipSimilarity()
    metric.update(texts, torch.tensor([[[1.0, 0.0]]]))
    metric.update(texts, torch.tensor([[[0.0, 1.0]] * 7]))
    assert float(metric.compute()) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("cuts", [[12], [5, 12], [1, 2, 7, 12]])
def test_batches_and_processes_change_nothing(cuts: list[int]) -> None:
    draw = torch.Generator().manual_seed(0)
    texts, frames = torch.randn(12, 6, generator=draw), torch.randn(12, 4, 6, generator=draw)
    expected = np.mean(
        [[np.dot(t, f) / np.linalg.norm(t) / np.linalg.norm(f) for f in fs] for t, fs in zip(
            texts.double().numpy(), frames.double().numpy(), strict=True)]
    )  # fmt: skip
    parts = []
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        parts.append(ClipSimilarity())
        parts[-1].update(texts[start:end], frames[start:end])
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert float(parts[0].compute()) == pytest.approx(expected, rel=1e-9)
    assert parts[0].compute().dtype == torch.float64
    parts[0].reset()
    with pytest.raises(ValueError, match="no clips"):
        parts[0].compute()


def test_embeddings_that_do_not_belong_together_are_refused() -> None:
    metric = ClipSimilarity()
    for texts, frames in (((2, 3), (1, 4, 3)), ((2, 3), (2, 4, 5)), ((2, 3), (2, 3)), ((2, 3), (2, 0, 3))):
        with pytest.raises(ValueError, match="expected"):
            metric.update(torch.ones(texts), torch.ones(frames))
    with pytest.raises(ValueError, match="zero vectors"):
        metric.update(torch.zeros(1, 3), torch.ones(1, 2, 3))
    assert metric.num_clips == 0
