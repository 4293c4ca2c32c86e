"""What benchmarks share: CPU time taken in turn, peak memory of tensors, rows in a file when asked for.

DRIVESIM_BENCH_ROWS=PATH appends a row to that file (JSON lines) for each measurement; without it nothing is written.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from drivesim.core.machine import num_cores
from drivesim.planning.as_on_device import AsOnDevice
from drivesim.planning.tally import Tally

MIB = 1 << 20
GPU_WARM_UPS, GPU_ROUNDS = 3, 10


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one run; others on the machine count less in it than in the time on the wall."""
    began = time.process_time()
    work()
    return time.process_time() - began


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU seconds of each, one round after the other, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(cpu_seconds(work))
    return {name: min(times) for name, times in seconds.items()}


def seconds_on_gpu(call: Callable[[], object]) -> float:
    """Mean of a run of calls between two events; the first calls compile and choose kernels.

    The peak of CUDA's memory is that of the measured calls.
    """
    for _ in range(GPU_WARM_UPS):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(GPU_ROUNDS):
        call()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended)) / 1e3 / GPU_ROUNDS


def tally_of(work: Callable[[], object]) -> Tally:
    """FLOPs, and the peak memory of all tensors but weights, of code on the meta device: the same on every machine.

    Kernels' own workspaces are not in it.
    """
    with torch.device("meta"), AsOnDevice(), Tally() as tally:
        work()
    return tally


def gflops(tally: Tally) -> float:
    """1e9 floating point operations that a tally has counted."""
    return sum(tally.flops_of[kernel] * count for kernel, count in tally.kernels.items()) / 1e9


def hardware(device: str = "cpu") -> str:
    """A device in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {num_cores()} cores, {torch.get_num_threads()} thread"


def note(name: str, *, device: str = "cpu", **numbers: Any) -> None:
    """Appends a row to the file that DRIVESIM_BENCH_ROWS names; does nothing where none is named."""
    path = os.environ.get("DRIVESIM_BENCH_ROWS")
    if path is None:
        return
    row = {
        "benchmark": name,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()},
        "hardware": hardware(device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "command": " ".join(["python -m pytest", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
