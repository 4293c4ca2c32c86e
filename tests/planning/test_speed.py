"""Time from FLOPs: a data sheet's by its formula, this machine's by timing kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drivesim.planning.hardware import DataSheet, PlanConfig, choose_hardware
from drivesim.planning.speed import (
    SHARE_OF_BANDWIDTH,
    SHARE_OF_PEAK,
    MeasuredSpeed,
    SheetSpeed,
    Timed,
    Work,
    measure_speed,
)
from drivesim.planning.tally import Tally

SHEET = DataSheet(memory_gb=1, tflops_16=200, tflops_32=100, gb_a_second=1000)


def work_of(size: int, dtype: torch.dtype = torch.float32) -> Work:
    layer = nn.Linear(size, size, bias=False, device="meta", dtype=dtype)
    x = torch.empty(size, size, device="meta", dtype=dtype)
    with Tally() as tally, torch.no_grad():
        layer(x)
    return Work.of(tally)


@pytest.mark.parametrize(("dtype", "tflops"), [(torch.float32, 100), (torch.bfloat16, 200)])
def test_a_large_kernel_is_bound_by_arithmetic(dtype: torch.dtype, tflops: float) -> None:
    work = work_of(4096, dtype)
    expected = 2 * 4096**3 / (SHARE_OF_PEAK * tflops * 1e12)
    assert SheetSpeed(sheet=SHEET).seconds(work) == pytest.approx(expected)


def test_a_small_kernel_is_bound_by_memory() -> None:
    expected = 2 * 16 * 16 * 4 / (SHARE_OF_BANDWIDTH * 1000e9)
    assert SheetSpeed(sheet=SHEET).seconds(work_of(16)) == pytest.approx(expected)


def test_kernels_that_were_not_timed_are_as_fast_as_those_that_were_together() -> None:
    first, second = work_of(16), work_of(32)
    (kernel,) = first.kernels
    (slow,) = work_of(2).kernels  # next to nothing, and next to no part of the average
    timed = {kernel: Timed(flops=1e6, seconds=1.0), slow: Timed(flops=16, seconds=0.01)}
    speed = MeasuredSpeed(timed=timed, bandwidth=1e9, call_s=0.0)
    assert speed.seconds(first) == pytest.approx(2 * 16**3 / 1e6)
    assert speed.seconds(second) == pytest.approx(2 * 32**3 / 1e6, rel=0.02)


def test_work_is_added_and_taken_away() -> None:
    one, two = work_of(16), work_of(32)
    both = one.plus(two, 3)
    assert both.flops == one.flops + 3 * two.flops
    assert both.plus(two, -3).flops == one.flops


def test_this_machine_is_timed_within_the_budget() -> None:
    convolution = nn.Conv2d(8, 8, 3, device="meta")
    with Tally() as tally:
        convolution(torch.empty(4, 8, 32, 32, device="meta")).sum().backward()
    work = Work.of(tally)
    speed = measure_speed([work], "cpu", budget_s=0.5)
    assert speed is not None
    assert len(speed.timed) == len(work.kernels) == 2
    assert 0 < speed.seconds(work) < 1
    assert measure_speed([work], "cpu", budget_s=0) is None


def test_named_gpus_need_not_be_here_and_unknown_ones_are_refused() -> None:
    found = choose_hardware(PlanConfig(hardware="h100"), "cpu")
    assert (found.is_gpu, found.device, found.memory_bytes) == (True, None, 80_000_000_000)
    assert choose_hardware(PlanConfig(memory_gib=2), "cpu").memory_bytes == 2 << 30
    with pytest.raises(ValueError, match="plan.hardware=h1000; valid: here, h200, h100"):
        PlanConfig(hardware="h1000")
