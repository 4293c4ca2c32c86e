"""Boxes, labels and given frames as the models see them."""

import numpy as np
import torch

from drivesim.conditioning.driving import DrivingConditioner, DrivingConditions
from drivesim.conditioning.given_frames import context_of, ends_given, first_frames_given, kept_still, no_context
from drivesim.core.boxes import MAX_BOXES, UNKNOWN, Boxes2D


def boxes_at(*xyxy: tuple[float, float, float, float]) -> Boxes2D:
    n = len(xyxy)
    return Boxes2D(
        xyxy_px=np.array(xyxy, dtype=np.float64).reshape(-1, 4),
        class_ids=np.zeros(n, dtype=np.int64),
        depth_m=np.full(n, np.nan),
        visibility=np.full(n, np.nan),
    )


def conditioner() -> DrivingConditioner:
    torch.manual_seed(0)
    return DrivingConditioner(dim=32).eval()


def test_boxes_become_shares_of_the_picture() -> None:
    conditions = DrivingConditions.of_pictures([boxes_at((64, 32, 128, 64))], (64, 128), [True], [1])
    assert torch.allclose(conditions.boxes_BN4, torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]))
    assert conditions.is_night_B.tolist() == [1]


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    one = boxes_at((10, 10, 30, 30))
    many = boxes_at(*[(i, i, i + 20, i + 20) for i in range(9)])
    net = conditioner()
    alone, _ = net(DrivingConditions.of_pictures([one], (64, 128), [None], [None]))
    padded, mask = net(DrivingConditions.of_pictures([one, many], (64, 128), [None, None], [None, None]))
    assert mask[0].sum() == 3
    assert torch.allclose(alone[0], padded[0, :3], atol=1e-5)
    assert (padded[0, 3:] == 0).all()


@torch.no_grad()
def test_unknown_boxes_differ_from_no_boxes() -> None:
    net = conditioner()
    unknown, _ = net(DrivingConditions.of_pictures([None], (64, 128), [None], [None]))
    none, _ = net(DrivingConditions.of_pictures([boxes_at()], (64, 128), [None], [None]))
    assert (unknown - none).abs().max() > 0.01


@torch.no_grad()
def test_tokens_move_with_a_box_and_with_each_label() -> None:
    net = conditioner()
    base, _ = net(DrivingConditions.of_pictures([boxes_at((10, 10, 30, 30))], (64, 128), [False], [1]))
    for boxes, night, cars in (((12, 10, 32, 30), False, 1), ((10, 10, 30, 30), True, 1), ((10, 10, 30, 30), False, 2)):
        other, _ = net(DrivingConditions.of_pictures([boxes_at(boxes)], (64, 128), [night], [cars]))
        assert (other - base).abs().max() > 1e-3


def test_beyond_the_limit_the_largest_boxes_are_kept() -> None:
    boxes = boxes_at(*[(0, 0, 1 + i / 10, 1 + i / 10) for i in range(MAX_BOXES + 40)])
    conditions = DrivingConditions.of_pictures([boxes], (64, 128), [None], [None])
    assert conditions.boxes_BN4.shape == (1, MAX_BOXES, 4)
    smallest_kept = conditions.boxes_BN4[0, :, 2].min() * 128
    assert torch.isclose(smallest_kept, torch.tensor(1 + 40 / 10))


def test_dropping_makes_conditions_unknown_sample_by_sample() -> None:
    conditions = DrivingConditions.of_pictures([boxes_at((0, 0, 9, 9))] * 2, (64, 128), [True, True], [3, 3])
    yes, no = torch.tensor([True, False]), torch.tensor([False, True])
    dropped = conditions.dropped(boxes_B=yes, night_B=no, cars_B=yes)
    assert dropped.has_boxes_B.tolist() == [False, True]
    assert dropped.is_night_B.tolist() == [1, UNKNOWN]
    assert dropped.num_cars_B.tolist() == [UNKNOWN, 3]


