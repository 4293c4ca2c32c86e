"""What to say when memory was not enough: which plan would fit what there is."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import torch

from drivesim.core.machine import free_bytes
from drivesim.planning.hardware import GIB
from drivesim.planning.plan import VERDICTS


def what_fits(command: str, overrides: Sequence[str], error: str, run: Callable[[list[str]], str] | None = None) -> str:
    """The verdict of `drivesim plan` on a command that ran out of memory.

    It is made in a process of its own: this one still holds what did not fit.

    Args:
        command: train or rollout.
        overrides: as typed.
        error: what the allocation that failed says of itself.
        run: runs a drivesim command line and returns what it prints; None = in a process of its own.

    Returns:
        Lines for a person: the changes that would fit, and how to print the whole plan.
    """
    flags = ("-m", "--multirun")
    keys = [override for override in overrides if override not in flags]
    whole = f"drivesim plan {command} {shlex.join(keys)} prints the whole plan"
    if len(keys) < len(overrides):  # which of several values it was is not known here
        return whole
    gib = _free_gib(error)
    print(f"out of memory; looking for what would fit {gib:.1f} GiB, a minute or more", file=sys.stderr, flush=True)
    wanted = [f"plan.memory_gib={gib:.3f}", "plan.changes=true", "plan.measure_s=0"]
    with tempfile.TemporaryDirectory() as out:
        printed = (run or _run)(["plan", command, *keys, *wanted, f"out={out}"])
    lines = printed.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(VERDICTS)]
    verdict = lines[starts[-1] : -1] if starts else [f"no plan could be made: {printed.strip()}"]
    return "\n".join([*verdict, whole])


def _free_gib(error: str) -> float:
    """Memory of the device that was out of it, what this process holds included."""
    if "CUDA" in error and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return (free + torch.cuda.memory_reserved()) / GIB
    return free_bytes() / GIB


def _run(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "drivesim.cli", *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else done.stderr
