"""What a command reads and writes, seen from outside: pipes, or a terminal. Knows nothing of containers.

A terminal is made inside the container, where its name means something; runc hands its outer end over through a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oakestra.model.terminal import TerminalSize
from oakestra.runtime import CommandInput, CommandOutput, OutputStream

PIECE_BYTES = 64 * 1024
NAME_BYTES = 4096
"""With a terminal runc says its name."""
_END_OF_INPUT = b"\x04"
"""Ctrl-D: what a terminal knows instead of an end."""
HELD_S = 5.0
"""When a command has ended, what it wrote is there, or runc passes it on at once, even on a machine that is very busy. What
is open after waiting so long is held open by somebody else."""
_NOBODY_READS = {errno.EPIPE, errno.EIO}
"""A pipe says the one, a terminal the other."""


@dataclass(slots=True, kw_only=True)
class Streams:
    """Our ends, which never block, and for as long as it takes to start it those of what starts the command."""

    outputs: Mapping[int, OutputStream]
    entry: int | None
    """Where what it reads is written to."""
    errors: int
    """Where runc says what kept it from running the command."""
    theirs: tuple[int, int, int]
    console: Console | None = None
    """Where its terminal is handed over, if it has one."""
    held: bool = False
    """Somebody else holds the outputs open, so that runc waits for their end for ever."""

    def given(self) -> None:
        """Let go of the other ends: whoever is started has them."""
        for fd in set(self.theirs):
            os.close(fd)
        self.theirs = (-1, -1, -1)

    def begun(self) -> None:
        """Take the terminal over: the command runs."""
        if self.console is not None:
            self.entry = self.console.taken()
            self.outputs = {self.entry: OutputStream.STDOUT}

    def said(self) -> str:
        """Return what is there now of what runc says."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.errors, PIECE_BYTES).decode(errors="replace")
        return ""

    def resize(self, size: TerminalSize) -> None:
        """Give the terminal another size; the kernel tells who is at it."""
        if self.console is not None and self.entry is not None:
            termios.tcsetwinsize(self.entry, (size.rows, size.columns))

    async def write(self, data: bytes) -> bool:
        """Write all of it, as fast as it is read; False if nobody reads it any more."""
        while data and self.entry is not None:
            try:
                data = data[os.write(self.entry, data) :]
            except BlockingIOError:
                await _writable(self.entry)
            except OSError as error:
                if error.errno not in _NOBODY_READS:
                    raise
                return False
        return self.entry is not None

    async def end_input(self) -> None:
        """Let the command know that there is no more to read."""
        if self.console is not None:
            await self.write(_END_OF_INPUT)
        elif self.entry is not None:
            os.close(self.entry)
            self.entry = None

    def close(self) -> None:
        """Let go of everything. May be called twice."""
        for fd in {*self.outputs, self.errors, *self.theirs, *([] if self.entry is None else [self.entry])}:
            if fd >= 0:
                os.close(fd)
        self.outputs, self.entry, self.errors, self.theirs = {}, None, -1, (-1, -1, -1)
        if self.console is not None:
            self.console.close()


def pipes(*, reads: bool) -> Streams:
    """Return pipes; if it `reads` nothing, what it reads ends at once."""
    out, err = os.pipe(), os.pipe()
    read, entry = os.pipe() if reads else (os.open(os.devnull, os.O_RDONLY), None)
    for fd in (out[0], err[0], *([] if entry is None else [entry])):
        os.set_blocking(fd, False)
    return Streams(
        outputs={out[0]: OutputStream.STDOUT, err[0]: OutputStream.STDERR},
        entry=entry,
        errors=err[0],
        theirs=(read, out[1], err[1]),
    )


def terminal(directory: Path, name: str) -> Streams:
    """Return what a terminal's streams will be; for a while there is a socket of that name in the directory."""
    console = Console(directory, name)
    null, err = os.open(os.devnull, os.O_RDWR), os.pipe()
    os.set_blocking(err[0], False)
    return Streams(outputs={}, entry=None, errors=err[0], theirs=(null, null, err[1]), console=console)


class Console:
    """Where runc hands over the outer end of the terminal that it made."""

    def __init__(self, directory: Path, name: str) -> None:
        self._file = directory / name
        self._file.unlink(missing_ok=True)  # of an agent that died
        self.directory = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        """To be passed on to runc."""
        self.path = f"/proc/self/fd/{self.directory}/{name}"
        """An address of a socket has no more than 107 bytes."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        try:
            self._listener.bind(self.path)
            self._listener.listen(1)
        except BaseException:
            self.close()
            raise

    def taken(self) -> int:
        """Return the terminal; once the command runs, it was handed over."""
        connection, _ = self._listener.accept()
        with connection:
            _, (terminal, *_), _, _ = socket.recv_fds(connection, NAME_BYTES, 1)
        os.set_blocking(terminal, False)
        return terminal

    def close(self) -> None:
        """Let go of it. May be called twice."""
        self._listener.close()
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1
        self._file.unlink(missing_ok=True)


async def read(streams: Streams, watch: asyncio.Future[str]) -> AsyncGenerator[CommandOutput, None]:
    """Yield what is written until all of it has ended, or the command has (`watch`) and no more of it comes.

    Raises what `watch` raises: then it never ends.
    """
    opened = dict(streams.outputs)
    left_s = HELD_S
    while opened:
        over = watch.done()  # looked at first: all that it wrote is there, or passed on by runc
        heard = False
        for fd in tuple(opened):
            with contextlib.suppress(BlockingIOError):
                data = _read(fd)
                heard = True
                if data:
                    yield CommandOutput(stream=opened[fd], data=data)
                else:
                    del opened[fd]
        if heard:
            continue
        if over:
            watch.result()
            streams.held = streams.console is None and left_s <= 0
            if streams.held or streams.console is not None:
                return
        waited_s = await _readable(tuple(opened), watch, timeout_s=left_s if over else None)
        left_s -= waited_s if over else 0.0


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, PIECE_BYTES)
    except OSError as error:
        if error.errno != errno.EIO:  # a terminal whose inner end was closed
            raise
        return b""


async def enter(streams: Streams, entered: AsyncIterator[CommandInput]) -> None:
    """Write what is entered until it ends; what nobody reads any more is dropped."""
    read_on = True
    async for piece in entered:
        if isinstance(piece, TerminalSize):
            streams.resize(piece)
        elif read_on:
            read_on = await streams.write(piece)
    await streams.end_input()


async def _readable(
    fds: Sequence[int], watch: asyncio.Future[str], *, timeout_s: float | None = None
) -> float:
    """Return when something can be read, `watch` ends, or the time is over: after how many seconds."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    found = loop.create_future()

    def note(_: object = None) -> None:
        if not found.done():
            found.set_result(None)

    for fd in fds:
        loop.add_reader(fd, note)
    if not watch.done():
        watch.add_done_callback(note)
    try:
        await asyncio.wait((found,), timeout=timeout_s)
        return loop.time() - began_s
    finally:
        watch.remove_done_callback(note)
        for fd in fds:
            loop.remove_reader(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    found = loop.create_future()

    def note() -> None:
        if not found.done():
            found.set_result(None)

    loop.add_writer(fd, note)
    try:
        await found
    finally:
        loop.remove_writer(fd)
