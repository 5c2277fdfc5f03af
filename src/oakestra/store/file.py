"""One value in one file: written beside, flushed, renamed."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from oakestra.control.failpoints import Point, reach
from oakestra.store import StoreFailed


class FileCell:
    """Implements `Cell` in the file at `path`, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreFailed(f"{self._path} cannot be read: {_why(error)}") from error

    async def write(self, value: bytes) -> None:
        try:
            await asyncio.to_thread(self._replace, value)
        except OSError as error:
            raise StoreFailed(f"{self._path} cannot be written: {_why(error)}") from error

    def _replace(self, value: bytes) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        reach(Point.STORE_REPLACING)
        beside.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _why(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "its disk is full; free some space there"
    return (error.strerror or str(error)).lower()
