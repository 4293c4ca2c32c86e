"""Layers on some frames at a time against layers on all of them."""

import pytest
import torch
from torch import Tensor, nn

from drivesim.nn import frame_groups
from drivesim.nn.frame_groups import in_groups


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_groups, "_AT_ONCE", {"cpu": 3 * 4 * 8 * 8})  # 3 frames of 4 x 8 x 8


@pytest.mark.parametrize(("num_frames", "fewest", "expected"), [
    (8, 1, [3, 3, 2]), (3, 1, [3]), (8, 4, [4, 4]), (11, 4, [4, 7]), (7, 4, [7]), (7, 2, [3, 4]),
])  # fmt: skip
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_groups_are_as_large_as_allowed_and_give_what_all_at_once_give(
    num_frames: int, fewest: int, expected: list[int], layout: torch.memory_format
) -> None:
    conv = nn.Conv2d(4, 5, 3, padding=1).to(memory_format=layout)  # type: ignore[call-overload]
    frames, shift = torch.randn(num_frames, 4, 8, 8).to(memory_format=layout), torch.randn(num_frames, 5)
    sizes: list[int] = []

    def layer(frames: Tensor, shift: Tensor) -> Tensor:
        sizes.append(len(frames))
        return conv(frames) + shift[:, :, None, None]  # type: ignore[no-any-return]

    made = in_groups(layer, frames, shift, fewest=fewest)
    assert sizes == expected
    whole = layer(frames, shift)
    torch.testing.assert_close(made, whole)
    assert made.is_contiguous(memory_format=layout)


def test_all_frames_are_taken_at_once_where_gradients_are_wanted() -> None:
    sizes: list[int] = []

    def layer(frames: Tensor) -> Tensor:
        sizes.append(len(frames))
        return frames

    in_groups(layer, torch.randn(8, 4, 8, 8))
    assert sizes == [8]
