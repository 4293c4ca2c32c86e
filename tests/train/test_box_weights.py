"""Errors inside boxes count more."""

import pytest
import torch

from drivesim.core.boxes import UNKNOWN
from drivesim.diffusion.objective import diffusion_loss
from drivesim.train.box_weights import box_coverage, box_weights


def test_a_cell_counts_by_the_share_that_a_box_covers() -> None:
    boxes = torch.tensor([[[0.25, 0.0, 0.625, 0.5], [0.0, 0.0, 1.0, 1.0]]])
    coverage = box_coverage(boxes, torch.tensor([[0, UNKNOWN]]), (2, 4))
    torch.testing.assert_close(coverage, torch.tensor([[[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]]))


def test_boxes_over_one_another_count_once() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0]]).expand(3, 4)
    assert box_coverage(boxes, torch.zeros(3, dtype=torch.int64), (1, 2)).tolist() == [[1.0, 0.0]]


def test_weights_have_mean_one_and_the_wanted_ratio() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]], [[0.0, 0.0, 0.0, 0.0]]])
    weights = box_weights(boxes, torch.tensor([[2], [UNKNOWN]]), (2, 2), extra=3.0)
    assert weights.shape == (2, 1, 2, 2)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[0, 0, 0, 0] / weights[0, 0, 1, 1]).item() == pytest.approx(4.0)
    assert torch.equal(weights[1], weights[1, :, :1, :1].expand(1, 2, 2))


def test_without_a_box_all_cells_count_the_same() -> None:
    weights = box_weights(torch.zeros(2, 3, 0, 4), torch.zeros(2, 3, 0, dtype=torch.int64), (2, 4), extra=3.0)
    assert torch.equal(weights, torch.ones(2, 3, 1, 2, 4))


def test_the_weighted_error_is_the_plain_one_where_weights_are_one() -> None:
    prediction, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    plain = diffusion_loss(prediction, target)
    torch.testing.assert_close(diffusion_loss(prediction, target, torch.ones(2, 1, 4, 4)), plain)
    weights = torch.zeros(2, 1, 4, 4)
    weights[0] = 2.0
    torch.testing.assert_close(diffusion_loss(prediction, target, weights), (prediction[0] - target[0]).square().mean())
