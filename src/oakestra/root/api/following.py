"""Follow what happens at root and in every cluster, on behalf of one listener. Knows not who may hear what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from oakestra.control.loop import Loop
from oakestra.model.errors import OakestraError
from oakestra.model.event import Event, Heard
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.root.api.reach import CallWorker
from oakestra.root.state import RootState
from oakestra.store.event_log import EventLog

LOOK_AGAIN_S = 1.0
"""So often it is looked for clusters that joined, or were heard again."""
UNTOLD_MAX = 100
"""More wait where they happened while a listener is slow."""


async def followed(log: EventLog, state: RootState, call: CallWorker) -> AsyncGenerator[Event, None]:
    """Yield what happened and happens, each event once, those of a tier in their order; ends only by being closed.

    A cluster that is not there is left out until it is heard; then it is told what happened there meanwhile.
    """
    follower = _Follower(log, state, call)
    loop = Loop(follower.look, resync_s=LOOK_AGAIN_S)
    looking = asyncio.ensure_future(loop.run())
    try:
        while True:
            yield await follower.untold.get()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await follower.stop()


def event_of(line: bytes) -> Event | None:
    """Return the event of a line; None for what a cluster of another version may say."""
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Follower:
    """Reads along at root, and in each cluster as long as that goes well."""

    def __init__(self, log: EventLog, state: RootState, call: CallWorker) -> None:
        self._state = state
        self._call = call
        self.untold: asyncio.Queue[Event] = asyncio.Queue(UNTOLD_MAX)
        self._heard = Heard()
        self._after: dict[ClusterId, Mapping[str, int]] = {}
        """The last that came from there: it need not travel again."""
        self._readers: dict[ClusterId, asyncio.Task[None]] = {}
        self._seen_s: dict[ClusterId, float | None] = {}
        """When a cluster had been heard last when its answer ended: who is silent since is not asked again."""
        self._own = asyncio.ensure_future(self._read_own(log))

    async def look(self) -> None:
        """Ask every cluster that may answer and is not being read."""
        for cluster in (record.id for record in self._state.clusters.values()):
            if not self._is_read(cluster) and self._is_heard(cluster):
                self._readers[cluster] = asyncio.ensure_future(self._read(cluster))

    async def stop(self) -> None:
        """Leave nobody reading."""
        readers = (self._own, *self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def _is_read(self, cluster: ClusterId) -> bool:
        reader = self._readers.get(cluster)
        return reader is not None and not reader.done()

    def _is_heard(self, cluster: ClusterId) -> bool:
        """Tell whether a cluster was heard since it was asked last."""
        seen_s = self._last_seen_s(cluster)
        return seen_s is not None and seen_s != self._seen_s.get(cluster)

    def _last_seen_s(self, cluster: ClusterId) -> float | None:
        view = self._state.views.get(cluster)
        return view.last_seen_s if view is not None else None

    async def _read_own(self, log: EventLog) -> None:
        async with aclosing(log.follow()) as events:
            async for event in events:
                await self.untold.put(event)

    async def _read(self, cluster: ClusterId) -> None:
        """Read what a cluster tells until that ends, however it does."""
        arguments: dict[str, Any] = {"follow": True, **self._after.get(cluster, {})}
        rest = b""
        try:
            async with aclosing(self._call(cluster, WorkerId(""), "events", arguments)) as pieces:
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        await self._take(cluster, line)
        except OakestraError:
            return
        finally:
            self._seen_s[cluster] = self._last_seen_s(cluster)

    async def _take(self, cluster: ClusterId, line: bytes) -> None:
        event = event_of(line)
        if event is None:
            return
        if self._heard.hear(event.tier, event.epoch, event.sequence):
            await self.untold.put(event)
        self._after[cluster] = {"epoch": event.epoch, "after": event.sequence}
