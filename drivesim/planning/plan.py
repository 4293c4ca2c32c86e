"""A plan: what a run will need on some hardware, whether it fits, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from drivesim.planning.demand import Demand, Part
from drivesim.planning.hardware import Hardware
from drivesim.planning.speed import SHARE_OF_BANDWIDTH, SHARE_OF_PEAK, Speed

_WIDTH = 34  # of the first column
VERDICTS = ("fits: ", "does not fit: ", "fits the memory: ")  # how the last lines of a plan begin


@dataclass(kw_only=True, slots=True)
class Row:
    """One number of a plan."""

    name: str
    value: float  # bytes, seconds or FLOPs
    note: str = ""  # how it comes about


@dataclass(kw_only=True, slots=True)
class DiskRow(Row):
    """Bytes that a run writes."""

    key: str = "out"  # whose folder they lie in


@dataclass(kw_only=True, slots=True)
class DiskSpace:
    """A disk that a run writes to."""

    keys: list[str]  # whose folders lie on it
    folder: str  # one of these, or the nearest folder above it that is there
    needed_bytes: int
    free_bytes: int
    shrinks: str  # keys that make a run write less

    @property
    def fits(self) -> bool:
        """Whether there is room for all of it."""
        return self.needed_bytes <= self.free_bytes

    def text(self) -> str:
        """How much is missing, and what to do about it."""
        keys = " or ".join(f"{key}=" for key in self.keys)
        return (
            f"does not fit the disk: {in_bytes(self.needed_bytes)} needed, {in_bytes(self.free_bytes)} free at "
            f"{self.folder}: lower {self.shrinks}, or give {keys} on another disk"
        )


@dataclass(kw_only=True, slots=True)
class Change:
    """Keys that would make a run smaller, and how large it would be."""

    overrides: list[str]  # as typed
    memory_bytes: int


@dataclass(kw_only=True, slots=True)
class Plan:
    """What a run needs. Predicted, none of it measured but the speed of kernels and the process as it is now."""

    what: str
    hardware: Hardware
    parts: list[Part]
    memory: list[Row]  # bytes; their sum is the peak
    flops: list[Row]
    disk: list[DiskRow]  # bytes
    time: list[Row] = field(default_factory=list)  # seconds; empty = not measured
    notes: list[str] = field(default_factory=list)  # what is assumed
    changes: list[Change] | None = None  # that fit and need less; None = not looked for
    spaces: list[DiskSpace] = field(default_factory=list)  # disks that are written to; empty = not looked at

    @property
    def memory_bytes(self) -> int:
        """Peak memory."""
        return int(sum(row.value for row in self.memory))

    @property
    def fits_memory(self) -> bool:
        """Whether the peak is within the hardware's memory."""
        return self.memory_bytes <= self.hardware.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether memory and disks are large enough."""
        return self.fits_memory and all(space.fits for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the sums."""
        plain = asdict(self)
        plain |= {"fits": self.fits, "fits_memory": self.fits_memory, "memory_bytes": self.memory_bytes}
        plain |= {f"{name}_total": sum(row.value for row in getattr(self, name)) for name in ("flops", "disk", "time")}
        return plain

    def text(self) -> str:
        """An aligned table for people."""
        measured = "measured here" if self.hardware.sheet is None else "not measured: from its data sheet"
        lines = [f"{self.what} on {self.hardware.name} ({measured})", "", "parameters"]
        lines += [
            _line(p.name, f"{p.num_parameters / 1e6:.2f} M", "trained" if p.is_trained else "") for p in self.parts
        ]
        lines.append(_line("sum", f"{sum(p.num_parameters for p in self.parts) / 1e6:.2f} M"))
        tables = (
            ("FLOPs", self.flops, in_flops),
            ("peak memory", self.memory, in_bytes),
            ("disk", self.disk, in_bytes),
        )
        for title, rows, shown in (*tables, ("time", self.time, in_time)):
            lines += ["", title]
            if not rows:
                lines.append("  not estimated: plan.measure_s=0")
                continue
            lines += [_line(row.name, shown(row.value), row.note) for row in rows]
            lines.append(_line("sum", shown(sum(row.value for row in rows))))
        lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *self.verdict()])

    def verdict(self) -> list[str]:
        """Whether it fits, and what would."""
        need, have = in_bytes(self.memory_bytes), in_bytes(self.hardware.memory_bytes)
        fits, does_not, fits_memory = VERDICTS
        lines = [space.text() for space in self.spaces if not space.fits]
        if self.fits_memory:
            lines.append(f"{fits_memory if lines else fits}{need} of {have}")
        else:
            lines.append(f"{does_not}{need} needed, {have} there")
        if self.changes is None:
            return lines
        is_smaller = self.fits_memory
        if not self.changes:
            return [*lines, f"no change of the configured keys {'needs less' if is_smaller else 'would make it fit'}"]
        lines.append("these changes need less:" if is_smaller else "these changes would make it fit:")
        return [*lines, *(f"  {' '.join(c.overrides)}  ({in_bytes(c.memory_bytes)})" for c in self.changes)]


