"""Requests that travel down the tiers and are answered in pieces, over links that may lose anything.

A piece carries its number; a gap, or silence for longer than the deadline, ends the call with an error, never with a
hang. At most `WINDOW` pieces are under way unacknowledged, so a long answer cannot flood a thin link. Into some calls more
is entered while they are answered (`inflow`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oakestra.model import errors
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.transport import Channel, Link
from oakestra.transport.inflow import Entered, Entry
from oakestra.wire import native
from oakestra.wire.native import (
    PIECE_BYTES_MAX,
    Call,
    CallMessage,
    CancelCall,
    Input,
    Lost,
    Received,
    Reply,
    Taken,
    decode_call,
    encode_call,
)

logger = logging.getLogger(__name__)

WINDOW = 16
ALIVE_EVERY_S = 10.0
"""An answer that has nothing to say (a followed log) sends an empty piece this often."""
TAKEN_TOLD_TIMES = 3
"""So often within a call's deadline who gives its answer hears from who takes it: one message may be lost."""
CALLS_RELAYED_MAX = 4096

Method = Callable[[dict[str, Any]], AsyncIterator[bytes]]
Conversation = Callable[[dict[str, Any], AsyncGenerator[bytes, None]], AsyncIterator[bytes]]
"""A method that is also given what is entered meanwhile, piece by piece. A piece counts as used when it is taken."""


@dataclass(slots=True)
class _Waiting:
    """A call that somebody waits for."""

    peer: str
    """Who was asked."""
    entry: Entry
    arrived: asyncio.Queue[Reply | OakestraError] = field(default_factory=asyncio.Queue)
    """What came of it; after an error no more will come."""


class Asker:
    """Asks over a link and collects the answers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: dict[str, _Waiting] = {}

    def lost(self, peer: str) -> None:
        """End every call to a peer whose connection broke: what it had still to say is lost."""
        error = Unavailable(
            "the connection broke before all was answered; look how things are, and ask again"
        )
        for waiting in self._waiting.values():
            if waiting.peer == peer:
                waiting.arrived.put_nowait(error)

    def received(self, peer: str, payload: bytes) -> None:
        """Take a message of the call channel. Raises `Invalid` if it is none."""
        del peer
        message = decode_call(payload)
        waiting = self._waiting.get(message.id)
        match message:
            case Reply() if waiting is not None:
                waiting.arrived.put_nowait(message)
            case Taken() if waiting is not None:
                waiting.entry.heard(message)
            case Lost() if waiting is not None:
                waiting.arrived.put_nowait(
                    Unavailable(
                        "its end was lost while its worker was away, or its worker's agent started again and ended it; "
                        "look how things are, and ask again"
                    )
                )

    def ask(self, peer: str, call: Call) -> AsyncGenerator[bytes, None]:
        """Send the call to `peer` and yield the pieces of its answer.

        Raises the error the other side reported, or `Unavailable` when pieces were lost, the connection broke, or
        nothing came for `call.deadline_s`. However slowly it is read, the answer waits; closing the iterator cancels
        the call over there.
        """
        return self.converse(peer, call)[0]

    def converse(self, peer: str, call: Call) -> tuple[AsyncGenerator[bytes, None], Entry]:
        """As `ask`; more is entered into the call by the second of what is returned."""
        entry = Entry(call.id, lambda message: self._link.send(peer, Channel.CALL, encode_call(message)))
        return self._answer(call, _Waiting(peer, entry)), entry

    async def _answer(self, call: Call, waiting: _Waiting) -> AsyncGenerator[bytes, None]:
        peer = waiting.peer
        self._waiting[call.id] = waiting
        receipt = _Receipt(call, lambda message: self._link.send(peer, Channel.CALL, encode_call(message)))
        expected = 0
        finished = False
        try:
            self._link.send(peer, Channel.CALL, encode_call(call))
            while True:
                reply = await _within(waiting.arrived.get(), call.deadline_s)
                if isinstance(reply, OakestraError):
                    raise reply
                if reply.sequence < expected:
                    continue
                if reply.sequence > expected:
                    raise Unavailable("a part of the answer was lost on the way; ask again")
                expected += 1
                receipt.repeat()
                if reply.error:
                    finished = True
                    raise decode_error(reply.error)
                if reply.body:
                    yield reply.body
                if reply.end:
                    finished = True
                    return
                receipt.taken(reply.sequence)
        finally:
            receipt.end()
            del self._waiting[call.id]
            waiting.entry.end()
            if not finished:
                self._link.send(peer, Channel.CALL, encode_call(CancelCall(id=call.id)))


class _Receipt:
    """What was taken of an answer, told again now and then: who gives it gives up when nobody is there to take it."""

    def __init__(self, call: Call, send: Callable[[CallMessage], None]) -> None:
        self._said = Received(id=call.id, sequence=native.NOTHING_YET)
        self._send = send
        self._every_s = call.deadline_s / TAKEN_TOLD_TIMES
        self._again: asyncio.TimerHandle | None = None

    def taken(self, sequence: int) -> None:
        """Tell that this piece was taken, and all before it."""
        self._said = Received(id=self._said.id, sequence=sequence)
        self._send(self._said)

    def repeat(self) -> None:
        """From now on tell again what was told last. May be called twice."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(self._every_s, self._tell)

    def end(self) -> None:
        """Tell no more."""
        if self._again is not None:
            self._again.cancel()

    def _tell(self) -> None:
        self._send(self._said)
        self._again = None
        self.repeat()


