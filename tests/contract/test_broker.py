"""The broker outlives the cluster process, is adopted by the next one, and is never somebody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from oakestra.model.errors import Rejected, Unavailable
from oakestra.transport import broker as module
from oakestra.transport.broker import Broker

pytestmark = pytest.mark.usefixtures("need_mosquitto")

CLUSTER = """
import asyncio, sys
from pathlib import Path
from random import Random
from oakestra.transport.broker import Broker
asyncio.run(Broker(Path(sys.argv[1]), listen="127.0.0.1", port=int(sys.argv[2]), random=Random(1)).run())
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the broker's own user can reach; pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="oak-broker-") as path:
        yield Path(path)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def of(directory: Path, port: int, *, mosquitto: str = "mosquitto") -> Broker:
    return Broker(directory, listen="127.0.0.1", port=port, random=Random(1), mosquitto=mosquitto)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not predicate():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


def with_broker(broker: Broker, body: Callable[[], Awaitable[None]]) -> None:
    """Run the body, and end the broker whatever happens."""

    async def run() -> None:
        try:
            await body()
        finally:
            await broker.stop()

    asyncio.run(run())


def test_a_broker_whose_cluster_was_killed_is_adopted_by_the_next(directory: Path, port: int) -> None:
    broker = of(directory, port)

    async def body() -> None:
        cluster = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLUSTER, str(directory), str(port)
        )
        await until((directory / "mosquitto.json").exists)
        cluster.kill()
        await cluster.wait()
        with socket.create_connection(("127.0.0.1", port)) as worker:
            worker.setblocking(False)
            first = await broker.start()
            assert await broker.start() == first
            with pytest.raises(BlockingIOError):
                worker.recv(1)  # still connected

    with_broker(broker, body)
    assert not answers(port)


def test_a_broker_with_another_listener_is_restarted(directory: Path, port: int) -> None:
    async def body() -> None:
        before = await of(directory, port).start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            another = int(probe.getsockname()[1])
        after = await of(directory, another).start()
        assert after.pid != before.pid
        assert answers(another)
        assert not answers(port)

    with_broker(of(directory, port), body)


def test_a_broker_reads_other_limits_without_a_restart(
    directory: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = of(directory, port)

    async def body() -> None:
        before = await broker.start()
        monkeypatch.setattr(module, "_LIMITS", module._LIMITS + "max_inflight_messages 7\n")
        after = await broker.start()
        assert (after.pid, after.listener) == (before.pid, before.listener)
        assert after.limits != before.limits
        assert "max_inflight_messages 7" in (directory / "mosquitto.conf").read_text()

    with_broker(broker, body)


def test_a_broker_that_nobody_wrote_down_is_found(directory: Path, port: int) -> None:
    """The cluster died between starting the broker and recording it."""
    broker = of(directory, port)

    async def body() -> None:
        before = await broker.start()
        (directory / "mosquitto.json").unlink()
        after = await broker.start()
        assert after.pid != before.pid, "what configuration it had is not known"
        assert answers(port)

    with_broker(broker, body)
    assert not answers(port)


def test_a_broker_that_dies_is_started_again(directory: Path, port: int) -> None:
    broker = of(directory, port)

    async def body() -> None:
        first = await broker.start()
        running = asyncio.ensure_future(broker.run())
        await asyncio.sleep(0)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not module._alive(first))
        await until(lambda: answers(port))
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert answers(port), "it goes on without its supervisor"

    with_broker(broker, body)


def test_a_port_that_somebody_else_has_is_named(directory: Path, port: int) -> None:
    async def body() -> None:
        with socket.socket() as foreign:
            foreign.bind(("127.0.0.1", port))
            foreign.listen()
            with pytest.raises(Rejected, match=f"port {port}"):
                await of(directory, port).run()

    asyncio.run(body())


def test_a_missing_mosquitto_is_named(directory: Path, port: int) -> None:
    with pytest.raises(Rejected, match="apt-get install mosquitto"):
        asyncio.run(of(directory, port, mosquitto="no-such-program").start())


def test_a_broker_that_does_not_come_up_is_quoted(
    directory: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIMITS", "no_such_option 1\n")
    with pytest.raises(Unavailable, match="no_such_option"):
        asyncio.run(of(directory, port).start())
    assert not answers(port)
