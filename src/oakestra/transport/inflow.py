"""What is entered into a call while it is answered: each piece arrives once and in order, whatever links lose or repeat.

Both ends count. The sender keeps what the receiver has not used, and sends again what may be lost; the receiver says what
it has and what it has used. So neither ever holds more than `PIECES_MAX` pieces or about `BYTES_MAX` bytes, and who enters
something is slowed to what uses it. `Sender` and `Receiver` are pure bookkeeping; `Entry` and `Entered` wait and send.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from oakestra.model.errors import NotFound
from oakestra.wire.native import NOTHING_YET, CallMessage, Input, Taken

PIECES_MAX = 16
"""Keys that are pressed within one round trip of a slow link."""
BYTES_MAX = 256 * 1024
"""Under way at once; on a link of 1 Mbit/s it takes 2 s, which signs of life do not wait for."""
AGAIN_S = 3.0
"""What is not known to have arrived is sent again after so long: longer than `BYTES_MAX` take on a thin link. Links
lose only when connections break."""
AGAIN_S_MAX = 30.0


class Sender:
    """The end that enters."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._next = 0
        self._received = NOTHING_YET
        self._kept: deque[Input] = deque()
        """What was not used yet, as far as known; oldest first."""
        self.again_s = AGAIN_S
        """After so long without news, `again` tells what to send."""

    @property
    def room(self) -> bool:
        """Whether another piece may be entered now."""
        return len(self._kept) < PIECES_MAX and sum(len(piece.body) for piece in self._kept) < BYTES_MAX

    @property
    def waits(self) -> bool:
        """Whether there is something the other end has not used yet."""
        return bool(self._kept)

    def put(self, body: bytes) -> Input:
        """Return the message that enters this."""
        piece = Input(id=self._call, sequence=self._next, body=body)
        self._next += 1
        self._kept.append(piece)
        return piece

    def heard(self, said: Taken) -> None:
        """Note what the other end has."""
        if said.received > self._received or (self._kept and said.taken >= self._kept[0].sequence):
            self.again_s = AGAIN_S
        self._received = max(self._received, said.received)
        while self._kept and self._kept[0].sequence <= said.taken:
            self._kept.popleft()

    def again(self) -> tuple[Input, ...]:
        """Return what to send because nothing was heard: what may be lost; else an empty piece, to be told how it is."""
        self.again_s = min(self.again_s * 2, AGAIN_S_MAX)
        unheard = tuple(piece for piece in self._kept if piece.sequence > self._received)
        if unheard or not self._kept:
            return unheard
        return (Input(id=self._call, sequence=self._kept[0].sequence, body=b""),)


class Receiver:
    """The end that uses what is entered."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._received = NOTHING_YET
        self._waiting: deque[bytes] = deque()

    def arrived(self, piece: Input) -> Taken:
        """Take a piece if it is the next; return what to say. Others come again, or were there before."""
        if piece.sequence == self._received + 1 and len(self._waiting) < PIECES_MAX:
            self._received += 1
            self._waiting.append(piece.body)
        return self._said()

    def take(self) -> tuple[bytes, Taken] | None:
        """Return the next piece that is to be used, and what to say of it; None if there is none."""
        return (self._waiting.popleft(), self._said()) if self._waiting else None

    def _said(self) -> Taken:
        return Taken(id=self._call, received=self._received, taken=self._received - len(self._waiting))


class Entry:
    """Where more is entered into a call that is being answered."""

    def __init__(self, call: str, send: Callable[[CallMessage], None]) -> None:
        self.call = call
        self._send = send
        self._sender = Sender(call)
        self._moved = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._ended = False

    async def enter(self, body: bytes) -> None:
        """Return when this is on its way, which is not before there is room. Raises `NotFound` if the call has ended."""
        while not (self._ended or self._sender.room):
            self._moved.clear()
            await self._moved.wait()
        if self._ended:
            raise NotFound("the command has ended, so it reads no more")
        self._send(self._sender.put(body))
        if self._again is None:
            self._watch()

    def heard(self, said: Taken) -> None:
        """Note what the other end has of what was entered."""
        self._sender.heard(said)
        self._moved.set()
        self._watch()

    def end(self) -> None:
        """Let everybody know that nothing can be entered any more. May be called twice."""
        self._ended = True
        self._moved.set()
        self._watch()

    def _watch(self) -> None:
        """Look again after a while whether what was sent has arrived."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._sender.waits and not self._ended:
            self._again = asyncio.get_running_loop().call_later(self._sender.again_s, self._send_again)

    def _send_again(self) -> None:
        for piece in self._sender.again():
            self._send(piece)
        self._watch()


class Entered:
    """What is entered into a call, on its way to the method that answers it."""

    def __init__(self, call: str, send: Callable[[CallMessage], None]) -> None:
        self._receiver = Receiver(call)
        self._send = send
        self._moved = asyncio.Event()

    def arrived(self, piece: Input) -> None:
        """Take what the link brought."""
        self._send(self._receiver.arrived(piece))
        self._moved.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what is entered, for ever; a piece counts as used when it is taken."""
        while True:
            found = self._receiver.take()
            if found is None:
                self._moved.clear()
                await self._moved.wait()
                continue
            body, said = found
            self._send(said)
            yield body
