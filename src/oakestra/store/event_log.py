"""Keep the last events of a tier, and let others read along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from oakestra.model.event import Event
from oakestra.model.ids import ServiceId
from oakestra.store import Change, Put
from oakestra.store.records import Records, Table

SIZE_MAX = 4000
"""About a megabyte; the story of a busy day. A follower that lags so far behind misses the oldest."""


async def told(log: EventLog, arguments: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    """Yield events as lines of JSON: those of `service` and `slot` or all.

    With `follow` all of them and what comes, but for those that the records of `epoch` numbered up to `after`.
    """
    if arguments.get("follow"):
        async for event in log.follow(epoch=arguments.get("epoch", 0), after=arguments.get("after", 0)):
            yield msgspec.json.encode(event) + b"\n"
        return
    for event in log.of(arguments.get("service"), arguments.get("slot")):
        yield msgspec.json.encode(event) + b"\n"


class EventLog:
    """The newest events of one tier, oldest first. What is added is durable with the records' next commit."""

    def __init__(self, records: Records, kept: Table[Event], *, size_max: int = SIZE_MAX) -> None:
        self._records = records
        self._kept = kept
        self._size_max = size_max
        self._last = max((event.sequence for event in kept.values()), default=0)
        self._durable = self._last
        """Followers hear nothing later: its number would be another event's if this process died now."""
        self._grown = asyncio.Event()
        """Set, and replaced, when more is durable."""
        records.watch(self._saved)

    def add(
        self,
        events: Iterable[Event],
        *,
        tier: str,
        now_wall_s: float,
        name_of: Callable[[ServiceId], str],
    ) -> None:
        """Note what happened just now; events that know when they happened keep that."""
        for event in events:
            self._last += 1
            dated = replace(
                event,
                sequence=self._last,
                epoch=self._records.epoch,
                tier=tier,
                wall_s=event.wall_s or now_wall_s,
                service_name=name_of(event.service),
            )
            self._kept.put(_key(self._last), dated)
        while len(self._kept) > self._size_max:
            self._kept.remove(next(iter(self._kept)))

    def of(self, service: ServiceId | None = None, slot: int | None = None) -> tuple[Event, ...]:
        """Return what is remembered, of everything or of one service or instance."""
        return tuple(
            event
            for event in self._kept.values()
            if (service is None or event.service == service) and (slot is None or event.slot == slot)
        )

    async def follow(self, *, epoch: int = 0, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield what is remembered and durable, and what comes; with these records' `epoch` only what came `after`."""
        last = after if epoch == self._records.epoch else 0
        while True:
            grown = self._grown
            for event in self._since(last):
                last = event.sequence
                yield event
            await grown.wait()

    def _since(self, last: int) -> Sequence[Event]:
        """Return what is durable after a number; some were given to events that could not be saved."""
        oldest = next((event.sequence for event in self._kept.values()), self._durable + 1)
        keys = map(_key, range(max(last + 1, oldest), self._durable + 1))
        return [self._kept[key] for key in keys if key in self._kept]

    def _saved(self, changes: Sequence[Change]) -> None:
        numbers = [
            int(change.key)
            for change in changes
            if isinstance(change, Put) and change.table == self._kept.name
        ]
        if numbers:
            self._durable = max(self._durable, *numbers)
            self._grown.set()
            self._grown = asyncio.Event()


def _key(sequence: int) -> str:
    return f"{sequence:016d}"
