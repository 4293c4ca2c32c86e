"""One file inside a tar archive, read where it lies: nothing is unpacked."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(kw_only=True, slots=True, frozen=True)
class TarMember:
    """Where a file's bytes lie in an uncompressed archive."""

    archive: Path
    name: str  # inside the archive
    offset: int  # of its first byte
    size: int  # bytes

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def open(self) -> BinaryIO:
        """The file's bytes as a seekable stream; the caller closes it."""
        return io.BufferedReader(_Span(self.archive, self.offset, self.size))

    def read_bytes(self) -> bytes:
        """All bytes."""
        with self.open() as file:
            return file.read()


class _Span(io.RawIOBase):
    """Bytes `offset` to `offset + size` of a file as a file of their own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._place = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = max(0, self._size - self._place)
        self._file.seek(self._offset + self._place)
        count = self._file.readinto(memoryview(buffer)[: min(len(buffer), left)])
        self._place += count or 0
        return count or 0

    def close(self) -> None:
        self._file.close()
        super().close()


def list_members(archive: Path) -> Iterator[TarMember]:
    """The files of an archive in their order, from their headers alone.

    Raises:
        ValueError: no tar file, a compressed one, or one that is cut off; what came before has been given.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for info in tar:
                if info.isfile():
                    yield TarMember(archive=archive, name=info.name, offset=info.offset_data, size=info.size)
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: cannot be read as an uncompressed tar file: {error}") from error
