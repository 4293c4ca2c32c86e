"""Files that are whole or absent: atomic writes, JSON rows that survive a kill, checksums."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_TEMPORARY = ".tmp-"  # then the number of the process that writes, then the file's own name


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends without an error.

    The temporary name keeps the suffix, since writers choose their format by it. After an error or
    a kill, `path` is what it was before; after an error, the temporary file is gone.

    Yields:
        Where to write. The block must create that file and close it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def writer_of(temporary: Path) -> int | None:
    """The number of the process that writes a temporary file; None = its name tells none."""
    number = temporary.name.removeprefix(_TEMPORARY).partition("-")[0]
    return int(number) if number.isdecimal() else None


def wait_for(path: Path, every_s: float = 1.0) -> None:
    """Waits until another process has written a file, and says so where there is none yet.

    Args:
        path: of the file, on a disk that both processes see.
        every_s: seconds between two looks.
    """
    if path.is_file():
        return
    _log.warning("waiting for another process to write %s", path)
    while not path.is_file():
        time.sleep(every_s)


def nearest_folder(path: str | Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    whole = Path(path).absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.is_dir())


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_row(path: str | Path, row: Mapping[str, Any]) -> None:
    """Adds one JSON line and waits until it is on the disk.

    A torn last line, which a kill may leave behind, is ended first, so that it costs itself alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; empty when there is no such file.

    A line that is not whole JSON was torn by a kill or a full disk and is left out.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a torn line, or bytes cut inside a character
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    feed(digest, path)
    return digest.hexdigest()


def feed(digest: hashlib._Hash, path: str | Path) -> None:
    """Takes a file into a digest, block by block: weights of full size are gigabytes."""
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; the message names file, line and column.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON: not UTF-8 text") from error
