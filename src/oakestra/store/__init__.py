"""Durable records behind one small protocol. An orchestrator's truth lives here, its working set in memory.

Records are opaque bytes under (table, key). A commit is a transaction; writers are served in order, and
several waiting commits may share one disk flush. Nothing here knows what a record means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Put:
    """Write `body` under (table, key), replacing what was there."""

    table: str
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove (table, key); nothing happens if it is not there."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Begin this epoch, which is greater: these records turned out to be an older copy of what others were told from."""

    epoch: int


Change = Put | Delete | Renew


class StoreFailed(Exception):
    """A commit could not be made durable (disk full, file damaged).

    That commit and every one made before `load` is called again are refused, even those that are still queued then:
    they were decided on a state that does not exist on disk.
    """


class Store(Protocol):
    """Keeps records. `epoch` is new whenever the store is new or was restored, and never repeats."""

    @property
    def epoch(self) -> int: ...

    def load(self) -> Mapping[str, Mapping[str, bytes]]:
        """Return every record as {table: {key: body}}; every table of the schema is present.

        Also clears the refusal described at `StoreFailed`. Raises `StoreFailed` if it cannot be read.
        """

    async def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes durable, or none; return when they are. Raises `StoreFailed`."""

    def close(self) -> None:
        """Finish queued commits and release the file. Calling it twice is harmless."""


class Cell(Protocol):
    """Keeps one value durably: a worker's desired set, which must not cost it a database."""

    def read(self) -> bytes | None:
        """Return the value last written, or None if there never was one."""

    async def write(self, value: bytes) -> None:
        """Replace the value durably, or not at all. Raises `StoreFailed`."""
