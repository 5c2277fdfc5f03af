"""Who follows at root hears every cluster, also after it was away, each event once. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from random import Random
from typing import Any

from oakestra.model.errors import Unavailable
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.root.api.following import LOOK_AGAIN_S, UNTOLD_MAX, followed
from oakestra.root.state import ClusterRecord, ClusterView, RootState
from oakestra.simulation import virtual_time
from oakestra.store.event_log import EventLog, told
from oakestra.store.fake import Disk, FakeStore
from oakestra.store.records import Records
from oakestra.transport import Channel
from oakestra.transport.calls import Answers, Asker
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import Call
from root_api import TABLES

EAST, WEST = ClusterId("east"), ClusterId("west")
UP, ROOT = "up", "root"
QUIET_S = 100 * LOOK_AGAIN_S
SOON_S = 3 * LOOK_AGAIN_S
START_S = 0.1


class Site:
    """A cluster's process that has nothing but events, and answers for them."""

    def __init__(self, fleet: Fleet, name: str, disk: Disk) -> None:
        self.records = Records(FakeStore((), disk=disk))
        kept = self.records.table("events", Event)
        self.records.load()
        self.log = EventLog(self.records, kept)
        self.disk = disk
        self._name = name
        self._link = fleet.hub.link(name, parent=ROOT)
        answers = Answers({"events": lambda arguments: told(self.log, arguments)})
        self._link.listen(
            lambda peer, _, payload: answers.received(self._link, peer, payload, fleet.group), _unheard
        )
        self._running = fleet.group.create_task(self._link.run())

    async def happened(self, *reasons: str, wall_s: float = 1.0) -> None:
        events = [Event(kind=EventKind.PHASE, reason=reason) for reason in reasons]
        self.log.add(events, tier=self._name, now_wall_s=wall_s, name_of=lambda _: "")
        await self.records.commit()

    async def die(self) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running


