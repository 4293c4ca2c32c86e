"""Model folders put together: parts and index keys that other folders hold, beside what a stage has trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drivesim.families.facts import check_facts
from drivesim.families.fitting import check_fit, check_latents
from drivesim.families.folder import INDEX, PARTS, REQUIRED_FACTS, blank_parts, fingerprint, part_names


def check_joined(folders: Sequence[Path], trained: Iterable[str]) -> None:
    """Refuses folders whose parts or facts contradict each other.

    Args:
        folders: model folders; the first one is what the others must fit.
        trained: parts that are made anew, in whatever folder they are.

    Raises:
        ValueError: two folders hold different parts or facts of one name; says which, and both folders. Or a fact is
            of another kind than its key's.
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
    return joined_facts(folders)


def joined_facts(folders: Sequence[Path]) -> dict[str, Any]:
    """The facts of all folders' indexes, without a name."""
    return {key: value for index in _indexes(folders) for key, value in index.items()}


def check_outcome(folders: Sequence[Path], made: dict[str, Any], trained: Iterable[str], index: dict[str, Any]) -> None:
    """Refuses a training after which a whole model could not be loaded; one that lacks a stage is not judged yet.

    Args:
        folders: checked model folders whose parts and facts the model gets.
        made: the other parts, and those of `folders` that they were made for; with or without weights.
        trained: names of the parts that are made anew.
        index: facts that the training adds, and the model's name.

    Raises:
        ValueError: parts or facts do not fit together; names both sides.
    """
    trained, known = set(trained), joined_facts(folders)
    _check_upsampler_facts(known, trained, index)
    if "autoencoder" in trained:  # its scale is measured at the end
        return
    facts = known | index
    check_latents({"name": index["name"]} | known, made["autoencoder"])
    if "rates" not in facts:  # an interpolation may come, and with it the decoder's frame rate
        facts.pop("video_decoder", None)
    names = part_names(facts)
    parts = {name: part for name, part in made.items() if name in names}
    for folder in folders:
        held = [name for name in names if (folder / name).is_dir() and name not in parts and name not in trained]
        parts |= blank_parts(folder, held)
    if facts.keys() >= set(REQUIRED_FACTS) and parts.keys() >= set(names):
        check_fit(facts, parts)


def _check_upsampler_facts(known: dict[str, Any], trained: set[str], index: dict[str, Any]) -> None:
    """Raises ValueError where layers over time are trained for another use of an upsampler than its own."""
    if "upsampler" in trained or not known.keys() & index.keys() >= {"upsampler"}:
        return
    for key in ("scale", "detail_gain"):  # its patches show in the network itself
        one, other = known["upsampler"][key], index["upsampler"][key]
        if one != other:
            raise ValueError(
                f"model {index['name']!r}: upsampler.{key}={other}, but the upsampler that it trains on has {one}"
            )


def _indexes(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The index of each folder that has one, without the name; later ones may add facts but not change any."""
    known: dict[str, tuple[Any, Path]] = {}
    for folder in folders:
        path = folder / INDEX
        if not path.is_file():
            continue
        index = {key: value for key, value in json.loads(path.read_text()).items() if key != "name"}
        check_facts(path, index)
        for key, value in index.items():
            before, place = known.setdefault(key, (value, folder))
            if before != value:
                raise ValueError(f"models do not fit together: {key} is {before} in {place} and {value} in {folder}")
        yield index