def memory_rows(demand: Demand, process_bytes: int, kept_bytes: float, copies: int = 1) -> list[Row]:
    """Peak memory of `copies` processes.

    Args:
        demand: of one process.
        process_bytes: of the process itself: interpreter, libraries, or a GPU's context.
        kept_bytes: what its allocator keeps beyond what is asked for.
        copies: processes at once.
    """
    rows = [Row(name="process and libraries", value=process_bytes)]
    rows += [Row(name=name, value=value) for name, value in (demand.resident | demand.passing).items() if value]
    of_phase = f"most at once, in: {demand.largest.name}"
    rows.append(Row(name="activations and gradients", value=demand.largest.peak_bytes, note=of_phase))
    rows.append(Row(name="kept by the allocator", value=kept_bytes, note="an estimate"))
    if copies > 1:
        rows = [Row(name=row.name, value=copies * row.value, note=f"{copies} processes") for row in rows]
    return rows


def flop_rows(demand: Demand) -> list[Row]:
    """FLOPs of all phases."""
    return [
        Row(name=p.name, value=p.count * p.work.flops, note=f"{p.count:,.0f} x {in_flops(p.work.flops)}")
        for p in demand.phases
    ]


def time_rows(demand: Demand, speed: Speed | None, at_once: float = 1) -> list[Row]:
    """Wall time of all phases, `at_once` of which run beside each other."""
    if speed is None:
        return []
    once = [(phase, speed.seconds(phase.work)) for phase in demand.phases]
    note = "an estimate" if at_once == 1 else f"an estimate, {at_once:g} at once"
    return [
        Row(name=p.name, value=p.count * s / at_once, note=f"{p.count:,.0f} x {in_time(s)}, {note}") for p, s in once
    ]


def hardware_notes(hardware: Hardware, process_bytes: int) -> list[str]:
    """What is assumed of a GPU, and what its processes take besides its memory.

    Args:
        hardware: of the plan.
        process_bytes: of a process on the machine itself, with the libraries of the run imported.
    """
    notes = (
        [f"each process takes {in_bytes(process_bytes)} of the machine's own memory, too"] if hardware.is_gpu else []
    )
    if hardware.sheet is not None:
        shares = f"{SHARE_OF_PEAK:.0%} of the data sheet's peak and {SHARE_OF_BANDWIDTH:.0%} of its bandwidth"
        notes.append(f"not measured: {shares} are assumed")
    return notes


def _line(name: str, value: str, note: str = "") -> str:
    return f"  {name:{_WIDTH}}{value:>12}  {note}".rstrip()


def in_bytes(value: float) -> str:
    """Bytes in a readable unit."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1024:.4g} KiB"


def in_flops(value: float) -> str:
    """FLOPs in a readable unit."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.4g} {unit}FLOP"
    return f"{value / 1e6:.4g} MFLOP"


def in_time(seconds: float) -> str:
    """A time in a readable unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
