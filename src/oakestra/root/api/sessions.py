"""Commands in instances that read what is posted to them: who may post, in which order, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from oakestra.control.clock import Clock
from oakestra.model.errors import Conflict, Invalid, NotFound, OakestraError
from oakestra.model.ids import ClusterId, UserId, WorkerId
from oakestra.root.users.access import Principal
from oakestra.transport.calls import with_signs_of_life
from oakestra.wire.execution import (
    INPUT_BYTES_MAX,
    CommandEnd,
    FrameKind,
    SessionBegun,
    Written,
    decode_input,
    frame,
)

SILENT_MAX_S = 60.0
"""Who posts nothing for so long has gone away: connections over which nothing is said may break unnoticed."""
TAKEN_WITHIN_S = 15.0
"""What cannot be passed on for so long, as the command does not read, is to be posted again: proxies wait no longer."""
_GONE = "there is no such session: its command has ended, or it is somebody else's"


class Entry(Protocol):
    """Where more is entered into a call that a worker answers."""

    call: str
    """A name that nothing else has."""

    async def enter(self, body: bytes) -> None:
        """Return when this is on its way. Raises `NotFound` if the call has ended."""


ConverseWithWorker = Callable[
    [ClusterId, WorkerId, str, Mapping[str, Any]], tuple[AsyncGenerator[bytes, None], Entry]
]
"""Asks a worker something; the pieces of its answer, and where more is entered meanwhile."""


@dataclass(slots=True)
class _Session:
    owner: UserId
    entry: Entry
    heard_s: float
    next: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """The sessions there are; they end with their commands, and with this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, _Session] = {}

    async def answer(
        self, asker: Principal, first: bytes, pieces: AsyncGenerator[bytes, None], entry: Entry
    ) -> AsyncGenerator[bytes, None]:
        """Yield the frames of a command that has begun with `first`; meanwhile its asker may enter more."""
        session = _Session(owner=asker.user, entry=entry, heard_s=self._clock.uptime_s())
        self._open[entry.call] = session
        try:
            yield frame(SessionBegun(entry.call)) + first
            async with aclosing(with_signs_of_life(pieces)) as living:
                async for piece in living:
                    yield piece or frame(Written(FrameKind.STDOUT, b""))
                    if self._clock.uptime_s() - session.heard_s > SILENT_MAX_S:
                        reason = f"nothing came from you for {SILENT_MAX_S:.0f} s, so the command was ended"
                        yield frame(CommandEnd(exit_code=None, reason=reason))
                        return
        except OakestraError as error:
            yield frame(CommandEnd(exit_code=None, reason=str(error)))
        finally:
            del self._open[entry.call]
            await pieces.aclose()  # the worker is told that nobody listens, and ends the command

    async def enter(self, asker: Principal, name: str, sequence: int, body: bytes) -> int:
        """Pass frames on to the command; return which number is expected next.

        What was passed on before is not passed on again, so whoever got no answer posts it again. The same number is
        returned for what the command does not read for now. Raises `NotFound`, `Invalid`, and `Conflict` if something
        before it is missing.
        """
        session = self._open.get(name)
        if session is None or session.owner != asker.user:
            raise NotFound(_GONE)
        if len(body) > INPUT_BYTES_MAX:
            raise Invalid(f"{len(body)} bytes are too many at once; at most {INPUT_BYTES_MAX} are taken")
        decode_input(body)
        session.heard_s = self._clock.uptime_s()
        async with session.turn:
            if sequence > session.next:
                raise Conflict(
                    f"expected what has the number {session.next}, found {sequence}; what is between is missing"
                )
            if sequence == session.next and body and await self._passed_on(session, body):
                session.next += 1
        session.heard_s = self._clock.uptime_s()
        return session.next

    async def _passed_on(self, session: _Session, body: bytes) -> bool:
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await session.entry.enter(body)
        except TimeoutError:
            return False
        return True
