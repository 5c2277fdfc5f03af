"""Every link keeps the promises of `Link`: in memory, over MQTT with a real Mosquitto, over gRPC."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from oakestra.transport import Channel, Link
from oakestra.transport.broker import Broker
from oakestra.transport.fake import FakeHub
from oakestra.transport.grpc import GrpcClientLink, GrpcServerLink
from oakestra.transport.mqtt import MqttLink

BELOW = "5f0000000000000000000001"
WITHIN_S = 60.0


async def until(predicate: Callable[[], object], *, timeout_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class End:
    """One end of a link, and what arrived there."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.received: list[tuple[str, Channel, bytes]] = []
        self.presence: list[tuple[str, bool]] = []
        link.listen(
            lambda *arrival: self.received.append(arrival),
            lambda peer, connected: self.presence.append((peer, connected)),
        )

    def payloads(self, channel: Channel) -> list[bytes]:
        return [payload for _, kind, payload in self.received if kind is channel]

    def connected_to(self, peer: str) -> bool:
        return [connected for name, connected in self.presence if name == peer][-1:] == [True]


class Rig:
    """A link with both its ends, and a way to break it."""

    above: End
    below: End

    async def cut(self) -> None:
        """Break the connection so that both ends notice."""

    async def heal(self) -> None:
        """Let the ends connect again."""

    def stall(self) -> None:
        """Let nothing pass, without anybody noticing."""

    def resume(self) -> None:
        """Let everything pass again."""

    async def connected(self) -> None:
        """Return when something sent goes through, both ways."""
        ends = (self.above, self.below)
        before = [len(end.payloads(Channel.BEAT)) for end in ends]
        await until(lambda: self.below.connected_to("up"))

        def through() -> bool:
            self.below.link.send("up", Channel.BEAT, b"?")
            self.above.link.send(BELOW, Channel.BEAT, b"!")
            now = [len(end.payloads(Channel.BEAT)) for end in ends]
            return all(more > less for more, less in zip(now, before, strict=True))

        await until(through)


class FakeRig(Rig):
    def __init__(self) -> None:
        self._hub = FakeHub(Random(1))
        self.above = End(self._hub.link("root", parent=None))
        self.below = End(self._hub.link(BELOW, parent="root"))

    async def cut(self) -> None:
        self._hub.cut("root", BELOW)

    async def heal(self) -> None:
        self._hub.heal("root", BELOW)


