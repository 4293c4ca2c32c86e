"""A run folder explains itself: resolved config, versions, commit, command line, model fingerprint."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from drivesim.core.files import atomic_path, read_json, write_json, writer_of

CONFIG_FILE = "config.yaml"
ORIGIN_FILE = "made_by.json"
IDENTITY_FILE = "run.json"
ROWS_FILE = "rows.jsonl"  # what was made or measured, a line each
MODEL_FOLDER = "model"  # of a training
_OF_DIGESTS = {  # what makes another digest of a run's keys, where a person could wonder
    "model": ": other weights, or other keys of sampler, stages, memory, weights or device",
    "start_sha256": ": the start frame has other pixels",
}
_RECORDED = ("drivesim", "torch", "diffusers", "lightning", "numpy", "opencv-python-headless", "av", "ray")


def record_run(
    folder: Path, config: Mapping[str, Any], command_line: Sequence[str], *, fingerprint: str | None = None
) -> None:
    """Writes what made a run folder: `config.yaml` and `made_by.json`; the latest run of a folder counts.

    Args:
        folder: the run's folder; made when it is not there.
        config: the resolved config, plain values.
        command_line: what was typed, word by word.
        fingerprint: of the model's weights; None = the command uses no model.
    """
    with atomic_path(folder / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    origin = {
        "command": shlex.join(command_line),
        "versions": versions(),
        "commit": commit(),
        "model_fingerprint": fingerprint,
    }
    write_json(folder / ORIGIN_FILE, origin)


def trained_in(folder: Path) -> Path:
    """The model that a training left in its run folder; any other folder as it is."""
    model = folder / MODEL_FOLDER
    return model if (folder / IDENTITY_FILE).is_file() and model.is_dir() else folder


def claim_folder(folder: Path, identity: Mapping[str, Any], may_grow: str | None = None) -> None:
    """Notes in run.json what a run folder holds; a run may go on in a folder that holds the same.

    Of several processes of one run the first claims for all; the others `follow_claim`.

    Args:
        folder: the run's folder; made when it is not there.
        identity: what fixes the run's results, plain values.
        may_grow: key of a number that may be larger than the folder's, which is then claimed anew; None = nothing.

    Raises:
        ValueError: the folder holds another run; names what differs.
    """
    path = folder / IDENTITY_FILE
    for temporary in folder.glob(".tmp-*"):
        if temporary.is_file() and not _is_alive(writer_of(temporary)):  # left by a kill
            temporary.unlink(missing_ok=True)
    if not path.exists():
        write_json(path, dict(identity))
        return
    held = read_json(path)
    grown = {}
    if may_grow is not None and held.get(may_grow, math.inf) < identity[may_grow]:
        grown = {may_grow: identity[may_grow]}
    differences = _differences(held | grown, identity)
    if differences:
        raise ValueError(f"{folder} holds another run ({differences}); choose another folder or delete it")
    if grown:
        write_json(path, dict(identity))


def follow_claim(folder: Path, identity: Mapping[str, Any], patience_s: float = 600.0) -> None:
    """Waits until the first process of a run has claimed its folder for what this process is about to do, too.

    Args:
        folder: the run's folder, the same for all processes.
        identity: as `claim_folder` takes it.
        patience_s: seconds to wait: processes that others start begin at different times.

    Raises:
        ValueError: by then the folder was not claimed, or for another run; names what differs.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            said = _differences(read_json(folder / IDENTITY_FILE), identity)
        except FileNotFoundError:
            said = "nobody has claimed it"
        if not said:
            return
        if time.monotonic() >= until:
            raise ValueError(
                f"{folder}: the first process of this run does not do the same there ({said}); give all processes the "
                "same settings, and out=FOLDER on a disk that all of them see"
            )
        time.sleep(0.2)


def _differences(held: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What differs between a folder's run and this one; "" = nothing."""
    return "; ".join(_each_difference(held, identity))


def _each_difference(held: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What differs, each with its key; of values that are mappings the keys inside alone."""
    for key in sorted({*held, *wanted}):
        there, here = held.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from _each_difference(there, here, f"{place}{key}.")
        elif there != here:
            if all(_is_digest(value) for value in (there, here)):  # nobody can read anything from the two
                yield f"{place}{key} is another{_OF_DIGESTS.get(place + key, '')}"
                continue
            was, is_now = (repr(side[key]) if key in side else "not said" for side in (held, wanted))
            yield f"{place}{key} {was} there, {is_now} here"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_alive(process: int | None) -> bool:
    """Whether another process with this number runs on this machine."""
    if process is None or process == os.getpid():  # numbers come again, above all in containers
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """Commit of the checkout that this code runs from, "+changes" when edited; None = no checkout."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        head = _git(source, "rev-parse", "HEAD")
        edited = _git(source, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None  # git is not installed, or the repository has no commit yet
    return head + ("+changes" if edited else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
