"""Weight files from a path or URL, used only after their checksum was found right."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from drivesim.core.files import atomic_path, sha256_file

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60.0


@dataclass(kw_only=True, slots=True)
class Checksum:
    """What a file must hash to; every digest that is given must match."""

    sha256: str | None = None  # 64 hexadecimal digits
    git_blob_sha1: str | None = None  # git's id of the file: sha1 of "blob SIZE\\0" and the bytes

    def __post_init__(self) -> None:
        """Refuses a checksum that would accept any file."""
        if not self.sha256 and not self.git_blob_sha1:
            raise ValueError("a weight file needs a checksum: give sha256 or git_blob_sha1")

    def problem(self, path: Path) -> str | None:
        """Why a file is not the expected one; None = it is."""
        if self.sha256 and (found := sha256_file(path)) != self.sha256.lower():
            return f"its sha256 is {found}, expected {self.sha256.lower()}"
        if self.git_blob_sha1 and (found := git_blob_sha1(path)) != self.git_blob_sha1.lower():
            return f"its git blob id is {found}, expected {self.git_blob_sha1.lower()}"
        return None

    def __str__(self) -> str:
        """For messages."""
        parts = {"sha256": self.sha256, "git blob": self.git_blob_sha1}
        return ", ".join(f"{name} {digest}" for name, digest in parts.items() if digest)


def git_blob_sha1(path: Path) -> str:
    """Git's object id of a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def checked_file(source: str | Path, checksum: Checksum, cache_folder: Path, where_to_get: str) -> Path:
    """A local file with the wanted bytes.

    Args:
        source: A path, or an http, https or file URL, which is downloaded into `cache_folder` once.
        checksum: What it must hash to.
        cache_folder: For downloads; made when needed.
        where_to_get: Ends the message when the file can't be had.

    Raises:
        FileNotFoundError: the file is absent, or the download failed.
        ValueError: the file is there but is another one.
    """
    parsed = urlparse(str(source))
    if parsed.scheme not in ("http", "https", "file"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such weight file (expected: {checksum}). {where_to_get}")
    else:
        path = cache_folder.expanduser() / Path(unquote(parsed.path)).name
        if not path.is_file() or checksum.problem(path):
            _download(str(source), path, checksum, where_to_get)
    if problem := checksum.problem(path):
        raise ValueError(f"{path}: not the expected weights: {problem}. {where_to_get}")
    return path


def _download(url: str, path: Path, checksum: Checksum, where_to_get: str) -> None:
    """Fetches a URL to a temporary name and renames it once its checksum is right."""
    try:
        with atomic_path(path) as temporary:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, temporary.open("wb") as file:
                shutil.copyfileobj(response, file, _BLOCK_BYTES)
            if problem := checksum.problem(temporary):
                raise ValueError(f"{url}: not the expected weights: {problem}. {where_to_get}")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        message = f"{url}: cannot be downloaded ({error}); expected: {checksum}. {where_to_get}"
        raise FileNotFoundError(message) from error
