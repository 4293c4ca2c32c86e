"""The hardware that a plan is made for: this machine, or a GPU by name that need not be here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from drivesim.core.machine import memory_bytes, num_cores
from drivesim.core.wording import number_of

GIB = 1 << 30
# Measured on Linux (glibc 2.36, torch 2.13). The peaks of five tiny trainings lay 116, 130, 189, 283 and 327 MiB above
# imports and tensors, of which 54, 141, 371, 745 and 787 MiB came and went: libraries at their first use, Lightning's
# loop and loggers, and holes in the heap. In a rollout, where nothing of a chunk stays, blocks of all sizes come and
# go: the heap of one with five stages grew to 2.5 times of the 172 MiB that are live at once, over 20 s of video.
FIRST_USE_BYTES = 60 << 20
TRAINER_BYTES = 40 << 20
TRAINING_HOLES, ROLLOUT_HOLES = 0.25, 1.5
# Not measured, assumed: CUDA's context with torch's kernels and workspaces, and holes in torch's own allocator.
GPU_CONTEXT_BYTES = 800 << 20
GPU_HEAP_SHARE = 0.1


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """What a plan is made for, and how closely this machine is measured."""

    hardware: str = "here"  # here = the device that the run would use, or a GPU by name (h100, a100, l4, ...)
    memory_gib: float | None = None  # memory to plan for; None = what the hardware has
    changes: bool = False  # name changes that need less memory, also where it fits
    measure_s: float = 2.0  # seconds that kernels are timed at most; 0 = no measurement, no time in the plan

    def __post_init__(self) -> None:
        if self.hardware != "here" and self.hardware not in GPUS:
            raise ValueError(f"plan.hardware={self.hardware}; valid: here, {', '.join(GPUS)}")
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise ValueError(f"plan.memory_gib={self.memory_gib}; must be above 0")
        if not self.measure_s >= 0:
            raise ValueError(f"plan.measure_s={self.measure_s}; must be 0 or more")


@dataclass(kw_only=True, slots=True, frozen=True)
class DataSheet:
    """What a maker says of a GPU."""

    memory_gb: float  # 1e9 bytes
    tflops_16: float  # 1e12 operations a second in 16 bits, dense, 32-bit sums
    tflops_32: float  # in 32 bits, without tensor cores
    gb_a_second: float  # memory bandwidth, 1e9 bytes a second


# NVIDIA's data sheets ("H100 Tensor Core GPU", "H200 ...", "A100 80GB/40GB", "L40S", "L4", "T4") and architecture white
# papers ("Ada GPU Architecture" for the 4090, "GA102 GPU Architecture" for the 3090); numbers with sparsity halved.
GPUS = {
    "h200": DataSheet(memory_gb=141, tflops_16=989, tflops_32=67, gb_a_second=4800),
    "h100": DataSheet(memory_gb=80, tflops_16=989, tflops_32=67, gb_a_second=3350),
    "a100": DataSheet(memory_gb=80, tflops_16=312, tflops_32=19.5, gb_a_second=2039),
    "a100_40gb": DataSheet(memory_gb=40, tflops_16=312, tflops_32=19.5, gb_a_second=1555),
    "l40s": DataSheet(memory_gb=48, tflops_16=362, tflops_32=91.6, gb_a_second=864),
    "l4": DataSheet(memory_gb=24, tflops_16=121, tflops_32=30.3, gb_a_second=300),
    "t4": DataSheet(memory_gb=16, tflops_16=65, tflops_32=8.1, gb_a_second=320),
    "rtx4090": DataSheet(memory_gb=24, tflops_16=165, tflops_32=82.6, gb_a_second=1008),
    "rtx3090": DataSheet(memory_gb=24, tflops_16=71, tflops_32=35.6, gb_a_second=936),
}


@dataclass(kw_only=True, slots=True, frozen=True)
class Hardware:
    """One device that networks run on."""

    name: str
    memory_bytes: int  # that a process, or all processes on it, may use
    is_gpu: bool  # its memory is not the machine's
    device: str | None = None  # torch device to measure on; None = not here
    sheet: DataSheet | None = None  # None = measured

    def process_bytes(self, now_bytes: int) -> int:
        """Memory of a process that holds nothing yet.

        Args:
            now_bytes: of the process that plans, with the libraries of the run imported.
        """
        return GPU_CONTEXT_BYTES if self.is_gpu else now_bytes + FIRST_USE_BYTES

    def kept_bytes(self, peak_bytes: int, heap_bytes: int, holes: float) -> float:
        """What the allocator keeps beyond what is asked for.

        Args:
            peak_bytes: of what comes and goes.
            heap_bytes: of that, what comes from a heap.
            holes: share of it that a heap on the CPU grows by.
        """
        return GPU_HEAP_SHARE * peak_bytes if self.is_gpu else holes * heap_bytes


def choose_hardware(config: PlanConfig, device: str) -> Hardware:
    """The hardware of a plan.

    Args:
        config: here, or a GPU by name.
        device: torch device that the run would use, where `config` says here.
    """
    memory = None if config.memory_gib is None else int(config.memory_gib * GIB)
    if config.hardware != "here":
        sheet = GPUS[config.hardware]
        memory = memory or int(sheet.memory_gb * 1e9)
        return Hardware(name=config.hardware, memory_bytes=memory, is_gpu=True, sheet=sheet)
    if device.startswith("cuda"):
        found = torch.cuda.get_device_properties(device)
        memory = memory or found.total_memory
        return Hardware(name=found.name, memory_bytes=memory, is_gpu=True, device=device)
    # Apple's GPUs share the machine's memory.
    name = f"{device}, {number_of(num_cores(), 'core')}" if device == "cpu" else device
    return Hardware(name=name, memory_bytes=memory or memory_bytes(), is_gpu=False, device=device)


def training_device(accelerator: str) -> str:
    """The torch device that Lightning would take for `trainer.accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda:0"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"
