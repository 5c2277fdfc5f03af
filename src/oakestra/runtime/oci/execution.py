"""Run one command inside a running container (`runc exec`), and leave nothing of it behind.

runc stays as the command's parent and passes its output on. Everything the command starts is in a part of the
container's cgroup of its own, so that also what cuts itself loose from it is found and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import IO

from oakestra.control import endings, processes
from oakestra.model.errors import Unavailable
from oakestra.runtime import KILLED, TIMED_OUT, CommandEnded, CommandOutput, OutputStream
from oakestra.runtime.oci.failures import explain_runc, explained
from oakestra.runtime.oci.linux.cgroups import Cgroups
from oakestra.runtime.oci.record import Layout

PART = "exec-"
"""Names of the parts of a container's cgroup that belong to commands begin so."""
PIECE_BYTES = 64 * 1024
LINGER_S = 0.5
"""What a command left running may hold its output open for so long once the command has ended."""
KILLED_WAIT_S = 10.0
"""What SIGKILL does not end within this hangs in the kernel, e.g. on a dead disk."""
_POLL_S = 0.005


class Execution:
    """One command inside one container."""

    def __init__(
        self, layout: Layout, cgroups: Cgroups, number: int, *, runc: str, names: Iterator[str]
    ) -> None:
        self._layout = layout
        self._cgroups = cgroups
        self._number = number
        self._runc = runc
        self._names = names
        """Each is given once: when a name is free again, what had it may still be tidying up."""
        self._what = f"running a command in container {number}"
        self._part = self._pid_file = Path()

    async def run(
        self, command: Sequence[str], *, timeout_s: float, output_bytes_max: int
    ) -> AsyncGenerator[CommandOutput | CommandEnded, None]:
        """Yield as `Runtime.exec` promises."""
        child = self._start(command)
        watch = asyncio.ensure_future(self._watch(child, timeout_s))
        try:
            await self._started(child, watch)
            yield CommandOutput(stream=OutputStream.STDOUT, data=b"")
            written = 0
            async with contextlib.aclosing(_output(child, watch)) as pieces:
                async for piece in pieces:
                    written += len(piece.data)
                    if written > output_bytes_max:
                        reason = f"wrote more than {output_bytes_max} bytes and was killed"
                        yield CommandEnded(exit_code=KILLED, reason=reason)
                        return
                    yield piece
            reason, code = await watch, await _code(child)
            yield CommandEnded(exit_code=TIMED_OUT if reason else code, reason=reason)
        finally:
            watch.cancel()
            await self._leave_nothing(child, watch)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with explained(self._what, self._layout.bundle(self._number)):
            self._part, argument = self._divided()
            self._pid_file = self._layout.bundle(self._number) / f"{self._part.name}.pid"
            self._pid_file.unlink(missing_ok=True)  # of an agent that died
            try:
                child = subprocess.Popen(
                    [
                        *(self._runc, "--root", str(self._layout.runc)),
                        *("exec", "--cgroup", argument, "--pid-file", str(self._pid_file)),
                        *(self._layout.id(self._number), *command),
                    ],
                    env={"PATH": processes.PATH},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except BaseException:
                self._cgroups.clear(self._part)
                raise
        for pipe in _pipes(child):
            os.set_blocking(pipe.fileno(), False)
        return child

    def _divided(self) -> tuple[Path, str]:
        for name in self._names:
            with contextlib.suppress(FileExistsError):  # of an agent that died, and hangs in the kernel
                return self._cgroups.divide(self._number, f"{PART}{name}")
        raise AssertionError("there is always another name")

    async def _started(self, child: subprocess.Popen[bytes], watch: asyncio.Future[str]) -> None:
        """Return when the command runs or ran. Raises what kept it from that."""
        while not self._pid_file.exists():
            if child.poll() is not None and not self._pid_file.exists():
                reason = await watch
                if reason:
                    raise Unavailable(f"{self._what} failed: its start {reason}")
                raise explain_runc(
                    self._what, _all_of(child.stderr), directory=self._layout.bundle(self._number)
                )
            await asyncio.sleep(_POLL_S)

    async def _watch(self, child: subprocess.Popen[bytes], timeout_s: float) -> str:
        """End the command when its time is over, and what it left running when it ends; return why it was ended."""
        reason = ""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended(child)
        except TimeoutError:
            reason = f"did not end within {timeout_s:g} s and was killed"
            if not self._pid_file.exists():
                _kill_all(child)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await _code(child)
        await self._clear()
        return reason

    async def _ended(self, child: subprocess.Popen[bytes]) -> None:
        """Return when the command itself has ended; runc may still be passing on what it wrote."""
        while not self._pid_file.exists() and child.poll() is None:  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(_POLL_S)
        fd = self._open_command(child)
        if fd is not None:
            try:
                await endings.until_gone(fd)
            finally:
                os.close(fd)

    def _open_command(self, child: subprocess.Popen[bytes]) -> int | None:
        """Return a pidfd of the command's process, or None if it has ended."""
        try:
            pid = int(self._pid_file.read_text())
            fd = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        if pid in processes.descendants((child.pid,)):
            return fd
        os.close(fd)  # somebody else's by now
        return None

    async def _clear(self) -> None:
        """Kill everything that is in the command's part of the cgroup, and remove that."""
        if not await clear(self._cgroups, self._part):
            raise Unavailable(
                f"a command in container {self._number} does not end, not even by SIGKILL; it hangs in the kernel"
            )

    async def _leave_nothing(self, child: subprocess.Popen[bytes], watch: asyncio.Future[str]) -> None:
        _kill_all(child)
        for pipe in _pipes(child):
            pipe.close()
        await asyncio.wait({watch})
        if not watch.cancelled():
            watch.exception()  # who waits for it was told
        await clear(self._cgroups, self._part)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLED_WAIT_S):
                await _code(child)
        self._pid_file.unlink(missing_ok=True)


