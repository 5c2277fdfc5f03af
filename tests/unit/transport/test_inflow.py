"""What is entered into a call arrives whole, once and in order, or the call ends; in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calling import CLUSTER, ROOT, WORKER, Fleet, in_fleet
from oakestra.model.errors import NotFound, Unavailable
from oakestra.model.ids import WorkerId
from oakestra.transport.inflow import BYTES_MAX, PIECES_MAX, Receiver, Sender
from oakestra.wire.native import Call, Input, Lost, Received, Taken

WHOLE = [b"%d " % number for number in range(200)]


def conversation(fleet: Fleet, method: str = "echo", **arguments: Any) -> Any:
    call = Call(id="c1", method=method, worker=WorkerId(WORKER), deadline_s=30.0, arguments=arguments)
    return fleet.asker.converse(CLUSTER, call)


async def echo(_: dict[str, Any], entered: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    yield b"begun"
    async for body in entered:
        if body == b"end":
            return
        yield body


async def gather(_: dict[str, Any], entered: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """Tell at the end what was entered."""
    yield b"begun"
    found = b""
    async for body in entered:
        if body == b"end":
            break
        found += body
    yield found


async def deaf(_: dict[str, Any], entered: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """Read one piece, and no more."""
    yield b"begun"
    yield await anext(entered)
    await asyncio.Event().wait()


class Ends:
    """Both ends, and what is under way between them, either way."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.sender, self.receiver = Sender("c"), Receiver("c")
        self.left = deque(bodies)
        self.used: list[bytes] = []
        self.under_way: list[Input | Taken] = []

    def enter(self) -> None:
        if self.left and self.sender.room:
            self.under_way.append(self.sender.put(self.left.popleft()))

    def again(self) -> None:
        self.under_way += self.sender.again()

    def use(self) -> None:
        if found := self.receiver.take():
            self.used.append(found[0])
            self.under_way.append(found[1])

    def deliver(self, at: int, *, often: int) -> None:
        message = self.under_way.pop(at)
        for _ in range(often):
            if isinstance(message, Input):
                self.under_way.append(self.receiver.arrived(message))
            else:
                self.sender.heard(message)


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=40), st.data())
def test_pieces_are_taken_once_and_in_order_whatever_is_lost_and_repeated(
    bodies: list[bytes], data: st.DataObject
) -> None:
    """Any message either way may be lost, doubled, or overtaken; once links are well again, all arrives."""
    ends = Ends(bodies)
    for _ in range(data.draw(st.integers(0, 100))):
        deeds = [ends.enter, ends.again, ends.use]
        if ends.under_way:
            at = data.draw(st.integers(0, len(ends.under_way) - 1))
            deeds += [partial(ends.deliver, at, often=often) for often in (0, 1, 1, 2)]
        data.draw(st.sampled_from(deeds))()
        assert ends.used == bodies[: len(ends.used)]
        assert len(ends.receiver._waiting) <= PIECES_MAX
    for _ in range(3 * len(bodies) + 3):
        ends.enter()
        ends.use()
        if not ends.under_way:
            ends.again()
        while ends.under_way:
            ends.deliver(0, often=1)
    assert ends.used == bodies
    assert not ends.sender.waits


def test_what_is_under_way_is_bounded() -> None:
    small, large = Sender("c"), Sender("c")
    while small.room:
        small.put(b"x")
    while large.room:
        large.put(bytes(100_000))
    assert len(small.again()) == PIECES_MAX
    assert sum(len(piece.body) for piece in large.again()) < BYTES_MAX + 100_000


def test_who_does_not_use_what_it_has_is_asked_briefly() -> None:
    sender, receiver = Sender("c"), Receiver("c")
    sender.heard(receiver.arrived(sender.put(bytes(1000))))
    (asked,) = sender.again()
    assert asked.body == b""
    assert receiver.take() is not None
    assert receiver.take() is None, "the question is no piece"
    sender.heard(receiver.arrived(asked))
    assert not sender.waits


