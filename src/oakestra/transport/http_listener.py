"""Listen for HTTP in an event loop that belongs to somebody else, and let nobody hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from oakestra.model.errors import Invalid, Rejected

CONNECTIONS_MAX = 1000
BACKLOG = 512
HEAD_S = 10.0
"""A request's first line and headers must have arrived after so long, or the connection is cut."""
HEAD_BYTES_MAX = 64 * 1024
CLOSING_S = 3
"""Answers under way have so long to finish when the server closes."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `::` accepts IPv4 as well. Raises `Rejected` if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # only of a socket that says it is TCP does asyncio send small answers at once: otherwise 40 ms late
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Rejected(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or configure another port"
        ) from error
    return listener


async def serve(app: ASGIApp, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
    """Serve `app` on a listening socket until cancelled; then let answers under way finish for a moment."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=CLOSING_S,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.closing.set()
        await serving


class _Server(uvicorn.Server):
    """Leaves signals alone, and sleeps while idle."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.closing = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self.closing.is_set():
            await self.on_tick(0)  # renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.closing.wait()


class _Protocol(HttpToolsProtocol):
    """Cuts connections whose request does not come, or comes with more headers than anybody needs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._cut_later: asyncio.TimerHandle | None = self.loop.call_later(HEAD_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._keep()
        self._head_bytes = 0
        self._cut_later = self.loop.call_later(HEAD_S, self.transport.abort)

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._keep()
        super().on_headers_complete()

    def _count(self, piece: bytes) -> None:
        self._head_bytes += len(piece)
        if self._head_bytes > HEAD_BYTES_MAX:
            raise Invalid("the request's headers are too large")  # the parser answers 400 and closes

    def _keep(self) -> None:
        if self._cut_later is not None:
            self._cut_later.cancel()
            self._cut_later = None
