"""Signs of life: 48 bytes, believed only from who knows the key, answered when asked, never twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.errors import Rejected
from oakestra.model.ids import WorkerId
from oakestra.transport.beats import (
    SIZE,
    BeatListener,
    BeatSender,
    Kind,
    Sign,
    beat_key,
    decode,
    encode,
    genuine,
)

WORKER, OTHER = WorkerId("a1" * 12), WorkerId("b2" * 12)
KEYS = {WORKER: "key", OTHER: "other"}
SECRET = beat_key("key")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(seen: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not seen():  # noqa: ASYNC110 - datagrams have no event here
            await asyncio.sleep(0.005)


class Ear:
    """A listener, and whom it heard."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard: list[WorkerId] = []
        self.listener = BeatListener("127.0.0.1", self.port, key_of=KEYS.get, heard=self.heard.append)


def test_a_beat_is_heard_and_a_question_answered() -> None:
    async def story() -> None:
        ear = Ear()
        sender = BeatSender(WORKER, "127.0.0.1", ear.port, secret=SECRET, first=7)
        tasks = [asyncio.ensure_future(ear.listener.run()), asyncio.ensure_future(sender.run(every_s=0.5))]
        await until(lambda: ear.heard)
        before = len(ear.heard)

        def asked() -> bool:
            ear.listener.probe(WORKER)
            return len(ear.heard) > before + 3

        await until(asked)
        assert set(ear.heard) == {WORKER}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next round

    asyncio.run(story())


def test_only_the_next_beat_of_a_member_counts() -> None:
    ear = Ear()
    here = ("127.0.0.1", 1)
    beat = encode(Sign(Kind.BEAT, WORKER, 5), SECRET)
    ear.listener.datagram_received(beat, here)
    assert ear.heard == [WORKER]
    ear.listener.datagram_received(beat, here)  # somebody sends it again
    ear.listener.datagram_received(encode(Sign(Kind.BEAT, WORKER, 4), SECRET), here)
    ear.listener.datagram_received(encode(Sign(Kind.BEAT, WORKER, 6), beat_key("guess")), here)
    ear.listener.datagram_received(encode(Sign(Kind.BEAT, OTHER, 6), SECRET), here)
    ear.listener.datagram_received(encode(Sign(Kind.BEAT, WorkerId("c3" * 12), 6), SECRET), here)
    ear.listener.datagram_received(encode(Sign(Kind.ANSWER, WORKER, 1), SECRET), here)  # nobody asked
    ear.listener.datagram_received(encode(Sign(Kind.PROBE, WORKER, 9), SECRET), here)
    assert ear.heard == [WORKER]
    ear.listener.datagram_received(encode(Sign(Kind.BEAT, WORKER, 6), SECRET), here)
    assert ear.heard == [WORKER, WORKER]


@given(st.sampled_from(Kind), st.integers(0, 2**64 - 1))
def test_what_is_written_is_read(kind: Kind, sequence: int) -> None:
    sign = Sign(kind, WORKER, sequence)
    datagram = encode(sign, SECRET)
    assert (len(datagram), decode(datagram)) == (SIZE, sign)
    assert genuine(datagram, SECRET)


@given(st.binary(max_size=64))
def test_no_datagram_breaks_anything(datagram: bytes) -> None:
    ear = Ear.__new__(Ear)
    ear.heard = []
    BeatListener("", 0, key_of=KEYS.get, heard=ear.heard.append).datagram_received(datagram, ("127.0.0.1", 1))
    assert ear.heard == []


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_is_not_believed(place: int, change: int) -> None:
    datagram = bytearray(encode(Sign(Kind.BEAT, WORKER, 5), SECRET))
    datagram[place] ^= change
    assert decode(bytes(datagram)) is None or not genuine(bytes(datagram), SECRET)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        listener = BeatListener("127.0.0.1", port, key_of=KEYS.get, heard=lambda _: None)
        with pytest.raises(Rejected, match=f"UDP port {port}"):
            asyncio.run(listener.run())
