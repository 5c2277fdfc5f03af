"""Requests are answered in pieces, in order, or end in a clear error; never in a hang. In virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from calling import CLUSTER, ROOT, WORKER, Fleet, in_fleet
from oakestra.model.errors import Conflict, NotFound, OakestraError, Unavailable
from oakestra.model.ids import WorkerId
from oakestra.transport.calls import ALIVE_EVERY_S, WINDOW, Relay
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import PIECE_BYTES_MAX, Call, Reply, encode_call


async def count(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
    for number in range(arguments["to"]):
        yield b"%d " % number


def test_pieces_arrive_in_order_through_the_tier_between() -> None:
    async def body(fleet: Fleet) -> bytes:
        fleet.hub.weather.delay_max_s = 0.5
        fleet.hub.weather.repeat_ratio = 0.3
        return b"".join([piece async for piece in fleet.ask("count", to=100)])

    assert in_fleet({"count": count}, body) == b"".join(b"%d " % number for number in range(100))


def test_a_large_piece_is_cut() -> None:
    async def blob(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        yield bytes(3 * PIECE_BYTES_MAX + 1)

    async def body(fleet: Fleet) -> list[int]:
        return [len(piece) async for piece in fleet.ask("blob")]

    assert in_fleet({"blob": blob}, body) == [PIECE_BYTES_MAX] * 3 + [1]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_the_call_ends(seed: int) -> None:
    """All pieces in order, or a beginning of them and a clear error, in bounded time."""

    async def body(fleet: Fleet) -> None:
        fleet.hub._random = Random(seed)
        fleet.hub.weather.loss_ratio = 0.05
        pieces = []
        async with asyncio.timeout(1000):
            try:
                async for piece in fleet.ask("count", to=50):
                    pieces.append(piece)  # noqa: PERF401 - what came before an error counts
            except Unavailable:
                assert len(pieces) < 50 or pieces == [b"%d " % number for number in range(50)]
            else:
                assert len(pieces) == 50
        assert pieces == [b"%d " % number for number in range(len(pieces))]
        assert not fleet.asker._waiting
        fleet.hub.weather.loss_ratio = 0.0
        await asyncio.sleep(1000)
        assert not fleet.answers._running, "a call that nobody waits for goes on"

    in_fleet({"count": count}, body)


def test_a_peer_that_is_away_ends_the_call_at_its_deadline() -> None:
    async def body(fleet: Fleet) -> float:
        fleet.hub.cut(ROOT, CLUSTER)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="no answer for 7 s"):
            await anext(fleet.ask("count", deadline_s=7.0, to=1))
        return asyncio.get_running_loop().time() - began_s

    assert in_fleet({"count": count}, body) == pytest.approx(7.0)


def test_a_connection_that_breaks_ends_the_call_at_once() -> None:
    async def nothing(_: dict[str, Any]) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def body(fleet: Fleet) -> float:
        asking = asyncio.ensure_future(anext(fleet.ask("nothing")))
        await asyncio.sleep(1)
        began_s = asyncio.get_running_loop().time()
        fleet.hub.cut(ROOT, CLUSTER)
        with pytest.raises(Unavailable, match="connection broke"):
            await asking
        return asyncio.get_running_loop().time() - began_s

    assert in_fleet({"nothing": nothing}, body) < 1.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Conflict("it is busy: try later"), Conflict),
        (NotFound("no such instance"), NotFound),
        (ValueError("a bug"), OakestraError),
    ],
)
def test_an_error_travels_with_its_kind_and_sentence(error: Exception, expected: type[Exception]) -> None:
    async def broken(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"so far"
        raise error

    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("broken")
        assert await anext(answer) == b"so far"
        with pytest.raises(expected, match=str(error)):
            await anext(answer)

    in_fleet({"broken": broken}, body)


def test_a_method_that_is_not_known_is_not_found() -> None:
    async def body(fleet: Fleet) -> None:
        with pytest.raises(NotFound, match="dance"):
            await anext(fleet.ask("dance"))

    in_fleet({}, body)


def test_an_asker_that_goes_away_cancels_the_call_over_there() -> None:
    ended = []

    async def follow(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ended.append("follow")

    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("follow")
        assert await anext(answer) == b"begun"
        async with aclosing(answer):
            pass
        await asyncio.sleep(1)
        assert ended == ["follow"]
        assert not fleet.answers._running

    in_fleet({"follow": follow}, body)


def test_a_quiet_stream_outlives_its_deadline_by_signs_of_life() -> None:
    async def slow(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        await asyncio.sleep(10 * ALIVE_EVERY_S)
        yield b"at last"

    async def body(fleet: Fleet) -> list[bytes]:
        return [piece async for piece in fleet.ask("slow", deadline_s=2 * ALIVE_EVERY_S)]

    assert in_fleet({"slow": slow}, body) == [b"at last"]


def test_a_flood_waits_for_who_consumes_it() -> None:
    sent = []

    async def flood(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        for number in range(1000):
            sent.append(number)
            yield b"drop"

    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("flood", deadline_s=100.0)
        await anext(answer)
        await asyncio.sleep(20)
        assert len(sent) <= WINDOW + 2
        assert len([None async for _ in answer]) == 999

    in_fleet({"flood": flood}, body)


@pytest.mark.parametrize("taken", [1, 2, 500])
def test_who_reads_slowly_gets_all_of_it(taken: int) -> None:
    """`oak exec x -- cat big | less`, and somebody reads a page."""
    ended = []

    async def flood(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            for number in range(1000):
                yield b"%d " % number
        finally:
            ended.append("flood")

    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("flood")
        found = [await anext(answer) for _ in range(taken)]
        await asyncio.sleep(10_000)
        assert not ended
        found += [piece async for piece in answer]
        assert found == [b"%d " % number for number in range(1000)]

    in_fleet({"flood": flood}, body)


def test_who_reads_slowly_learns_at_once_that_its_worker_was_another_meanwhile() -> None:
    async def body(fleet: Fleet) -> list[bytes]:
        answer = fleet.ask("count", to=1000)
        found = [await anext(answer)]
        await asyncio.sleep(100)
        fleet.restart_worker()
        fleet.relay.is_back(WORKER)
        await asyncio.sleep(100)
        began_s = asyncio.get_running_loop().time()
        found += [await anext(answer) for _ in range(WINDOW - 1)]
        with pytest.raises(Unavailable, match="its end was lost while its worker was away"):
            await anext(answer)
        assert asyncio.get_running_loop().time() == began_s
        return found

    assert in_fleet({"count": count}, body) == [b"%d " % number for number in range(WINDOW)]


@pytest.mark.parametrize("end", ["read to its end", "closed", "forgotten"])
def test_when_nobody_reads_any_more_nothing_is_said_of_it(end: str) -> None:
    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("count", to=100)
        await anext(answer)
        if end == "read to its end":
            assert len([None async for _ in answer]) == 99
        elif end == "closed":
            await answer.aclose()
        else:
            del answer
            gc.collect()
        await asyncio.sleep(1)
        sent = fleet.hub.sent
        await asyncio.sleep(1000)
        assert fleet.hub.sent == sent
        assert not fleet.answers._running
        assert not fleet.asker._waiting

    in_fleet({"count": count}, body)


def test_what_ended_while_its_worker_was_away_is_not_said_to_be_the_agents_doing() -> None:
    async def brief(arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.sleep(3)

    async def body(fleet: Fleet) -> None:
        answer = fleet.ask("brief")
        assert await anext(answer) == b"begun"
        fleet.hub.cut(CLUSTER, WORKER)
        await asyncio.sleep(5)
        fleet.hub.heal(CLUSTER, WORKER)
        fleet.relay.is_back(WORKER)
        with pytest.raises(Unavailable, match="its end was lost while its worker was away, or"):
            await anext(answer)

    in_fleet({"brief": brief}, body)


def test_replies_of_a_worker_that_was_not_asked_go_nowhere() -> None:
    hub = FakeHub(Random(1))
    relay = Relay(hub.link("c", parent="r"), hub.link("c", parent=None), own=lambda _peer, _payload: None)

    async def body() -> None:
        relay.from_above("up", encode_call(Call(id="1", method="logs", worker=WorkerId("w1"))))
        relay.from_below("w2", encode_call(Reply(id="1", sequence=0, body=b"forged", end=True)))
        assert "1" in relay._routes, "a stranger ended the call"
        relay.from_below("w1", encode_call(Reply(id="1", sequence=0, body=b"true", end=True)))
        assert not relay._routes

    asyncio.run(body())
