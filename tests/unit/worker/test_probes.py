"""Asking instances over real sockets on loopback, and inside a fake container."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest

from oakestra.control.clock import SystemClock
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.service import CheckKind, HealthCheck, InstanceAddress
from oakestra.runtime import CommandOutput, OutputStream
from oakestra.runtime.fake import FakeCommand, FakeHost, FakeRuntime
from oakestra.worker.health.course import Patient, Probed, Verdict
from oakestra.worker.health.probes import MachineProber

LOOPBACK = InstanceAddress(v4="127.0.0.1")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def patient(check: HealthCheck, *, address: InstanceAddress = LOOPBACK, number: int = 1) -> Patient:
    return Patient(number=number, restart=0, address=address, check=check, healthy=False)


def prober(host: FakeHost | None = None) -> MachineProber:
    return MachineProber(FakeRuntime(host or FakeHost(), clock=SystemClock(), random=Random(1)))


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve on a port of its own; afterwards every connection is closed on both sides."""
    open_connections: list[asyncio.Future[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = asyncio.get_running_loop().create_future()
        open_connections.append(closed)
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        closed.set_result(None)

    server = await asyncio.start_server(connected, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10.0):
            await asyncio.gather(*open_connections)


def ask(serve: Serve, *, host: str = "127.0.0.1", **keys: Any) -> Probed:
    async def story() -> Probed:
        async with listening(serve, host) as port:
            check = HealthCheck(port=port, **{"timeout_s": 5.0, **keys})
            address = InstanceAddress(v6=host) if ":" in host else InstanceAddress(v4=host)
            found = await prober().probe(patient(check, address=address))
            return Probed(found.verdict, found.detail.replace(str(port), "PORT"))

    return asyncio.run(story())


def answer(*lines: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\r\n".join((*lines, b"", b"")))

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader, writer


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (b"HTTP/1.1 200 OK", Verdict.PASSED),
        (b"HTTP/1.0 204", Verdict.PASSED),
        (b"HTTP/1.1 399 Odd", Verdict.PASSED),
        (b"HTTP/1.1 404 Not Found", Verdict.FAILED),
        (b"HTTP/1.1 500 Internal Server Error", Verdict.FAILED),
        (b"HTTP/1.1 100 Continue", Verdict.FAILED),
    ],
)
def test_http_passes_with_a_good_status(line: bytes, verdict: Verdict) -> None:
    found = ask(answer(line, b"Content-Length: 0"), kind=CheckKind.HTTP, path="/up?deep=1")
    assert found == Probed(verdict, f"GET :PORT/up?deep=1 answered {line.split()[1].decode()}")


def test_http_asks_as_a_client_would() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    assert ask(serve, kind=CheckKind.HTTP, host="::1").verdict is Verdict.PASSED
    head, *headers = heard[0].decode().strip().split("\r\n")
    assert head == "GET / HTTP/1.1"
    assert {"Connection: close", "User-Agent: oakestra"} <= set(headers)
    assert any(header.startswith("Host: [::1]:") for header in headers)


@pytest.mark.parametrize(
    ("serve", "detail"),
    [
        (answer(b"SSH-2.0-OpenSSH_9.2"), "the answer is not HTTP"),
        (answer(b"HTTP/1.1"), "the answer is not HTTP"),
        (answer(b"x" * 100_000), "the answer is not HTTP"),
        (hang_up, "an empty answer|connection reset by peer"),
    ],
)
def test_what_is_not_http_fails(serve: Serve, detail: str) -> None:
    found = ask(serve, kind=CheckKind.HTTP)
    assert found.verdict is Verdict.FAILED
    assert any(found.detail == f"GET :PORT/: {one}" for one in detail.split("|")), found.detail


def test_silence_fails_after_the_timeout() -> None:
    found = ask(silent, kind=CheckKind.HTTP, timeout_s=0.1)
    assert found == Probed(Verdict.FAILED, "GET :PORT/: no answer within 0.1 s")


def test_tcp_passes_when_somebody_accepts() -> None:
    assert ask(silent, kind=CheckKind.TCP) == Probed(Verdict.PASSED)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        check = HealthCheck(kind=CheckKind.TCP, port=taken.getsockname()[1])
        found = asyncio.run(prober().probe(patient(check)))
    assert found == Probed(Verdict.FAILED, f"port {check.port}: connection refused")


def test_what_fails_on_this_side_is_unclear() -> None:
    """No route: nothing was sent to the instance, so nothing is known of it."""
    check = HealthCheck(kind=CheckKind.TCP, port=80)
    found = asyncio.run(prober().probe(patient(check, address=InstanceAddress(v4="255.255.255.255"))))
    assert found.verdict is Verdict.UNCLEAR
    assert found.detail.startswith("port 80: ")


def output(text: str) -> CommandOutput:
    return CommandOutput(stream=OutputStream.STDERR, data=text.encode())


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (FakeCommand(), Probed(Verdict.PASSED)),
        (FakeCommand(exit_code=1), Probed(Verdict.FAILED, "check ended with exit code 1")),
        (
            FakeCommand(exit_code=7, output=(output("try\nno "), output("database \n\n"))),
            Probed(Verdict.FAILED, "check ended with exit code 7: no database"),
        ),
        (
            FakeCommand(lasts_s=60.0, output=(output("waiting"),)),
            Probed(Verdict.FAILED, "check did not end within 0.1 s and was killed: waiting"),
        ),
        (None, Probed(Verdict.FAILED, "the command 'check' is not in the image")),
    ],
)
def test_a_command_inside_passes_with_exit_code_0(command: FakeCommand | None, found: Probed) -> None:
    host = FakeHost(commands={("check", "--all"): command} if command else {})
    host.containers[1] = ContainerSeen(number=1, labels={}, state=ContainerState.RUNNING)
    check = HealthCheck(kind=CheckKind.EXEC, command=("check", "--all"), timeout_s=0.1)
    assert asyncio.run(prober(host).probe(patient(check))) == found


def test_what_a_command_says_is_repeated_only_in_part() -> None:
    host = FakeHost(commands={("check",): FakeCommand(exit_code=1, output=(output("x" * 100_000),))})
    host.containers[1] = ContainerSeen(number=1, labels={}, state=ContainerState.RUNNING)
    check = HealthCheck(kind=CheckKind.EXEC, command=("check",))
    assert len(asyncio.run(prober(host).probe(patient(check))).detail) < 300


def test_a_runtime_that_cannot_run_the_command_is_unclear() -> None:
    check = HealthCheck(kind=CheckKind.EXEC, command=("check",))
    found = asyncio.run(prober().probe(patient(check)))
    assert (found.verdict, found.detail) == (
        Verdict.UNCLEAR,
        "the instance does not run now, so no command can run in it",
    )


def test_a_kind_that_only_a_later_version_knows_is_unclear() -> None:
    found = asyncio.run(prober().probe(patient(HealthCheck(kind=CheckKind("grpc")))))
    assert (found.verdict, found.detail) == (
        Verdict.UNCLEAR,
        "this worker does not know this kind of check; upgrade it",
    )
