"""A simulated process that dies at a point of its code is dead there, with all that it was doing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from oakestra.control.failpoints import Point, heeded, reach
from oakestra.model.errors import Unavailable
from oakestra.simulation import virtual_time
from oakestra.simulation.process import Process, reached
from oakestra.transport import Channel
from oakestra.transport.fake import FakeHub

POINT = Point.WORKER_TOLD


def played(scene: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            await scene(group)

    with heeded(reached):
        virtual_time.run(play())


def never(complaint: str) -> None:
    raise AssertionError(complaint)


def test_at_the_point_everything_of_it_ends_where_it_stands() -> None:
    """Goal: a death as by kill -9. Method: one task wakes another, three groups deep, and dies at once."""
    done: list[str] = []

    async def scene(group: asyncio.TaskGroup) -> None:
        async def other(woken: asyncio.Event, depth: int) -> None:
            if depth:
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(other(woken, depth - 1))
            await woken.wait()
            done.append("another step")

        async def main() -> None:
            woken = asyncio.Event()
            async with asyncio.TaskGroup() as inner:
                inner.create_task(other(woken, 3))
                await asyncio.sleep(1)
                woken.set()
                reach(POINT)
                done.append("went on")
                await asyncio.Event().wait()

        process = Process("p", main, group=group, complain=never)
        process.doom(POINT, lambda: done.append("died"))
        process.start()
        await asyncio.sleep(10)
        assert not process.alive
        assert done == ["died"]
        process.start()
        await asyncio.sleep(2)
        assert done[1] == "went on", "it dies once"
        await process.kill()

    played(scene)


def test_who_asked_hears_that_it_went_away() -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        async def answer() -> None:
            await asyncio.sleep(1)
            reach(POINT)

        process = Process("p", asyncio.Event().wait, group=group, complain=never)  # type: ignore[arg-type]
        process.start()
        await process.call(answer())
        process.doom(POINT, lambda: None)
        with pytest.raises(Unavailable, match="went away"):
            await process.call(answer())

    played(scene)


def test_what_a_message_brings_about_is_the_receivers_work() -> None:
    """Goal: the death of a sender ends nothing at the receiver. Method: an answer that takes longer than its asker."""
    answered: list[bytes] = []

    async def scene(group: asyncio.TaskGroup) -> None:
        hub = FakeHub(Random(1))

        async def receive() -> None:
            link = hub.link("above", parent=None)
            async with asyncio.TaskGroup() as tasks:

                async def answer(payload: bytes) -> None:
                    await asyncio.sleep(2)
                    answered.append(payload)

                def received(peer: str, channel: Channel, payload: bytes) -> None:
                    tasks.create_task(answer(payload))

                link.listen(received, lambda *_: None)
                await link.run()

        async def send() -> None:
            link = hub.link("below", parent="above")
            link.running = True
            link.send("up", Channel.SET, b"hello")
            await asyncio.Event().wait()

        above = Process("above", receive, group=group, complain=never)
        below = Process("below", send, group=group, complain=never)
        above.start()
        await asyncio.sleep(1)
        below.start()
        await asyncio.sleep(1)
        await below.kill()
        await asyncio.sleep(5)
        assert answered == [b"hello"]
        await above.kill()

    played(scene)
