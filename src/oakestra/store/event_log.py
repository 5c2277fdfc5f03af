"""Keep the last events of a tier, and let others read along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from oakestra.model.event import Event
from oakestra.model.ids import ServiceId
from oakestra.store.records import Table

SIZE_MAX = 4000
"""About a megabyte; the story of a busy day."""
UNREAD_MAX = 1000
"""A reader that lags so far behind misses the oldest."""


async def told(log: EventLog, arguments: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """Yield events as lines of JSON: those of `service` and `slot` or all; with `follow` also what comes."""
    service, slot = arguments.get("service"), arguments.get("slot")
    for event in log.of(service, slot):
        yield msgspec.json.encode(event) + b"\n"
    if arguments.get("follow"):
        async for event in log.follow():
            if service in (None, event.service) and slot in (None, event.slot):
                yield msgspec.json.encode(event) + b"\n"


class EventLog:
    """The newest events of one tier, oldest first. What is added is durable with the records' next commit."""

    def __init__(self, kept: Table[Event], *, size_max: int = SIZE_MAX) -> None:
        self._kept = kept
        self._size_max = size_max
        self._last = max((event.sequence for event in kept.values()), default=0)
        self._readers: set[asyncio.Queue[Event]] = set()

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
                tier=tier,
                wall_s=event.wall_s or now_wall_s,
                service_name=name_of(event.service),
            )
            self._kept.put(f"{self._last:016d}", dated)
            for reader in self._readers:
                if reader.full():
                    reader.get_nowait()
                reader.put_nowait(dated)
        while len(self._kept) > self._size_max:
            self._kept.remove(next(iter(self._kept)))

    def of(self, service: ServiceId | None = None, slot: int | None = None) -> tuple[Event, ...]:
        """Return what is remembered, of everything or of one service or instance."""
        return tuple(
            event
            for event in self._kept.values()
            if (service is None or event.service == service) and (slot is None or event.slot == slot)
        )

    async def follow(self) -> AsyncIterator[Event]:
        """Yield what happens from now on."""
        reader: asyncio.Queue[Event] = asyncio.Queue(UNREAD_MAX)
        self._readers.add(reader)
        try:
            while True:
                yield await reader.get()
        finally:
            self._readers.discard(reader)
