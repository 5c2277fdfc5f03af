"""The working set: typed records in memory, in step with a store.

Reading is a dictionary look-up. A change is visible in memory at once and durable when `commit` returns; nothing
may be answered or sent because of a change before that. After a failed commit memory is read afresh from disk.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, Generic, TypeVar

import msgspec

from oakestra.model.errors import Unavailable
from oakestra.store import Change, Delete, Put, Renew, Store, StoreFailed

T = TypeVar("T")
K = TypeVar("K")


class Table(Mapping[str, T], Generic[T]):
    """Records of one kind by key. Iterates in the order of insertion.

    Its views are those of the dictionary inside: `Mapping` makes slow ones of `__getitem__`, and passes read a lot.
    """

    def __init__(self, name: str, kind: type[T], pending: list[Change]) -> None:
        self.name = name
        self.changes = 0
        """Grows whenever a record becomes another one."""
        self._decoder = msgspec.json.Decoder(kind)
        self._records: dict[str, T] = {}
        self._pending = pending

    def __getitem__(self, key: str) -> T:
        return self._records[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def keys(self) -> KeysView[str]:
        return self._records.keys()

    def values(self) -> ValuesView[T]:
        return self._records.values()

    def items(self) -> ItemsView[str, T]:
        return self._records.items()

    def put(self, key: str, record: T) -> None:
        """Set the record; a no-op if it is equal to what is there."""
        if self._records.get(key) == record:
            return
        self._records[key] = record
        self.changes += 1
        self._pending.append(Put(self.name, key, msgspec.json.encode(record)))

    def remove(self, key: str) -> None:
        """Remove the record; a no-op if there is none."""
        if self._records.pop(key, None) is not None:
            self.changes += 1
            self._pending.append(Delete(self.name, key))

    def replace_all(self, bodies: Mapping[str, bytes]) -> None:
        """Forget everything and take these encoded records."""
        self._records = {key: self._decoder.decode(body) for key, body in bodies.items()}
        self.changes += 1


class Index(Generic[K, T]):
    """The records of a table by another key, in the order of that key."""

    def __init__(self, table: Table[T], key: Callable[[T], K]) -> None:
        self._table = table
        self._key = key
        self._changes = -1
        self._records: Mapping[K, T] = {}

    def __call__(self) -> Mapping[K, T]:
        """Return them as they are now: the very same mapping until one of them changes. Do not change it."""
        if self._changes != self._table.changes:
            keyed = [(self._key(record), record) for record in self._table.values()]
            self._records = dict(sorted(keyed, key=_first))
            self._changes = self._table.changes
        return self._records


def _first(pair: tuple[Any, object]) -> Any:
    return pair[0]


class Records:
    """All tables of one orchestrator, and the changes not yet committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: list[Change] = []
        self._tables: list[Table[Any]] = []
        self._loads = 0
        self._watchers: list[Callable[[Sequence[Change]], None]] = []

    @property
    def epoch(self) -> int:
        return self._store.epoch

    def renew(self, epoch: int) -> None:
        """Begin a new epoch, with the next commit: these records are an older copy of what was told to others."""
        self._pending.append(Renew(max(epoch, self.epoch + 1)))

    @property
    def pending(self) -> bool:
        """Whether anything was changed that nobody made durable yet."""
        return bool(self._pending)

    def changes(self, *, besides: Table[Any]) -> int:
        """Return a number that grows with every change of any record, those of one table aside."""
        return sum(table.changes for table in self._tables if table is not besides)

    def watch(self, told: Callable[[Sequence[Change]], None]) -> None:
        """Tell somebody of changes once they are durable, in their order; `told` never blocks or raises."""
        self._watchers.append(told)

    def table(self, name: str, kind: type[T]) -> Table[T]:
        """Declare a table; call `load` after the last one."""
        table = Table(name, kind, self._pending)
        self._tables.append(table)
        return table

    def load(self) -> None:
        """Read everything from the store, dropping changes that were not committed."""
        self._pending.clear()
        self._loads += 1
        bodies = self._store.load()
        for table in self._tables:
            table.replace_all(bodies[table.name])

    async def commit(self) -> None:
        """Make every change so far durable. Raises `Unavailable` and reads afresh if that fails."""
        if not self._pending:
            return
        changes = tuple(self._pending)
        self._pending.clear()
        loads = self._loads
        try:
            await self._store.commit(changes)
        except StoreFailed as error:
            if loads == self._loads:  # else memory was read afresh since, without this change
                self.load()
            raise Unavailable(
                f"the change could not be saved: {error}; nothing was changed, try again"
            ) from error
        for told in self._watchers:
            told(changes)