async def clear(cgroups: Cgroups, part: Path) -> bool:
    """Kill everything that is in a part of a container's cgroup, and remove it; False if that hangs."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WAIT_S):
            while not cgroups.clear(part):  # noqa: ASYNC110 - nor have cgroups
                await asyncio.sleep(_POLL_S)
            return True
    return False


async def _output(
    child: subprocess.Popen[bytes], watch: asyncio.Future[str]
) -> AsyncGenerator[CommandOutput, None]:
    """Yield what arrives until both streams end. Raises what `watch` raises: then they never will."""
    streams = dict(zip(_pipes(child), OutputStream, strict=True))
    while streams:
        await _readable(tuple(streams), watch)
        for pipe in tuple(streams):
            with contextlib.suppress(BlockingIOError):
                data = os.read(pipe.fileno(), PIECE_BYTES)
                if data:
                    yield CommandOutput(stream=streams[pipe], data=data)
                else:
                    del streams[pipe]
        if watch.done():
            watch.result()


async def _readable(pipes: Sequence[IO[bytes]], watch: asyncio.Future[str]) -> None:
    """Return when something can be read, or `watch` ends."""
    loop = asyncio.get_running_loop()
    found = loop.create_future()

    def note(_: object = None) -> None:
        if not found.done():
            found.set_result(None)

    for pipe in pipes:
        loop.add_reader(pipe.fileno(), note)
    if not watch.done():
        watch.add_done_callback(note)
    try:
        await found
    finally:
        watch.remove_done_callback(note)
        for pipe in pipes:
            loop.remove_reader(pipe.fileno())


async def _code(child: subprocess.Popen[bytes]) -> int:
    """Wait for runc; return its exit code, which is the command's."""
    if child.poll() is None:
        fd = os.pidfd_open(child.pid)
        try:
            await endings.until_gone(fd)
        finally:
            os.close(fd)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _kill_all(child: subprocess.Popen[bytes]) -> None:
    """Kill runc with what it is starting."""
    if child.poll() is None:
        for pid in processes.descendants((child.pid,)):
            processes.kill(pid)


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert child.stdout is not None
    assert child.stderr is not None
    return child.stdout, child.stderr


def _all_of(pipe: IO[bytes] | None) -> str:
    """Return what is in a pipe now."""
    assert pipe is not None
    return (pipe.read() or b"").decode(errors="replace")