async def _within(waiting: Awaitable[Reply | OakestraError], deadline_s: float) -> Reply | OakestraError:
    try:
        async with asyncio.timeout(deadline_s):
            return await waiting
    except TimeoutError as error:
        raise Unavailable(
            f"no answer for {deadline_s:.0f} s: the cluster or the worker is away, or very busy"
        ) from error


@dataclass(slots=True)
class _Running:
    """A call that is being answered."""

    window: _Window
    entered: Entered
    task: asyncio.Task[None]


class Answers:
    """Answers calls with the methods given, each call in a task of its own."""

    def __init__(
        self, methods: Mapping[str, Method], conversations: Mapping[str, Conversation] | None = None
    ) -> None:
        self._methods = methods
        self._conversations = conversations or {}
        self._running: dict[str, _Running] = {}

    def received(self, link: Link, peer: str, payload: bytes, group: asyncio.TaskGroup) -> None:
        """Take a message of the call channel; answers run in `group`. Raises `Invalid` if it is none."""

        def send(answer: CallMessage) -> None:
            link.send(peer, Channel.CALL, encode_call(answer))

        message = decode_call(payload)
        running = self._running.get(message.id)
        match message:
            case Call() if running is None:
                window, entered = _Window(), Entered(message.id, send)
                task = group.create_task(self._answer(send, message, window, entered))
                self._running[message.id] = _Running(window, entered, task)
                task.add_done_callback(lambda _: self._running.pop(message.id, None))
            case CancelCall() if running is not None:
                running.task.cancel()
            case Received() if running is not None:
                running.window.acknowledge(message.sequence)
            case Input() if running is not None:
                running.entered.arrived(message)
            case Input() | Received(sequence=native.NOTHING_YET):
                send(Lost(id=message.id))

    async def _answer(
        self, send: Callable[[CallMessage], None], call: Call, window: _Window, entered: Entered
    ) -> None:
        def reply(*, body: bytes = b"", end: bool = False, error: str = "") -> None:
            send(Reply(id=call.id, sequence=window.next(), body=body, end=end, error=error))

        found = self._begun(call, entered)
        if found is None:
            reply(
                error=f"NotFound: this tier does not know how to {call.method!r}; it is older than who asks: upgrade it",
                end=True,
            )
            return
        try:
            async with contextlib.aclosing(with_signs_of_life(found)) as pieces:
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

    def _begun(self, call: Call, entered: Entered) -> AsyncIterator[bytes] | None:
        if call.method in self._conversations:
            return self._conversations[call.method](call.arguments, entered.pieces())
        method = self._methods.get(call.method)
        return None if method is None else method(call.arguments)


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


async def with_signs_of_life(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
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
        if not isinstance(message, Reply | Taken | Lost) or route is None or route[1] != peer:
            return
        self._up.send(route[0], Channel.CALL, payload)
        if isinstance(message, Lost) or (isinstance(message, Reply) and message.end):
            self._routes.pop(message.id, None)

    def is_back(self, worker: str) -> None:
        """Ask a worker that was away whether it still knows its calls: its agent may be another one."""
        for call, (_, below) in self._routes.items():
            if below == worker:
                self._down.send(
                    worker, Channel.CALL, encode_call(Received(id=call, sequence=native.NOTHING_YET))
                )


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
