"""Signs of life over UDP: 48 bytes that a lossy link cannot hold up, as it does TCP.

A worker beats to its cluster's UDP port; the cluster may probe a worker that fell silent, which answers at once. Every
datagram carries the worker's id, a number that only grows, and a code that only who knows the worker's key can make.

    0  magic "OAKB"   4  version   5  kind   6  nothing   8  worker id   20  sequence   28  nothing   32  code
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from oakestra.model.errors import Rejected
from oakestra.model.ids import WorkerId

logger = logging.getLogger(__name__)

SIZE = 48
_LAYOUT = struct.Struct("!4sBBxx12sQ4x")
_MAGIC, _VERSION = b"OAKB", 1
_SIGNED = _LAYOUT.size
Address = tuple[str, int]


class Kind(IntEnum):
    """What a datagram says."""

    BEAT = 1
    """I am here."""
    PROBE = 2
    """Are you there?"""
    ANSWER = 3
    """Yes: to the probe of the same sequence."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One datagram, understood."""

    kind: Kind
    worker: WorkerId
    sequence: int


def beat_key(key: str) -> bytes:
    """Return the secret that signs of life are signed with; `key` is the worker's own."""
    return hashlib.sha256(b"oakestra beat\0" + key.encode()).digest()


def encode(sign: Sign, secret: bytes) -> bytes:
    """Return a datagram of 48 bytes."""
    head = _LAYOUT.pack(_MAGIC, _VERSION, sign.kind, bytes.fromhex(sign.worker), sign.sequence)
    return head + _code(head, secret)


def decode(datagram: bytes) -> Sign | None:
    """Return what a datagram claims, or None if it is none of ours; `genuine` tells whether to believe it."""
    if len(datagram) != SIZE:
        return None
    magic, version, kind, worker, sequence = _LAYOUT.unpack_from(datagram)
    if magic != _MAGIC or version != _VERSION or kind not in set(Kind):
        return None
    return Sign(Kind(kind), WorkerId(worker.hex()), sequence)


def genuine(datagram: bytes, secret: bytes) -> bool:
    """Tell whether who sent it knows the secret."""
    return hmac.compare_digest(datagram[_SIGNED:], _code(datagram[:_SIGNED], secret))


def _code(head: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, head, hashlib.sha256).digest()[: SIZE - _SIGNED]


# --- the cluster's end -----------------------------------------------------------------------------------------


class BeatListener(asyncio.DatagramProtocol):
    """Hears workers, and probes those it is told to. `key_of` gives a worker's key, None for strangers. Implements `Beats`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        key_of: Callable[[WorkerId], str | None],
        heard: Callable[[WorkerId], None],
    ) -> None:
        self._host = host
        self._port = port
        self._key_of = key_of
        self._secrets: dict[str, bytes] = {}
        self._heard = heard
        self._transport: asyncio.DatagramTransport | None = None
        self._last: dict[WorkerId, int] = {}
        self._from: dict[WorkerId, Address] = {}
        self._probes: dict[WorkerId, set[int]] = {}
        self._number = 0

    async def run(self) -> None:
        """Listen until cancelled. Raises `Rejected` if the port cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: self, local_addr=(self._host, self._port)
            )
        except OSError as error:
            raise Rejected(
                f"cannot listen on {self._host} UDP port {self._port}: {error.strerror}; stop what uses it, "
                "or give the cluster another MQTT port"
            ) from error
        try:
            await asyncio.Event().wait()
        finally:
            self._transport.close()

    def probe(self, worker: WorkerId) -> None:
        """Ask a worker whether it is there, at the address it last beat from; nothing happens if there is none."""
        address, secret = self._from.get(worker), self._secret_of(worker)
        if self._transport is None or address is None or secret is None:
            return
        self._number += 1
        self._probes.setdefault(worker, set()).add(self._number)
        self._transport.sendto(encode(Sign(Kind.PROBE, worker, self._number), secret), address)

    def _secret_of(self, worker: WorkerId) -> bytes | None:
        key = self._key_of(worker)
        if key is None:
            return None
        if key not in self._secrets:
            self._secrets[key] = beat_key(key)
        return self._secrets[key]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Note a sign of life, if it is one and not an old one sent again."""
        sign = decode(data)
        secret = self._secret_of(sign.worker) if sign is not None else None
        if sign is None or secret is None or not genuine(data, secret):
            return
        if sign.kind is Kind.BEAT and sign.sequence > self._last.get(sign.worker, -1):
            self._last[sign.worker] = sign.sequence
            self._from[sign.worker] = addr
        elif sign.kind is not Kind.ANSWER or sign.sequence not in self._probes.get(sign.worker, ()):
            return
        self._probes.pop(sign.worker, None)
        self._heard(sign.worker)

    def error_received(self, exc: Exception) -> None:
        """A worker's machine says that nobody listens there: silence will tell."""
        logger.debug("a probe was refused", extra={"error": exc})


# --- the worker's end ------------------------------------------------------------------------------------------


class BeatSender(asyncio.DatagramProtocol):
    """Beats to a cluster, and answers its probes. Loses what the network loses."""

    def __init__(self, worker: WorkerId, host: str, port: int, *, secret: bytes, first: int) -> None:
        self._worker = worker
        self._host = host
        self._port = port
        self._secret = secret
        self._sequence = first
        """Greater than any sent before: milliseconds of the wall clock at the agent's start will do."""
        self._transport: asyncio.DatagramTransport | None = None

    async def run(self, *, every_s: float) -> None:
        """Beat until cancelled; an address that cannot be reached now is tried again."""
        try:
            while True:
                try:
                    await self._beat()
                except OSError as error:
                    logger.debug("cannot beat", extra={"error": error})
                await asyncio.sleep(every_s)
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _beat(self) -> None:
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: self, remote_addr=(self._host, self._port)
            )
        self._sequence += 1
        self._transport.sendto(encode(Sign(Kind.BEAT, self._worker, self._sequence), self._secret))

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Answer a probe."""
        del addr
        sign = decode(data)
        if sign is None or sign.kind is not Kind.PROBE or not genuine(data, self._secret):
            return
        if self._transport is not None and sign.worker == self._worker:
            answer = Sign(Kind.ANSWER, self._worker, sign.sequence)
            self._transport.sendto(encode(answer, self._secret))

    def error_received(self, exc: Exception) -> None:
        """The cluster's machine says that nobody listens there now; the next beat tries again."""
        logger.debug("a beat was refused", extra={"error": exc})
