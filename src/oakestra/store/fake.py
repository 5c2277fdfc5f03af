"""A store in memory that can lose what was not flushed, refuse to write, or fail without saying how far it came."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from oakestra.store import Change, Delete, Put, StoreFailed


@dataclass
class Disk:
    """What survives the process: hand the same disk to the next `FakeStore` to restart it."""

    tables: dict[str, dict[str, bytes]]
    epoch: int
    full: bool = False
    commits: int = field(default=0)
    failure_ratio: float = 0.0
    """Of commits that fail; half of those are durable all the same, as after a failed flush."""
    failures: int = 0
    unfinished: int = 0
    """Commits that were lost because the process died meanwhile."""


class FakeStore:
    """Implements `Store` on a `Disk`. A commit takes up to `flush_s` and is lost if the process dies before."""

    def __init__(
        self,
        tables: Sequence[str],
        *,
        disk: Disk | None = None,
        flush_s: float = 0.0,
        random: Random | None = None,
    ) -> None:
        self.disk = disk if disk is not None else Disk({name: {} for name in tables}, epoch=1)
        self._flush_s = flush_s
        self._random = random
        self._loads = 0
        self._failed_at = -1
        self._order = asyncio.Lock()

    @property
    def epoch(self) -> int:
        return self.disk.epoch

    def load(self) -> Mapping[str, Mapping[str, bytes]]:
        self._loads += 1
        return {name: dict(records) for name, records in self.disk.tables.items()}

    async def commit(self, changes: Sequence[Change]) -> None:
        loads = self._loads
        async with self._order:
            try:
                await self._flush()
            except asyncio.CancelledError:
                self.disk.unfinished += 1
                raise
            if loads <= self._failed_at:
                raise StoreFailed("an earlier change could not be saved")
            if self.disk.full or not all(self._fits(change) for change in changes):
                self._failed_at = loads
                raise StoreFailed("no space left on the fake disk")
            failed = self._drawn(self.disk.failure_ratio)
            if not failed or self._drawn(0.5):
                self._write(changes)
            if failed:
                self.disk.failures += 1
                self._failed_at = loads
                raise StoreFailed("the fake disk failed")

    def _write(self, changes: Sequence[Change]) -> None:
        self.disk.commits += 1
        for change in changes:
            if isinstance(change, Put):
                self.disk.tables[change.table][change.key] = change.body
            elif isinstance(change, Delete):
                self.disk.tables[change.table].pop(change.key, None)
            else:
                self.disk.epoch = change.epoch

    def _fits(self, change: Change) -> bool:
        return not isinstance(change, Put | Delete) or change.table in self.disk.tables

    async def _flush(self) -> None:
        if self._flush_s:
            await asyncio.sleep(self._random.uniform(0, self._flush_s) if self._random else self._flush_s)

    def _drawn(self, ratio: float) -> bool:
        return self._random is not None and self._random.random() < ratio

    def close(self) -> None:
        """Nothing to finish: commits are awaited."""


@dataclass
class FakeCell:
    """Implements `Cell` in memory; survives the agent as long as somebody holds it."""

    value: bytes | None = None
    full: bool = False
    flush_s: float = 0.0
    """A write takes so long and is lost if the process dies before."""

    def read(self) -> bytes | None:
        return self.value

    async def write(self, value: bytes) -> None:
        if self.flush_s:
            await asyncio.sleep(self.flush_s)
        if self.full:
            raise StoreFailed("no space left on the fake disk")
        self.value = value
