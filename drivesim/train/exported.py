"""Whether a run's model was exported whole, and of which folders: a finished run is not exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drivesim.core.files import read_json, write_json
from drivesim.core.run_folder import MODEL_FOLDER, trained_in
from drivesim.train.config import TrainConfig

RECORD = "exported.json"  # in a run folder; not there while a model is written


def is_exported(config: TrainConfig, out: Path) -> bool:
    """Whether the run folder `out` holds the whole model, and nothing that went into it has changed since."""
    path = out / RECORD
    return path.is_file() and read_json(path) == _record(config, out)


def note_export(config: TrainConfig, out: Path) -> None:
    """Notes that the model in `out` is whole."""
    write_json(out / RECORD, _record(config, out))


def forget_export(out: Path) -> None:
    """Before a model is written anew: what a kill leaves of it is not taken for a whole one."""
    (out / RECORD).unlink(missing_ok=True)


def _record(config: TrainConfig, out: Path) -> dict[str, Any]:
    sources = [source for source in (config.init, *config.joins) if source is not None]
    return {
        # The trained weights follow from the run's identity; parts that are carried along do not.
        "sources": [[source, _files(trained_in(Path(source)), with_times=True)] for source in sources],
        "model": _files(out / MODEL_FOLDER, with_times=False),  # a run folder may be copied
    }


def _files(folder: Path, *, with_times: bool) -> dict[str, list[int]]:
    """Sizes of a folder's files, and times of their last change in nanoseconds; of none where it is not there."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: [stat.st_size, *([stat.st_mtime_ns] if with_times else [])] for name, stat in found.items()}
