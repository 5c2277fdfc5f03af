"""What waits to be sent to one peer, and how a large set travels in pages. Pure bookkeeping, no I/O.

A frame is what a connection carries as one message: a byte that says whether it is whole or a page, and the content.
Frames of one peer must arrive in order or not at all.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from oakestra.model.errors import Invalid
from oakestra.transport import Channel

PAGE_BYTES = 256 * 1024
"""Small enough that a beat waits behind one page of a large set for 2 s at 1 Mbit/s."""
CALL_BYTES_MAX = 1 << 20
JOINED_BYTES_MAX = 64 << 20
CALLS_MAX = 256

_WHOLE = b"\x00"
_PAGE = struct.Struct(">BIHH")
"""1, the number of the set, the page's index, how many pages there are."""


@dataclass(slots=True)
class _Paged:
    """A payload on its way, page by page."""

    payload: bytes
    number: int
    index: int = 0

    @property
    def count(self) -> int:
        return -(-len(self.payload) // PAGE_BYTES)

    def next(self) -> bytes:
        begin = self.index * PAGE_BYTES
        header = _PAGE.pack(1, self.number, self.index, self.count)
        self.index += 1
        return header + self.payload[begin : begin + PAGE_BYTES]


class Outbox:
    """Frames for one peer. A newer set replaces one that waits; calls keep their order, the oldest dropped.

    A set whose first page was taken is finished before its successor begins: a receiver of sets that change faster
    than they travel must still get whole ones. `numbers` tells one paged set from the next.
    """

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._newest: dict[Channel, bytes] = {}
        self._paged: dict[Channel, _Paged] = {}
        self._calls: deque[bytes] = deque(maxlen=CALLS_MAX)
        self._turns = deque((Channel.BEAT, Channel.CALL, Channel.SET, Channel.TELEMETRY))

    def __bool__(self) -> bool:
        return bool(self._newest or self._paged or self._calls)

    def put(self, channel: Channel, payload: bytes) -> None:
        """Queue a payload. Raises `Invalid` if it is too large to travel; calls are never cut into pages."""
        limit = CALL_BYTES_MAX if channel is Channel.CALL else JOINED_BYTES_MAX
        if len(payload) > limit:
            raise Invalid(f"{len(payload)} bytes are too many for one {channel}; at most {limit} can travel")
        if channel is Channel.CALL:
            self._calls.append(payload)
        else:
            self._newest[channel] = payload

    def take(self) -> tuple[Channel, bytes] | None:
        """Return the next frame, the channels taking turns; None if nothing waits."""
        for _ in range(len(self._turns)):
            channel = self._turns[0]
            self._turns.rotate(-1)
            frame = self._next(channel)
            if frame is not None:
                return channel, frame
        return None

    def _next(self, channel: Channel) -> bytes | None:
        paged = self._paged.get(channel)
        if paged is not None:
            return self._page(channel, paged)
        if channel is Channel.CALL:
            return _WHOLE + self._calls.popleft() if self._calls else None
        payload = self._newest.pop(channel, None)
        if payload is None:
            return None
        if len(payload) <= PAGE_BYTES:
            return _WHOLE + payload
        paged = self._paged[channel] = _Paged(payload, next(self._numbers) & 0xFFFFFFFF)
        return self._page(channel, paged)

    def _page(self, channel: Channel, paged: _Paged) -> bytes:
        page = paged.next()
        if paged.index == paged.count:
            del self._paged[channel]
        return page


@dataclass(slots=True)
class _Unfinished:
    number: int
    count: int
    pages: list[bytes] = field(default_factory=list)


class Inbox:
    """Makes payloads of the frames of one peer. Keeps at most one unfinished set per channel."""

    def __init__(self) -> None:
        self._unfinished: dict[Channel, _Unfinished] = {}

    def __bool__(self) -> bool:
        return bool(self._unfinished)

    def take(self, channel: Channel, frame: bytes) -> bytes | None:
        """Return the payload that this frame completes, or None. A set with a page missing is dropped.

        Raises `Invalid` if it is no frame.
        """
        if frame[:1] == _WHOLE:
            self._unfinished.pop(channel, None)
            return frame[1:]
        if len(frame) < _PAGE.size or frame[0] != 1:
            raise Invalid("not a frame of ours")
        _, number, index, count = _PAGE.unpack_from(frame)
        if index >= count or count * PAGE_BYTES > JOINED_BYTES_MAX:
            raise Invalid(f"page {index} of {count} cannot be")
        return self._join(channel, number, index, count, frame[_PAGE.size :])

    def _join(self, channel: Channel, number: int, index: int, count: int, page: bytes) -> bytes | None:
        if index == 0:
            self._unfinished[channel] = _Unfinished(number, count)
        unfinished = self._unfinished.get(channel)
        if unfinished is None or (unfinished.number, len(unfinished.pages)) != (number, index):
            self._unfinished.pop(channel, None)
            return None
        unfinished.pages.append(page)
        if len(unfinished.pages) < count:
            return None
        del self._unfinished[channel]
        return b"".join(unfinished.pages)
