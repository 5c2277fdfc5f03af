"""What only the link between root and clusters promises: joining, refusals, one session per cluster."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from grpclib.client import Channel as GrpcChannel
from grpclib.client import StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from oakestra.model import errors
from oakestra.model.errors import Conflict, OakestraError
from oakestra.transport import Channel
from oakestra.transport import grpc as module
from oakestra.transport.grpc import JOIN, SESSION, GrpcClientLink, GrpcServerLink


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not predicate():  # noqa: ASYNC110 - the kernel carries it
            await asyncio.sleep(0.01)


class Root:
    """A root that remembers who joined, and refuses with `refusal` while there is one."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.joins: list[tuple[bytes, str]] = []
        self.refusal: OakestraError | None = None
        self.received: list[tuple[str, bytes]] = []
        self.connected: list[tuple[str, bool]] = []
        self.link = GrpcServerLink("127.0.0.1", self.port, join=self._join, identify={"key": "c1"}.get)
        self.link.listen(
            lambda peer, _, payload: self.received.append((peer, payload)),
            lambda peer, connected: self.connected.append((peer, connected)),
        )

    async def _join(self, request: bytes, host: str) -> bytes:
        self.joins.append((request, host))
        if self.refusal is not None:
            raise self.refusal
        return b"welcome"


class Cluster:
    def __init__(self, root: Root, *, key: str = "key") -> None:
        self.answers: list[bytes] = []
        self.connected: list[bool] = []
        self.link = GrpcClientLink(
            "127.0.0.1",
            root.port,
            key=key,
            join_request=lambda: b"request",
            joined=self.answers.append,
            random=Random(1),
        )
        self.link.listen(lambda *_: None, lambda _, connected: self.connected.append(connected))


