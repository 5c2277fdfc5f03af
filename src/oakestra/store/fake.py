"""A store in memory that can lose what was not flushed, or refuse to write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from oakestra.store import Change, Put, StoreFailed


@dataclass
class Disk:
    """What survives the process: hand the same disk to the next `FakeStore` to restart it."""

    tables: dict[str, dict[str, bytes]]
    epoch: int
    full: bool = False
    commits: int = field(default=0)


class FakeStore:
    """Implements `Store` on a `Disk`. A commit takes `flush_s` and is lost if the process dies before."""

    def __init__(self, tables: Sequence[str], *, disk: Disk | None = None, flush_s: float = 0.0) -> None:
        self.disk = disk if disk is not None else Disk({name: {} for name in tables}, epoch=1)
        self._flush_s = flush_s
        self._refusing = False
        self._order = asyncio.Lock()

    @property
    def epoch(self) -> int:
        return self.disk.epoch

    def load(self) -> Mapping[str, Mapping[str, bytes]]:
        self._refusing = False
        return {name: dict(records) for name, records in self.disk.tables.items()}

    async def commit(self, changes: Sequence[Change]) -> None:
        async with self._order:
            if self._flush_s:
                await asyncio.sleep(self._flush_s)
            if self._refusing or self.disk.full:
                self._refusing = True
                raise StoreFailed("no space left on the fake disk")
            self.disk.commits += 1
            for change in changes:
                if isinstance(change, Put):
                    self.disk.tables[change.table][change.key] = change.body
                else:
                    self.disk.tables[change.table].pop(change.key, None)

    def close(self) -> None:
        """Nothing to finish: commits are awaited."""


@dataclass
class FakeCell:
    """Implements `Cell` in memory; survives the agent as long as somebody holds it."""

    value: bytes | None = None
    full: bool = False

    def read(self) -> bytes | None:
        return self.value

    async def write(self, value: bytes) -> None:
        if self.full:
            raise StoreFailed("no space left on the fake disk")
        self.value = value
