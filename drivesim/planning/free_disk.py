"""Whether what a run writes fits the disks that its folders lie on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from drivesim.core.files import nearest_folder
from drivesim.planning.plan import DiskRow, DiskSpace


def disk_spaces(rows: Sequence[DiskRow], folders: Mapping[str, str | Path], shrinks: str) -> list[DiskSpace]:
    """What each disk has to take, and what is free on it.

    Args:
        rows: what is written.
        folders: by the key that chooses them; they need not be there yet.
        shrinks: keys that make a run write less, for the message.
    """
    disks: dict[int, DiskSpace] = {}
    for key, folder in folders.items():
        place = nearest_folder(folder)
        needed = sum(row.value for row in rows if row.key == key)
        disk = disks.setdefault(
            place.stat().st_dev,
            DiskSpace(keys=[], folder=str(place), needed_bytes=0, free_bytes=shutil.disk_usage(place).free,
                      shrinks=shrinks),
        )  # fmt: skip
        disk.keys.append(key)
        disk.needed_bytes += int(needed)
        if key == "out":  # a run that goes on needs no more than the rest
            disk.free_bytes += _held_bytes(Path(folder))
    return list(disks.values())


def _held_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
