"""Who follows a tier's events hears each that is durable, once, in order. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from oakestra.model.errors import Unavailable
from oakestra.model.event import Event, EventKind
from oakestra.simulation import virtual_time
from oakestra.store.event_log import EventLog, told
from oakestra.store.fake import Disk, FakeStore
from oakestra.store.records import Records

FLUSH_S = 1.0


class Tier:
    """A tier's process that has nothing but events: another one on the same disk is the same tier, started again."""

    def __init__(self, disk: Disk, *, size_max: int = 100) -> None:
        self.disk = disk
        self.records = Records(FakeStore((), disk=disk, flush_s=FLUSH_S))
        kept = self.records.table("events", Event)
        self.records.load()
        self.log = EventLog(self.records, kept, size_max=size_max)

    def add(self, *reasons: str) -> None:
        events = [Event(kind=EventKind.PHASE, reason=reason) for reason in reasons]
        self.log.add(events, tier="east", now_wall_s=1.0, name_of=lambda _: "")

    async def happened(self, *reasons: str) -> None:
        self.add(*reasons)
        await self.records.commit()

    def follow(self, **since: Any) -> AsyncGenerator[bytes, None]:
        return told(self.log, {"follow": True, **since})


def played(story: Callable[[Tier], Awaitable[None]], *, size_max: int = 100) -> None:
    async def all_of_it() -> None:
        await story(Tier(Disk({"events": {}}, epoch=1), size_max=size_max))

    virtual_time.run(all_of_it())


async def heard(lines: AsyncGenerator[bytes, None], count: int) -> list[str]:
    return [msgspec.json.decode(await anext(lines), type=Event).reason for _ in range(count)]


def test_what_happens_while_the_remembered_is_read_is_not_lost() -> None:
    async def story(tier: Tier) -> None:
        await tier.happened("a", "b")
        async with aclosing(tier.follow()) as lines:
            assert await heard(lines, 1) == ["a"]
            await tier.happened("c")
            assert await heard(lines, 2) == ["b", "c"]

    played(story)


def test_a_follower_hears_only_what_is_durable_as_a_dying_process_gives_its_number_away() -> None:
    async def story(tier: Tier) -> None:
        async with aclosing(tier.follow()) as lines:
            tier.add("never saved")
            first = asyncio.ensure_future(anext(lines))
            saving = asyncio.ensure_future(tier.records.commit())
            await asyncio.sleep(FLUSH_S / 2)
            assert not first.done()
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            again = Tier(tier.disk)
            await again.happened("saved")
            async with aclosing(again.follow()) as later:
                assert await heard(later, 1) == ["saved"]
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    played(story)


def test_numbers_of_what_could_not_be_saved_hold_nobody_up() -> None:
    async def story(tier: Tier) -> None:
        async with aclosing(tier.follow()) as lines:
            await tier.happened("a")
            tier.disk.full = True
            with pytest.raises(Unavailable):
                await tier.happened("lost")
            tier.disk.full = False
            await tier.happened("b")
            assert await heard(lines, 2) == ["a", "b"]

    played(story)


def test_who_heard_some_of_it_hears_the_rest() -> None:
    async def story(tier: Tier) -> None:
        await tier.happened("a", "b", "c")
        for since, rest in (
            ({"epoch": 1, "after": 2}, ["c"]),
            ({"epoch": 7, "after": 2}, ["a", "b", "c"]),  # numbers of records that were lost say nothing
            ({}, ["a", "b", "c"]),
        ):
            async with aclosing(Tier(tier.disk).follow(**since)) as lines:
                assert await heard(lines, len(rest)) == rest

    played(story)


def test_who_lags_behind_misses_the_oldest() -> None:
    async def story(tier: Tier) -> None:
        await tier.happened("a")
        async with aclosing(tier.follow()) as lines:
            assert await heard(lines, 1) == ["a"]
            await tier.happened("b", "c", "d", "e")
            assert await heard(lines, 2) == ["d", "e"]

    played(story, size_max=2)
