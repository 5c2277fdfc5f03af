"""Be present while a command runs in an instance: what is typed or piped here reaches it, what it writes comes back.

One thread reads the answer, one posts the input; the main thread writes and heeds signals, so that it can always restore
the terminal. Input is read only when what was read before is on its way: what pipes it here is slowed to what reads it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from queue import Queue
from threading import Thread

from oakestra.cli.client import Root, terminal
from oakestra.model.errors import NotFound, OakestraError, Unavailable
from oakestra.model.terminal import TerminalSize
from oakestra.wire.execution import (
    Answered,
    CommandEnd,
    Entered,
    FrameReader,
    Input,
    InputEnd,
    SessionBegun,
    Written,
    frame,
)

INPUT_BYTES = 64 * 1024
"""Read at once; as much as a pipe holds."""
ALIVE_EVERY_S = 20.0
"""Root ends a session from which nothing came for a minute."""
TRIED_S = 20.0
"""Root may be out of reach for so long, as while a connection breaks, before input counts as lost. Waiting does not help when
root starts again: its sessions end with it."""
_AGAIN_S = 0.5
_WAITING_MAX = 64
"""Pieces of the answer that wait to be written here."""

_Arrived = Answered | OakestraError | None
"""What the threads tell; None: the answer is over."""


class Attendance:
    """One command that is attended from here."""

    def __init__(self, root: Root, pieces: Iterator[bytes], *, size: TerminalSize | None) -> None:
        self._root = root
        self._pieces = pieces
        self._size = size
        """Which size the command's terminal has; None: it has none."""
        self._arrived: Queue[_Arrived] = Queue(_WAITING_MAX)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def answers(self) -> Iterator[Written | CommandEnd]:
        """Yield what the command writes, then how it ended. Raises what keeps input from it, or its answer from here."""
        Thread(target=self._read, daemon=True).start()
        begun = self._arrived.get()
        if isinstance(begun, OakestraError):
            raise begun
        if not isinstance(begun, SessionBegun):
            raise Unavailable("this root is older than `oak exec -i`, so nothing was passed on; upgrade root")
        if self._size is None:
            yield from self._attended(begun.session)
        else:
            with terminal.raw(self._resized):
                yield from self._attended(begun.session)

    def _attended(self, session: str) -> Iterator[Written | CommandEnd]:
        Thread(target=self._enter, args=(session,), daemon=True).start()
        while (found := self._arrived.get()) is not None:
            if isinstance(found, OakestraError):
                raise found
            if not isinstance(found, SessionBegun):
                yield found

    def _read(self) -> None:
        reader = FrameReader()
        try:
            for piece in self._pieces:
                for found in reader.feed(piece):
                    self._arrived.put(found)
        except OakestraError as error:
            self._arrived.put(error)
        self._arrived.put(None)

    def _resized(self) -> None:
        try:
            os.write(self._wake, b"r")
        except BlockingIOError:  # enough of them wait
            return

    def _enter(self, session: str) -> None:
        with closing(Posts(self._root, session)) as posts:
            try:
                for body in self._bodies():
                    posts.post(body)
            except NotFound:
                return  # it has ended; the answer says how
            except OakestraError as error:
                self._arrived.put(error)

    def _bodies(self) -> Iterator[bytes]:
        """Yield what is to be posted, nothing when there was nothing for a while."""
        reads = {self._woken}
        if sys.stdin is None:  # it was closed; by now its number is something else's
            yield frame(InputEnd())
        else:
            reads.add(terminal.KEYBOARD)
        if self._size is not None and self._size != terminal.size():
            self._resized()
        while True:
            ready, _, _ = select.select(tuple(reads), (), (), ALIVE_EVERY_S)
            entered: list[Input] = []
            if self._woken in ready:
                os.read(self._woken, INPUT_BYTES)
                entered.append(terminal.size())
            if terminal.KEYBOARD in ready:
                data = _typed()
                entered.append(Entered(data) if data else InputEnd())
                if not data:
                    reads.discard(terminal.KEYBOARD)
            yield b"".join(map(frame, entered))


class Posts:
    """What is posted to a session, each piece until it is known to have been taken."""

    def __init__(self, root: Root, session: str) -> None:
        self._root = root.line()
        self._path = f"/api/v1/sessions/{session}/input"
        self._next = 0

    def post(self, body: bytes) -> None:
        """Return when this is on its way; nothing is a sign of life. Raises `NotFound` if the session has ended."""
        give_up_s = time.monotonic() + TRIED_S
        pause_s = 0.0  # a connection that was idle may be closed by now: that is no reason to wait
        while True:
            try:
                expected = self._root.enter(self._path, body, sequence=str(self._next))["next"]
            except Unavailable:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(pause_s)
                pause_s = _AGAIN_S
                continue
            if expected > self._next or not body:
                self._next = expected
                return
            give_up_s = time.monotonic() + TRIED_S  # the command does not read for now

    def close(self) -> None:
        """Let go of the connection."""
        self._root.close()


def _typed() -> bytes:
    try:
        return os.read(terminal.KEYBOARD, INPUT_BYTES)
    except OSError:  # the terminal is gone
        return b""
