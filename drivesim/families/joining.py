"""Model folders put together: parts and index keys that other folders hold, beside what a stage has trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drivesim.families.folder import INDEX, PARTS, fingerprint


def check_joined(folders: Sequence[Path], trained: Iterable[str]) -> None:
    """Refuses folders whose parts or facts contradict each other.

    Args:
        folders: model folders; the first one is what the others must fit.
        trained: parts that are made anew, in whatever folder they are.

    Raises:
        ValueError: two folders hold different parts or facts of one name; says which, and both folders.
    """
    for name in PARTS:
        holders = [folder for folder in folders if (folder / name).is_dir()]
        if name in trained or len(holders) < 2:
            continue
        for other in holders[1:]:
            if fingerprint(holders[0], [name]) != fingerprint(other, [name]):
                raise ValueError(
                    f"parts do not fit together: {holders[0]} and {other} hold different parts {name!r}; stages "
                    "that are joined must have been trained on the same ones"
                )
    for _ in _indexes(folders):
        pass


def carry(folders: Sequence[Path], trained: Iterable[str], out: Path) -> dict[str, Any]:
    """Copies the parts of checked folders that are not made anew to a model folder.

    Returns:
        The facts of all folders' indexes.
    """
    for folder in folders:
        for name in PARTS:
            if (folder / name).is_dir() and name not in trained and not (out / name).is_dir():
                shutil.copytree(folder / name, out / name)
    return {key: value for index in _indexes(folders) for key, value in index.items()}


def _indexes(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The index of each folder that has one, without the name; later ones may add facts but not change any."""
    known: dict[str, tuple[Any, Path]] = {}
    for folder in folders:
        path = folder / INDEX
        if not path.is_file():
            continue
        index = {key: value for key, value in json.loads(path.read_text()).items() if key != "name"}
        for key, value in index.items():
            before, place = known.setdefault(key, (value, folder))
            if before != value:
                raise ValueError(f"models do not fit together: {key} is {before} in {place} and {value} in {folder}")
        yield index
