"""What this machine has: cores, memory, and the errors that say that memory was not enough."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

# What torch's allocators on the CPU say; they raise plain RuntimeErrors.
_CPU_ALLOCATION = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
# Of the group that this process runs in (version 2, version 1): a container may hold less than its machine.
_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def num_cores() -> int:
    """The cores that this process may use; macOS does not tell and gives all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """The memory that this process may use at most: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = [path.read_text().strip() for path in _GROUP_LIMITS if path.is_file()]
    return min([machine, *(int(text) for text in texts if text.isdecimal())])


def free_bytes() -> int:
    """Memory that others leave to this process, what it holds itself included."""
    information = Path("/proc/meminfo")
    if not information.is_file():
        return memory_bytes()
    return min(memory_bytes(), _kilobytes(information.read_text(), "MemAvailable") * 1024 + resident_bytes())


def resident_bytes() -> int:
    """Memory that this process holds now; where the system does not tell, the most that it ever held."""
    status = Path("/proc/self/status")
    if status.is_file():
        return _kilobytes(status.read_text(), "VmRSS") * 1024
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's number begins with that of the process that started this one
        return _kilobytes(status.read_text(), "VmHWM") * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kilobytes(text: str, key: str) -> int:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATION)