@pytest.mark.parametrize("seed", range(20))
def test_what_is_entered_arrives_whole_while_connections_break(seed: int) -> None:
    async def body(fleet: Fleet) -> bytes:
        fleet.hub._random.seed(seed)
        fleet.hub.weather.delay_max_s = 0.2
        fleet.hub.weather.repeat_ratio = 0.3
        pieces, entry = conversation(fleet, "gather")
        assert await anext(pieces) == b"begun"
        breaking = asyncio.ensure_future(break_now_and_then(fleet))
        for piece in [*WHOLE, b"end"]:
            await entry.enter(piece)
        said = [piece async for piece in pieces]
        breaking.cancel()
        return b"".join(said)

    async def break_now_and_then(fleet: Fleet) -> None:
        while True:
            await asyncio.sleep(0.5)
            fleet.hub.weather.one_way = {(CLUSTER, WORKER)}
            await asyncio.sleep(0.3)
            fleet.hub.weather.one_way = set()

    assert in_fleet({}, body, {"gather": gather}) == b"".join(WHOLE)


def test_who_enters_waits_for_who_reads() -> None:
    async def body(fleet: Fleet) -> int:
        pieces, entry = conversation(fleet, "deaf")
        await anext(pieces)
        entered = 0

        async def enter() -> None:
            nonlocal entered
            while True:
                await entry.enter(b"x")
                entered += 1

        entering = asyncio.ensure_future(enter())
        await anext(pieces)
        await asyncio.sleep(100)
        async with aclosing(pieces):
            entering.cancel()
        return entered

    assert in_fleet({}, body, {"deaf": deaf}) == 1 + PIECES_MAX


def test_what_has_ended_reads_no_more() -> None:
    async def body(fleet: Fleet) -> None:
        pieces, entry = conversation(fleet)
        await anext(pieces)
        await entry.enter(b"end")
        assert [piece async for piece in pieces] == []
        with pytest.raises(NotFound, match="the command has ended"):
            await entry.enter(b"more")

    in_fleet({}, body, {"echo": echo})


def test_who_waits_for_room_is_told_when_the_call_ends() -> None:
    async def body(fleet: Fleet) -> None:
        pieces, entry = conversation(fleet, "deaf")
        await anext(pieces)

        async def enter() -> None:
            while True:
                await entry.enter(b"x")

        entering = asyncio.ensure_future(enter())
        await asyncio.sleep(5)
        await pieces.aclose()
        with pytest.raises(NotFound):
            await entering

    in_fleet({}, body, {"deaf": deaf})


def test_a_worker_that_started_again_says_that_the_call_is_gone() -> None:
    """At once when something is entered, or when its connection is seen to be new."""

    async def body(fleet: Fleet) -> None:
        for is_back in (False, True):
            pieces, entry = conversation(fleet)
            await anext(pieces)
            fleet.restart_worker()
            if is_back:
                fleet.relay.is_back(WORKER)
            else:
                await entry.enter(b"x")
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match="its worker's agent started again"):
                await anext(pieces)
            assert asyncio.get_running_loop().time() - began_s < 1.0
            assert not fleet.relay._routes

    in_fleet({}, body, {"echo": echo})


def test_a_worker_that_was_away_and_is_the_same_goes_on() -> None:
    async def body(fleet: Fleet) -> None:
        pieces, entry = conversation(fleet)
        await anext(pieces)
        fleet.relay.is_back(WORKER)
        await asyncio.sleep(1)
        await entry.enter(b"still here")
        assert await anext(pieces) == b"still here"
        assert not any(isinstance(message, Lost) for message in fleet.passed)
        assert Received(id="c1", sequence=-1) in fleet.passed
        await pieces.aclose()

    in_fleet({}, body, {"echo": echo})


def test_input_survives_a_connection_that_breaks_between_cluster_and_worker() -> None:
    async def body(fleet: Fleet) -> None:
        pieces, entry = conversation(fleet)
        await anext(pieces)
        fleet.hub.cut(CLUSTER, WORKER)
        await entry.enter(b"lost at first")
        fleet.hub.heal(CLUSTER, WORKER)
        assert await anext(pieces) == b"lost at first"
        fleet.hub.cut(ROOT, CLUSTER)
        with pytest.raises(Unavailable, match="connection broke"):
            await anext(pieces)

    in_fleet({}, body, {"echo": echo})
