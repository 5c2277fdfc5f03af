"""Open and accept TCP connections: the one place where an address, and later TLS, becomes a connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from random import Random
from typing import TypeVar

from oakestra.model.errors import Invalid, Rejected, Unavailable

CONNECT_S = 5.0
UNSENT_BYTES_MAX = 64 * 1024
"""The kernel takes no more than this ahead of the wire; what waits longer waits with us, where newer replaces older."""
RETRY_FIRST_S = 0.2
RETRY_LIMIT_S = 5.0

Conversation = TypeVar("Conversation", bound=asyncio.Protocol)


def retry_s(failures: int, random: Random) -> float:
    """Return how long to wait before dialling again: about 0.2 s after the first failure, doubling to 5 s.

    Up to half is taken off by chance, so that all who lost the same peer do not return at once.
    """
    full_s = min(RETRY_FIRST_S * 2.0 ** min(max(failures, 1) - 1, 10), RETRY_LIMIT_S)
    return full_s * random.uniform(0.5, 1.0)


async def dial(
    host: str,
    port: int,
    protocol: Callable[[], Conversation],
    *,
    dead_after_s: float,
    tls: ssl.SSLContext | None = None,
) -> Conversation:
    """Connect and return the protocol that holds the conversation.

    The kernel ends a connection whose peer has acknowledged nothing for `dead_after_s` while something was sent.
    Raises `Unavailable` naming the address and the cause.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            transport, connected = await loop.create_connection(
                protocol, host, port, ssl=tls, happy_eyeballs_delay=0.25
            )
    except TimeoutError as error:
        raise Unavailable(f"{host} port {port} did not answer within {CONNECT_S:.0f} s") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unavailable(f"cannot connect to {host} port {port}: {reason}") from error
    tune(transport.get_extra_info("socket"), dead_after_s=dead_after_s)
    return connected


def listen(host: str, port: int, *, dead_after_s: float | None = None) -> socket.socket:
    """Return a listening socket; `::` accepts IPv4 as well. Raises `Rejected` if the address cannot be had.

    What it accepts inherits `dead_after_s`, with the meaning it has for `dial`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if dead_after_s is not None:
            tune(listener, dead_after_s=dead_after_s)
        listener.bind((host, port))
        listener.listen(512)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Rejected(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or configure another port"
        ) from error
    return listener


def tune(sock: socket.socket, *, dead_after_s: float) -> None:
    """Ask the kernel to notice a dead peer and to keep little unsent. What it does not know, it ignores."""
    options = {
        socket.TCP_NODELAY: 1,
        socket.TCP_USER_TIMEOUT: round(dead_after_s * 1000),
        socket.TCP_NOTSENT_LOWAT: UNSENT_BYTES_MAX,
    }
    for option, value in options.items():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def split(address: str, default_port: int) -> tuple[str, int]:
    """Return host and port of `host`, `host:port` or `[v6]:port`. Raises `Invalid` if it is none of them."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return address.strip("[]"), default_port
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise Invalid(f"{address!r} is no address: expected host or host:port")
    return host.strip("[]"), int(port)


def reachable(listening: str) -> str:
    """Return an address of this machine at which somebody who listens on `listening` can be reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listening, listening)  # noqa: S104 - compared


def address_towards(host: str) -> str:
    """Return this machine's own address on the way to `host`; empty if there is no way. Sends nothing."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""