class Fleet:
    """Root and its clusters; root has heard of one when a test says so."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.group = group
        self.hub = FakeHub(Random(1))
        self.state = RootState(FakeStore(TABLES))
        self.log = EventLog(self.state.records, self.state.events)
        self.asked: list[tuple[ClusterId, Mapping[str, Any]]] = []
        link = self.hub.link(ROOT, parent=None)
        self._asker = Asker(link)
        link.listen(self._arrived, lambda peer, here: None if here else self._asker.lost(peer))
        group.create_task(link.run())

    async def start(self, cluster: ClusterId, disk: Disk | None = None) -> Site:
        """Let a cluster's process start, which takes a moment."""
        await asyncio.sleep(START_S)
        self.state.clusters.put(cluster, ClusterRecord(id=cluster, name=cluster, key=cluster))
        return Site(self, cluster, disk or Disk({"events": {}}, epoch=1))

    def hear(self, cluster: ClusterId) -> None:
        self.state.views[cluster] = ClusterView(last_seen_s=asyncio.get_running_loop().time())

    async def happened(self, *reasons: str) -> None:
        events = [Event(kind=EventKind.PHASE, reason=reason) for reason in reasons]
        self.log.add(events, tier=ROOT, now_wall_s=1.0, name_of=lambda _: "")
        await self.state.commit()

    def follow(self) -> AsyncGenerator[Event, None]:
        return followed(self.log, self.state, self._call)

    def _call(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        self.asked.append((cluster, arguments))
        call = Call(id=f"call-{len(self.asked)}", method=method, worker=worker, arguments=dict(arguments))
        return self._asker.ask(cluster, call)

    def _arrived(self, peer: str, channel: Channel, payload: bytes) -> None:
        assert channel is Channel.CALL
        self._asker.received(peer, payload)


def _unheard(peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
    del peer, connected


def played(story: Callable[[Fleet], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.TaskGroup() as group:
            fleet = Fleet(group)
            await story(fleet)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    virtual_time.run(all_of_it())


async def told_next(events: AsyncGenerator[Event, None], count: int) -> list[str]:
    """Return what is told next; it must not take long."""
    async with asyncio.timeout(SOON_S):
        return [(await anext(events)).reason for _ in range(count)]


async def nothing_more(events: AsyncGenerator[Event, None]) -> None:
    """Return if nothing is told for long. Ends the following."""
    with suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            raise AssertionError((await anext(events)).reason)


@asynccontextmanager
async def away_after_two(
    fleet: Fleet, *, wall_s: float = 1.0
) -> AsyncIterator[tuple[Disk, AsyncGenerator[Event, None]]]:
    """Follow the fleet, hear two events of a cluster, and let that die; yield its disk, too."""
    east = await fleet.start(EAST)
    fleet.hear(EAST)
    await east.happened("a", "b", wall_s=wall_s)
    async with aclosing(fleet.follow()) as events:
        assert await told_next(events, 2) == ["a", "b"]
        await east.die()
        yield east.disk, events


def test_a_cluster_that_was_away_is_asked_again_and_tells_each_event_once() -> None:
    async def story(fleet: Fleet) -> None:
        async with away_after_two(fleet) as (disk, events):
            await fleet.happened("root goes on")
            assert await told_next(events, 1) == ["root goes on"]
            east = await fleet.start(EAST, disk)
            await east.happened("c")
            fleet.hear(EAST)
            assert await told_next(events, 1) == ["c"]
            await east.happened("d")
            assert await told_next(events, 1) == ["d"]
            assert fleet.asked[-1] == (EAST, {"follow": True, "epoch": 1, "after": 2}), "a and b travel once"
            await nothing_more(events)

    played(story)


def test_a_link_that_was_cut_for_a_moment_loses_nothing() -> None:
    async def story(fleet: Fleet) -> None:
        east = await fleet.start(EAST)
        fleet.hear(EAST)
        await east.happened("a")
        async with aclosing(fleet.follow()) as events:
            assert await told_next(events, 1) == ["a"]
            fleet.hub.cut(ROOT, EAST)
            await east.happened("b")
            fleet.hub.heal(ROOT, EAST)
            await asyncio.sleep(LOOK_AGAIN_S)
            fleet.hear(EAST)
            await east.happened("c")
            assert await told_next(events, 2) == ["b", "c"]
            await nothing_more(events)

    played(story)


def test_a_cluster_that_joins_later_is_heard() -> None:
    async def story(fleet: Fleet) -> None:
        async with aclosing(fleet.follow()) as events:
            await fleet.happened("root alone")
            assert await told_next(events, 1) == ["root alone"]
            west = await fleet.start(WEST)
            await west.happened("a")
            fleet.hear(WEST)
            assert await told_next(events, 1) == ["a"]

    played(story)


def test_a_cluster_that_lost_its_records_counts_anew_whatever_its_clock_says() -> None:
    async def story(fleet: Fleet) -> None:
        async with away_after_two(fleet, wall_s=9.0) as (_, events):
            east = await fleet.start(EAST, Disk({"events": {}}, epoch=2))
            await east.happened("c", wall_s=1.0)
            fleet.hear(EAST)
            assert await told_next(events, 1) == ["c"]

    played(story)


def test_who_begins_a_new_epoch_on_old_records_tells_nothing_twice() -> None:
    async def story(fleet: Fleet) -> None:
        async with away_after_two(fleet) as (disk, events):
            disk.epoch = 2
            east = await fleet.start(EAST, disk)
            await east.happened("c")
            fleet.hear(EAST)
            assert await told_next(events, 1) == ["c"]
            await nothing_more(events)

    played(story)


def test_who_is_silent_is_asked_once_and_who_refuses_once_for_each_look() -> None:
    async def story(fleet: Fleet) -> None:
        asked: list[ClusterId] = []

        async def refuse(
            cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
        ) -> AsyncGenerator[bytes, None]:
            del worker, method, arguments
            asked.append(cluster)
            raise Unavailable("lost")
            yield b""

        await fleet.start(EAST)
        await fleet.start(WEST)  # never heard since root began
        fleet.hear(EAST)
        async with aclosing(followed(fleet.log, fleet.state, refuse)) as events:
            await nothing_more(events)
        assert asked == [EAST]
        asked.clear()
        async with aclosing(followed(fleet.log, fleet.state, refuse)) as events:
            listening = asyncio.ensure_future(anext(events))
            for _ in range(1000):
                fleet.hear(EAST)
                await asyncio.sleep(LOOK_AGAIN_S / 100)
            assert len(asked) <= 11
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    played(story)


def test_who_left_leaves_no_task_behind() -> None:
    async def story(fleet: Fleet) -> None:
        east = await fleet.start(EAST)
        fleet.hear(EAST)
        await asyncio.sleep(SOON_S)
        before = asyncio.all_tasks()
        async with aclosing(fleet.follow()) as events:
            await east.happened(*(str(number) for number in range(2 * UNTOLD_MAX)))
            assert await told_next(events, 1) == ["0"]
            await asyncio.sleep(SOON_S)
            assert asyncio.all_tasks() > before, "somebody reads"
        await asyncio.sleep(SOON_S)  # until the cluster was told, too
        assert asyncio.all_tasks() == before

    played(story)