def test_context_holds_given_frames_and_their_mask_and_nothing_else() -> None:
    latents = torch.randn(2, 4, 3, 2, 2)
    latents[0, 3] = float("nan")
    context = context_of(latents, first_frames_given(torch.tensor([1, 2]), 4))
    assert context.shape == (2, 4, 4, 2, 2)
    assert torch.equal(context[1, :2, :3], latents[1, :2])
    assert (context[0, 1:] == 0).all()
    assert context[:, :, 3].mean(dim=(2, 3)).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
    assert (no_context(latents) == 0).all()


def test_held_context_shows_frames_between_two_given_ones_both_by_how_near_they_are() -> None:
    latents = torch.randn(3, 7, 3, 2, 2)
    given_BT = torch.zeros(3, 7, dtype=torch.bool)
    given_BT[0, [0, 4, 6]] = given_BT[1, [2, 3]] = True  # of the third clip, none
    latents[~given_BT] = float("nan")
    context = context_of(latents, given_BT, hold=True)[:, :, :3]
    first, second, third = latents[0, [0, 4, 6]]
    torch.testing.assert_close(context[0, 1], 0.75 * first + 0.25 * second)
    torch.testing.assert_close(context[0, 3], 0.25 * first + 0.75 * second)
    torch.testing.assert_close(context[0, 5], (second + third) / 2)
    assert torch.equal(context[0, [0, 4, 6]], latents[0, [0, 4, 6]])
    assert (context[1, :2] == 0).all(), "frames before any given one see zeros"
    assert torch.equal(context[1, 2:], latents[1, [2, 3, 3, 3, 3]])
    assert (context[2] == 0).all()


def test_frames_between_are_the_mix_of_both_ends_where_these_are_alike_and_the_networks_where_they_differ() -> None:
    made, ends = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 2, 3, 2, 2)
    ends[0, 1, :, 0, 0] = ends[0, 0, :, 0, 0]  # nothing moves
    ends[0, 1, :, 0, 1] = ends[0, 0, :, 0, 1] + 0.5  # half of each
    ends[0, 1, :, 1, 1] = ends[0, 0, :, 1, 1] + 500.0
    latents = torch.zeros_like(made)
    latents[:, [0, 3]] = ends
    held = context_of(latents, ends_given(4).expand(2, -1), hold=True)[:, :, :-1]
    kept = kept_still(made, held, below=0.5)
    torch.testing.assert_close(kept[0, :, :, 0, 0], ends[0, :1, :, 0, 0].expand(4, -1))
    mix = ends[0, 0, :, 0, 1] + torch.linspace(0, 0.5, 4)[:, None]
    torch.testing.assert_close(kept[0, :, :, 0, 1], (mix + made[0, :, :, 0, 1]) / 2)
    torch.testing.assert_close(kept[0, :, :, 1, 1], made[0, :, :, 1, 1], atol=1e-3, rtol=0)
    assert torch.equal(kept_still(made, held, below=0.0), made)
    short = kept_still(made.half(), held.half(), below=1e-4)  # whose square is 0 in 16 bits
    torch.testing.assert_close(short.float()[0, :, :, 0, 0], ends[0, :1, :, 0, 0].expand(4, -1), atol=2e-3, rtol=0)


def test_held_context_shows_later_frames_the_last_given_one() -> None:
    latents = torch.randn(3, 4, 3, 2, 2)
    latents[:, 3] = float("nan")
    context = context_of(latents, first_frames_given(torch.tensor([0, 1, 2]), 4), hold=True)
    assert (context[0] == 0).all()
    assert torch.equal(context[1, :, :3], latents[1, :1].expand(4, -1, -1, -1))
    assert torch.equal(context[2, :, :3], latents[2, [0, 1, 1, 1]])
    assert context[:, :, 3].mean(dim=(2, 3)).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