@asynccontextmanager
async def running(*parts: Root | Cluster) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(part.link.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def raw_channel(root: Root) -> AsyncIterator[GrpcChannel]:
    """A client that says what it likes, once root listens."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", root.port)) == 0

    await until(listens)
    async with GrpcChannel("127.0.0.1", root.port, codec=module._RawBytes()) as channel:
        yield channel


async def join(channel: GrpcChannel, request: bytes) -> bytes:
    answer: bytes = await UnaryUnaryMethod[bytes, bytes](channel, JOIN, bytes, bytes)(request, timeout=60)
    return answer


def open_session(channel: GrpcChannel, metadata: dict[str, str]) -> Any:
    return StreamStreamMethod[bytes, bytes](channel, SESSION, bytes, bytes).open(metadata=metadata)


async def say(channel: GrpcChannel, metadata: dict[str, str], message: bytes) -> None:
    """Open a session, say one thing and wait for its end."""
    async with open_session(channel, metadata) as stream:
        await stream.send_message(message)
        await stream.recv_message()


def test_a_cluster_joins_again_at_every_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        root = Root()
        cluster = Cluster(root)
        async with running(cluster):
            for connections in (1, 2, 3):
                async with running(root):
                    await until(lambda: cluster.connected[-1:] == [True])
                    assert root.joins == [(b"request", "127.0.0.1")] * connections
                    assert cluster.answers == [b"welcome"] * connections
                await until(lambda: cluster.connected[-1:] == [False])

    asyncio.run(body())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.Invalid, Status.INVALID_ARGUMENT),
        (errors.Conflict, Status.ALREADY_EXISTS),
        (errors.Unauthenticated, Status.UNAUTHENTICATED),
        (errors.Forbidden, Status.PERMISSION_DENIED),
        (errors.Rejected, Status.FAILED_PRECONDITION),
        (errors.Unavailable, Status.UNAVAILABLE),
        (OakestraError, Status.UNKNOWN),
    ],
)
def test_a_refusal_is_a_status_with_its_sentence(kind: type[OakestraError], status: Status) -> None:
    async def body() -> None:
        root = Root()
        root.refusal = kind("this name is taken; choose another")
        async with running(root), raw_channel(root) as channel:
            with pytest.raises(GRPCError) as caught:
                await join(channel, b"x")
        assert (caught.value.status, caught.value.message) == (status, "this name is taken; choose another")

    asyncio.run(body())


def test_a_refused_cluster_says_why_once_and_goes_on_trying(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.02)

    async def body() -> None:
        root = Root()
        root.refusal = Conflict("this name is taken")
        cluster = Cluster(root)
        async with running(root, cluster):
            await until(lambda: len(root.joins) > 4)
            root.refusal = Conflict("that name, too")
            seen = len(root.joins)
            await until(lambda: len(root.joins) > seen + 2)
            root.refusal = None
            await until(lambda: cluster.connected == [True])

    asyncio.run(body())
    said = [vars(record)["why"] for record in caplog.records if "refuses" in record.message]
    assert said == ["this name is taken", "that name, too"]


def test_a_key_that_root_does_not_know_gets_no_session() -> None:
    async def body() -> None:
        root = Root()
        async with running(root), raw_channel(root) as channel:
            for metadata in ({"oak-key": "stranger"}, {}):
                with pytest.raises(GRPCError) as caught:
                    await say(channel, metadata, b"")
                assert caught.value.status is Status.UNAUTHENTICATED
        assert root.connected == []

    asyncio.run(body())


def test_a_newer_session_takes_over_and_the_older_hears_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 1000.0)  # or the older one takes over in its turn

    async def body() -> None:
        root = Root()
        older, newer = Cluster(root), Cluster(root)
        async with running(root, older):
            await until(lambda: older.connected == [True])
            async with running(newer):
                await until(lambda: older.connected == [True, False])
                newer.link.send("up", Channel.SET, b"newer")
                await until(lambda: root.received == [("c1", b"newer")])
                assert root.connected == [("c1", True), ("c1", True)], "it was never away"

    asyncio.run(body())
    refused = [vars(record)["why"] for record in caplog.records if "refuses" in record.message]
    assert refused == ["a newer session with the same key took over"]


def test_what_is_too_large_to_be_ours_is_not_read() -> None:
    async def body() -> None:
        root = Root()
        async with running(root), raw_channel(root) as channel:
            with pytest.raises(GRPCError) as caught:
                await join(channel, bytes(module.MESSAGE_BYTES_MAX + 1))
            assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert root.joins == []

    asyncio.run(body())


def test_a_cluster_that_says_nonsense_loses_its_session_only() -> None:
    async def body() -> None:
        root = Root()
        async with running(root), raw_channel(root) as channel:
            with pytest.raises(GRPCError) as caught:
                await say(channel, {"oak-key": "key"}, b"\x01\x01")
            assert caught.value.status is Status.INVALID_ARGUMENT
            async with open_session(channel, {"oak-key": "key"}) as stream:
                await stream.send_message(b"\xc8of a kind that comes later")
                await stream.send_message(b"\x01\x00set")
                await until(lambda: root.received == [("c1", b"set")])
                await stream.cancel()

    asyncio.run(body())


def test_a_peer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    monkeypatch.setattr(module, "ALIVE_EVERY_S", 100.0)

    async def body() -> None:
        root = Root()
        cluster = Cluster(root)
        async with running(root, cluster):
            await until(lambda: cluster.connected[:2] == [True, False])
            await until(lambda: ("c1", False) in root.connected)

    asyncio.run(body())


def test_signs_of_life_keep_a_quiet_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 3.0)
    monkeypatch.setattr(module, "ALIVE_EVERY_S", 0.05)

    async def body() -> None:
        root = Root()
        cluster = Cluster(root)
        async with running(root, cluster):
            await until(lambda: cluster.connected == [True])
            loop = asyncio.get_running_loop()
            quiet_until_s = loop.time() + 4.0
            await until(lambda: loop.time() > quiet_until_s)
            assert cluster.connected == [True]

    asyncio.run(body())


def test_neither_protobuf_nor_an_orchestrators_library_is_loaded_in_vain() -> None:
    code = (
        "import sys, oakestra.transport.grpc; assert 'google.protobuf' not in sys.modules;"
        "import oakestra.transport.mqtt, oakestra.transport.local, oakestra.transport.http_client"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys, oakestra.transport.mqtt, oakestra.transport.local, oakestra.transport.http_client;"
        "assert not {'grpclib', 'h2', 'uvicorn', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
