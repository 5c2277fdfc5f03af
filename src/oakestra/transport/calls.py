"""Requests that travel down the tiers and are answered in pieces, over links that may lose anything.

A piece carries its number; a gap, or silence for longer than the deadline, ends the call with an error, never with a
hang. At most `WINDOW` pieces are under way unacknowledged, so a long answer cannot flood a thin link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from oakestra.model import errors
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.transport import Channel, Link
from oakestra.wire.native import (
    PIECE_BYTES_MAX,
    Call,
    CancelCall,
    Received,
    Reply,
    decode_call,
    encode_call,
)

logger = logging.getLogger(__name__)

WINDOW = 16
ALIVE_EVERY_S = 10.0
"""An answer that has nothing to say (a followed log) sends an empty piece this often."""
CALLS_RELAYED_MAX = 4096

Method = Callable[[dict[str, Any]], AsyncIterator[bytes]]


class Asker:
    """Asks over a link and collects the answers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: dict[str, tuple[str, asyncio.Queue[Reply | None]]] = {}
        """Call id -> who was asked, and what came of it; None: no more will come."""

    def lost(self, peer: str) -> None:
        """End every call to a peer whose connection broke: what it had still to say is lost."""
        for asked, queue in self._waiting.values():
            if asked == peer:
                queue.put_nowait(None)

    def received(self, peer: str, payload: bytes) -> None:
        """Take a message of the call channel. Raises `Invalid` if it is none."""
        del peer
        message = decode_call(payload)
        if isinstance(message, Reply) and message.id in self._waiting:
            self._waiting[message.id][1].put_nowait(message)

    async def ask(self, peer: str, call: Call) -> AsyncGenerator[bytes, None]:
        """Send the call to `peer` and yield the pieces of its answer.

        Raises the error the other side reported, or `Unavailable` when pieces were lost, the connection broke, or
        nothing came for `call.deadline_s`. Closing the iterator cancels the call over there.
        """
        queue: asyncio.Queue[Reply | None] = asyncio.Queue()
        self._waiting[call.id] = (peer, queue)
        expected = 0
        finished = False
        try:
            self._link.send(peer, Channel.CALL, encode_call(call))
            while True:
                reply = await _within(queue.get(), call.deadline_s)
                if reply is None:
                    raise Unavailable(
                        "the connection broke before all was answered; look how things are, and ask again"
                    )
                if reply.sequence < expected:
                    continue
                if reply.sequence > expected:
                    raise Unavailable("a part of the answer was lost on the way; ask again")
                expected += 1
                if reply.error:
                    finished = True
                    raise decode_error(reply.error)
                if reply.body:
                    yield reply.body
                if reply.end:
                    finished = True
                    return
                received = Received(id=call.id, sequence=reply.sequence)
                self._link.send(peer, Channel.CALL, encode_call(received))
        finally:
            del self._waiting[call.id]
            if not finished:
                self._link.send(peer, Channel.CALL, encode_call(CancelCall(id=call.id)))


async def _within(waiting: Awaitable[Reply | None], deadline_s: float) -> Reply | None:
    try:
        async with asyncio.timeout(deadline_s):
            return await waiting
    except TimeoutError as error:
        raise Unavailable(
            f"no answer for {deadline_s:.0f} s: the cluster or the worker is away, or very busy"
        ) from error