class MqttRig(Rig):
    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.broker = Broker(directory, listen="127.0.0.1", port=self.port, random=Random(1))
        self.above = End(MqttLink.for_cluster("127.0.0.1", self.port, random=Random(2)))
        self.below = End(MqttLink.for_worker(BELOW, "127.0.0.1", self.port, random=Random(3)))
        self._pid = 0

    async def start(self) -> None:
        self._pid = (await self.broker.start()).pid

    async def cut(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        await until(lambda: not self.below.connected_to("up"))

    async def heal(self) -> None:
        await self.start()

    def stall(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


class Gate:
    """A way through which connections to `port` go, as long as it is open."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.open = asyncio.Event()
        self.open.set()
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._pass(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", self.port, limit=4096)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            there, onward = await asyncio.open_connection("127.0.0.1", self._to, limit=4096)
            try:
                await asyncio.gather(self._copy(reader, onward), self._copy(there, writer))
            finally:
                onward.close()
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            await self.open.wait()
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError


class GrpcRig(Rig):
    def __init__(self) -> None:
        port = free_port()
        self.gate = Gate(port)
        self.joins: list[bytes] = []
        self._known: set[str] = set()
        self._serving: asyncio.Task[None] | None = None
        self.above = End(
            GrpcServerLink(
                "127.0.0.1", port, join=self._join, identify=lambda key: BELOW if key in self._known else None
            )
        )
        self.below = End(
            GrpcClientLink(
                "127.0.0.1",
                self.gate.port,
                key="k1",
                join_request=lambda: b"let me in",
                joined=self.joins.append,
                random=Random(4),
            )
        )

    async def _join(self, request: bytes, host: str) -> bytes:
        self._known.add("k1")
        return request + b" from " + host.encode()

    async def start(self) -> None:
        self._serving = asyncio.ensure_future(self.above.link.run())

    async def stop(self) -> None:
        assert self._serving is not None
        self._serving.cancel()
        with suppress(asyncio.CancelledError):
            await self._serving

    async def cut(self) -> None:
        self.gate.cut()
        self.gate.open.set()
        await self.stop()
        self._known.clear()
        await until(lambda: not self.below.connected_to("up"))

    async def heal(self) -> None:
        await self.start()

    def stall(self) -> None:
        self.gate.open.clear()

    def resume(self) -> None:
        self.gate.open.set()


@asynccontextmanager
async def running(*links: Link | Gate) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(link.run()) for link in links]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def fake_rig(directory: Path) -> AsyncIterator[Rig]:
    rig = FakeRig()
    async with running(rig.above.link, rig.below.link):
        yield rig


@asynccontextmanager
async def mqtt_rig(directory: Path) -> AsyncIterator[Rig]:
    rig = MqttRig(directory)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(rig.broker.stop)
        await rig.start()
        await stack.enter_async_context(running(rig.above.link, rig.below.link))
        yield rig


@asynccontextmanager
async def grpc_rig(directory: Path) -> AsyncIterator[Rig]:
    rig = GrpcRig()
    async with AsyncExitStack() as stack:
        await rig.start()
        stack.push_async_callback(rig.stop)
        await stack.enter_async_context(running(rig.gate, rig.below.link))
        yield rig


RIGS = {"fake": fake_rig, "mqtt": mqtt_rig, "grpc": grpc_rig}
Rigs = Callable[[], AbstractAsyncContextManager[Rig]]


@pytest.fixture(params=RIGS)
def rigs(request: pytest.FixtureRequest, tmp_path: Path) -> Rigs:
    if request.param == "mqtt":
        request.getfixturevalue("need_mosquitto")
    return lambda: RIGS[request.param](tmp_path)


@pytest.fixture(params=["mqtt", "grpc"])
def queueing_rigs(request: pytest.FixtureRequest, tmp_path: Path) -> Rigs:
    if request.param == "mqtt":
        request.getfixturevalue("need_mosquitto")
    return lambda: RIGS[request.param](tmp_path)


def test_what_is_sent_arrives_by_peer_and_channel_and_in_order(rigs: Rigs) -> None:
    async def body() -> None:
        async with rigs() as rig:
            await rig.connected()
            calls = [f"call {number}".encode() for number in range(100)]
            for call in calls:
                rig.above.link.send(BELOW, Channel.CALL, call)
                rig.below.link.send("up", Channel.CALL, call)
            rig.below.link.send("up", Channel.SET, b"report")
            rig.below.link.send("up", Channel.TELEMETRY, b"")
            await until(lambda: rig.above.payloads(Channel.CALL) == calls)
            await until(lambda: rig.below.payloads(Channel.CALL) == calls)
            await until(lambda: rig.above.payloads(Channel.SET) == [b"report"])
            await until(lambda: rig.above.payloads(Channel.TELEMETRY) == [b""])
            assert {peer for peer, _, _ in rig.above.received} == {BELOW}
            assert {peer for peer, _, _ in rig.below.received} == {"up"}

    asyncio.run(body())


def test_a_set_of_any_size_arrives_whole(rigs: Rigs) -> None:
    async def body() -> None:
        async with rigs() as rig:
            await rig.connected()
            large = Random(5).randbytes(3 * 1024 * 1024 + 7)
            rig.below.link.send("up", Channel.SET, large)
            rig.above.link.send(BELOW, Channel.SET, large[::-1])
            await until(lambda: rig.above.payloads(Channel.SET) == [large])
            await until(lambda: rig.below.payloads(Channel.SET) == [large[::-1]])

    asyncio.run(body())


def test_both_ends_hear_of_the_connection_and_of_its_end_and_it_comes_back(rigs: Rigs) -> None:
    async def body() -> None:
        async with rigs() as rig:
            await rig.connected()
            await until(lambda: rig.above.connected_to(BELOW))
            await rig.cut()
            await until(lambda: not rig.above.connected_to(BELOW))
            assert not rig.below.connected_to("up")
            await rig.heal()
            await rig.connected()
            await until(lambda: rig.above.connected_to(BELOW))

    asyncio.run(body())


def test_what_is_sent_while_the_peer_is_away_is_lost_and_not_kept(rigs: Rigs) -> None:
    """Neither what was said to nobody nor what was still under way reaches the next connection."""

    async def body() -> None:
        async with rigs() as rig:
            await rig.connected()
            rig.stall()
            say_much(rig)
            await rig.cut()
            for end in (rig.above, rig.below):
                end.received.clear()
            say_much(rig)
            await rig.heal()
            await rig.connected()
            rig.below.link.send("up", Channel.CALL, b"last")
            rig.above.link.send(BELOW, Channel.CALL, b"last")
            for end in (rig.above, rig.below):
                await until(lambda end=end: end.payloads(Channel.CALL))  # type: ignore[misc]
                assert end.payloads(Channel.CALL) == [b"last"]
                assert end.payloads(Channel.SET) == []

    asyncio.run(body())


def say_much(rig: Rig) -> None:
    for _ in range(300):
        for channel in (Channel.CALL, Channel.SET):
            rig.below.link.send("up", channel, bytes(65536))
            rig.above.link.send(BELOW, channel, bytes(65536))


def test_of_many_sets_for_a_peer_that_takes_none_the_newest_arrives(queueing_rigs: Rigs) -> None:
    async def body() -> None:
        async with queueing_rigs() as rig:
            await rig.connected()
            rig.stall()
            sets = [number.to_bytes(4, "big") * 16384 for number in range(500)]
            for payload in sets:
                rig.above.link.send(BELOW, Channel.SET, payload)
                await asyncio.sleep(0)
            rig.above.link.send(BELOW, Channel.CALL, b"small")
            rig.resume()
            await until(lambda: rig.below.payloads(Channel.SET)[-1:] == sets[-1:])
            await until(lambda: rig.below.payloads(Channel.CALL) == [b"small"])
            arrived = rig.below.payloads(Channel.SET)
            assert arrived == sorted(arrived), "an older set came after a newer one"
            assert len(arrived) < 250, f"{len(arrived)} sets of 64 KiB were kept for a peer that took none"

    asyncio.run(body())
