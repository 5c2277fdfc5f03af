"""Over real sockets on loopback: answers, refusals, and clients that want to hold the server up."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from collections.abc import AsyncGenerator, Callable

import pytest
from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Rejected
from oakestra.transport import http_listener
from oakestra.transport.http_listener import HEAD_BYTES_MAX, listen, serve
from oakestra.transport.http_server import Endpoint, application, json_response, read_json, streamed


async def echo(request: Request) -> Response:
    return json_response({"body": await read_json(request)})


async def slow(request: Request) -> Response:
    del request

    async def pieces() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            yield f"{number}\n".encode()
            await asyncio.sleep(0)

    return streamed(pieces())


APP = application(
    [
        Endpoint(method="POST", path="/api/things/", answer=echo, tag="test", summary="test"),
        Endpoint(method="GET", path="/api/slow", answer=slow, tag="test", summary="test"),
    ]
)


def with_server(talk: Callable[[int], None], *, host: str = "127.0.0.1") -> None:
    """Serve while `talk` runs in a thread of its own with the port, then stop and see that nobody listens."""

    async def story() -> None:
        listener = listen(host, 0)
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(APP, listener))
        try:
            await asyncio.to_thread(talk, port)
        finally:
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port), 1)

    asyncio.run(story())


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_one_connection_carries_many_requests(host: str) -> None:
    def talk(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for method, path, body, status, content in (
            ("POST", "/api/things", b"[1]", 200, b'{"body":[1]}'),
            ("GET", "/nothing", None, 404, None),
            ("GET", "/api/slow", None, 200, b"0\n1\n2\n"),
            ("HEAD", "/api/slow", None, 200, b""),
        ):
            connection.request(method, path, body)
            response = connection.getresponse()
            found = response.read()
            assert response.status == status
            assert content in (None, found)
            assert "Date" in response.headers
        connection.close()

    with_server(talk, host=host)


def test_what_is_not_http_is_refused() -> None:
    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(b"this is not HTTP\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")

    with_server(talk)


def test_headers_without_end_are_refused() -> None:
    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n")
            line = b"x: " + b"y" * 1000 + b"\r\n"
            try:
                for _ in range(2 * HEAD_BYTES_MAX // len(line)):
                    raw.sendall(line)
                assert raw.recv(100).startswith(b"HTTP/1.1 400")
            except ConnectionError:
                pass  # it was cut before the answer could be read

    with_server(talk)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
def test_who_does_not_finish_asking_is_cut_off(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "HEAD_S", 0.05)

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(100) == b""

    with_server(talk)


def test_an_idle_connection_is_not_cut_while_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a request's head must not run on into its body."""
    monkeypatch.setattr(http_listener, "HEAD_S", 0.2)

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(b"POST /api/things HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[")
            raw.settimeout(0.5)
            with pytest.raises(TimeoutError):
                raw.recv(100)
            raw.sendall(b"1]")
            raw.settimeout(10)
            assert raw.recv(100).startswith(b"HTTP/1.1 200")

    with_server(talk)


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(Rejected, match="cannot listen on"):
        listen("127.0.0.1", first.getsockname()[1])


def test_small_answers_on_a_connection_that_is_kept_are_sent_at_once() -> None:
    """Otherwise each waits 40 ms for the client to acknowledge the one before."""

    async def story() -> None:
        accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket"))
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(accept, sock=listener):
            with socket.create_connection(listener.getsockname()):
                assert (await accepted).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(story())
