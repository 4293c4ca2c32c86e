"""Numbers that are not finite are found and named; large ones are not mistaken for them."""

from __future__ import annotations

import pytest
import torch

from drivesim.core.finite import NotFiniteError, check_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("broken", [[float("nan")], [float("inf")], [float("inf"), float("-inf")]])
def test_the_first_frame_that_is_not_finite_is_named(broken: list[float], dtype: torch.dtype) -> None:
    frames = torch.zeros(5, 3, 2, 2, dtype=dtype)
    frames[3, 1, 0, : len(broken)] = torch.tensor(broken)
    with pytest.raises(NotFiniteError, match=r"decoding: frame 26 \(at 2.60 s\) is not finite"):
        check_finite(frames, "decoding", first=20, fps=10.0, every=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_largest_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    frames = torch.full((5, 3, 2, 2), torch.finfo(dtype).max, dtype=dtype)
    check_finite(frames, "decoding", first=0, fps=10.0)
    check_finite(torch.zeros(0, 3, 2, 2, dtype=dtype), "decoding", first=0, fps=10.0)
