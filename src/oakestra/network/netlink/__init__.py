"""Speak netlink with the kernel over the standard library alone: framing, errors, dumps.

A request is handled while it is sent: when `send` returns, every answer waits already. So nothing here blocks, and
what brought no error was done.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

ROUTE = 0
NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

NESTED = 0x8000
"""Marks an attribute that holds attributes."""
_TYPE_MASK = 0x3FFF
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SOL_NETLINK = 270
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 8 << 20
"""Asked for, not allotted: the largest transaction is one datagram."""
_RECEIVE_BYTES = 1 << 16

HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Message:
    """A request: what it asks, how, and everything after the netlink header."""

    kind: int
    flags: int
    body: bytes


class NetlinkError(OSError):
    """The kernel refused the message at `index` of those sent."""

    def __init__(self, number: int, index: int, said: str) -> None:
        super().__init__(number, said or os.strerror(number))
        self.index = index


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number in the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def parse(raw: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the type and payload of each attribute from `offset` on."""
    end = len(raw)
    while offset + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(raw, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, raw[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


class Netlink:
    """A netlink socket. It belongs to the network namespace of the thread that made it, for good."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, messages: Sequence[Message], *, ignore: Collection[int] = ()) -> None:
        """Have the kernel do these in order, in one system call.

        Each is done or refused by itself; the first refusal whose errno is not in `ignore` is raised afterwards.
        """
        if not messages:
            return
        first = self._send(messages)
        failed: NetlinkError | None = None
        for kind, flags, sequence, body in self._answers():
            error = _error(kind, flags, sequence - first, body)
            if error is not None and error.errno not in ignore and failed is None:
                failed = error
        if failed is not None:
            raise failed

    def dump(self, message: Message) -> Iterator[bytes]:
        """Yield the body of every answer to a request for a list, or for one thing."""
        first = self._send([message])
        for kind, flags, sequence, body in self._answers():
            error = _error(kind, flags, sequence - first, body)
            if error is not None:
                for _ in self._answers():
                    pass
                raise error
            if kind not in {_NLMSG_ERROR, _NLMSG_DONE} and sequence == first:
                yield body

    def _send(self, messages: Sequence[Message]) -> int:
        first = self._sequence + 1
        out = bytearray()
        for message in messages:
            self._sequence = self._sequence + 1 & 0xFFFFFFFF
            length = HEADER.size + len(message.body)
            flags = message.flags | NLM_F_REQUEST
            out += HEADER.pack(length, message.kind, flags, self._sequence, 0)
            out += message.body
            out += bytes(-length & 3)
        self._socket.send(out)
        return first

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        while True:
            try:
                raw = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(raw):
                length, kind, flags, sequence, _ = HEADER.unpack_from(raw, offset)
                yield kind, flags, sequence, raw[offset + HEADER.size : offset + length]
                offset += (length + 3) & ~3


def _error(kind: int, flags: int, index: int, body: bytes) -> NetlinkError | None:
    if kind not in {_NLMSG_ERROR, _NLMSG_DONE} or len(body) < 4:  # noqa: PLR2004 - the error number
        return None
    number = -struct.unpack_from("=i", body)[0]
    if number <= 0:
        return None
    said = ""
    if flags & _NLM_F_ACK_TLVS:
        skip = 4 + HEADER.size if kind == _NLMSG_ERROR else 4
        said = dict(parse(body, skip)).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
    return NetlinkError(number, index, said)


GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""What the kernel answers when something to be removed is not there."""