class Answers:
    """Answers calls with the methods given, each call in a task of its own."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._running: dict[str, tuple[asyncio.Task[None], _Window]] = {}

    def received(self, link: Link, peer: str, payload: bytes, group: asyncio.TaskGroup) -> None:
        """Take a message of the call channel; answers run in `group`. Raises `Invalid` if it is none."""
        message = decode_call(payload)
        match message:
            case Call() if message.id not in self._running:
                window = _Window()
                task = group.create_task(self._answer(link, peer, message, window))
                self._running[message.id] = (task, window)
                task.add_done_callback(lambda _: self._running.pop(message.id, None))
            case CancelCall() if message.id in self._running:
                self._running[message.id][0].cancel()
            case Received() if message.id in self._running:
                self._running[message.id][1].acknowledge(message.sequence)

    async def _answer(self, link: Link, peer: str, call: Call, window: _Window) -> None:
        def reply(*, body: bytes = b"", end: bool = False, error: str = "") -> None:
            message = Reply(id=call.id, sequence=window.next(), body=body, end=end, error=error)
            link.send(peer, Channel.CALL, encode_call(message))

        method = self._methods.get(call.method)
        if method is None:
            reply(error=f"NotFound: this tier does not know how to {call.method!r}", end=True)
            return
        try:
            async with contextlib.aclosing(_with_signs_of_life(method(call.arguments))) as pieces:
                async for piece in pieces:
                    for begin in range(0, max(len(piece), 1), PIECE_BYTES_MAX):
                        await window.open(call.deadline_s)
                        reply(body=piece[begin : begin + PIECE_BYTES_MAX])
            reply(end=True)
        except OakestraError as error:
            reply(error=encode_error(error), end=True)
        except TimeoutError:
            logger.info("nobody takes the answer, giving up", extra={"method": call.method})
        except Exception as error:
            logger.exception("call failed", extra={"method": call.method})
            reply(error=f"OakestraError: {type(error).__name__}: {error}", end=True)


class _Window:
    """Counts pieces sent and acknowledged."""

    def __init__(self) -> None:
        self._sent = 0
        self._acknowledged = -1
        self._moved = asyncio.Event()

    def next(self) -> int:
        self._sent += 1
        return self._sent - 1

    def acknowledge(self, sequence: int) -> None:
        self._acknowledged = max(self._acknowledged, sequence)
        self._moved.set()

    async def open(self, deadline_s: float) -> None:
        """Return when another piece may be sent; raise `TimeoutError` if nobody acknowledges."""
        while self._sent - self._acknowledged > WINDOW:
            self._moved.clear()
            async with asyncio.timeout(deadline_s):
                await self._moved.wait()


async def _with_signs_of_life(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces, and an empty one whenever there was none for a while."""
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(pieces))
            done, _ = await asyncio.wait((coming,), timeout=ALIVE_EVERY_S)
            if not done:
                yield b""
                continue
            finished, coming = coming, None
            try:
                piece = finished.result()
            except StopAsyncIteration:
                return
            yield piece
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, OakestraError):
                await coming
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


class Relay:
    """Passes calls from above on to the worker they name, and what comes back to who asked.

    What names no worker is for this tier itself: `own` is given it.
    """

    def __init__(self, up: Link, down: Link, *, own: Callable[[str, bytes], None]) -> None:
        self._up = up
        self._down = down
        self._own = own
        self._routes: dict[str, tuple[str, str]] = {}
        """Call id -> (who asked above, worker below), oldest first."""

    def from_above(self, peer: str, payload: bytes) -> None:
        """Take a message from the tier above. Raises `Invalid` if it is none."""
        message = decode_call(payload)
        if isinstance(message, Call) and message.worker:
            self._routes[message.id] = (peer, message.worker)
            while len(self._routes) > CALLS_RELAYED_MAX:
                del self._routes[next(iter(self._routes))]
        route = self._routes.get(message.id)
        if route is None:
            self._own(peer, payload)
            return
        self._down.send(route[1], Channel.CALL, payload)
        if isinstance(message, CancelCall):
            self._routes.pop(message.id, None)

    def from_below(self, peer: str, payload: bytes) -> None:
        """Take a message from a worker. Raises `Invalid` if it is none."""
        message = decode_call(payload)
        route = self._routes.get(message.id)
        if not isinstance(message, Reply) or route is None or route[1] != peer:
            return
        self._up.send(route[0], Channel.CALL, payload)
        if message.end:
            self._routes.pop(message.id, None)


def encode_error(error: OakestraError) -> str:
    """Return an error's kind and sentence as they travel in a reply."""
    return f"{type(error).__name__}: {error}"


def decode_error(text: str) -> OakestraError:
    """Return the error that a reply carried."""
    name, _, sentence = text.partition(": ")
    kind = getattr(errors, name, OakestraError)
    if not (isinstance(kind, type) and issubclass(kind, OakestraError)):
        kind = OakestraError
    return kind(sentence or text)
