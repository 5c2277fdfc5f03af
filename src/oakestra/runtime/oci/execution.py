"""Run one command inside a running container (`runc exec`), and leave nothing of it behind.

runc stays as the command's parent, and passes on what it reads and writes; of one at a terminal `parent` takes its place.
Everything the command starts is in a part of the container's cgroup of its own, so that also what cuts itself loose from
it is found and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec

from oakestra.control import endings, processes
from oakestra.model.errors import Unavailable
from oakestra.model.terminal import Terminal
from oakestra.runtime import KILLED, TIMED_OUT, CommandEnded, CommandInput, CommandOutput, OutputStream
from oakestra.runtime.oci import parent, streams
from oakestra.runtime.oci.failures import explain_runc, explained
from oakestra.runtime.oci.linux.cgroups import Cgroups
from oakestra.runtime.oci.record import Layout
from oakestra.runtime.oci.streams import Streams

PART = "exec-"
"""Names of the parts of a container's cgroup that belong to commands begin so."""
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
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int,
        entered: AsyncIterator[CommandInput] | None,
        terminal: Terminal | None,
    ) -> AsyncGenerator[CommandOutput | CommandEnded, None]:
        """Yield as `Runtime.exec` promises."""
        child, ends = self._start(command, reads=entered is not None, terminal=terminal)
        watch = asyncio.ensure_future(self._watch(child, timeout_s))
        reading: asyncio.Future[None] | None = None
        try:
            await self._started(child, ends, watch)
            ends.begun()
            yield CommandOutput(stream=OutputStream.STDOUT, data=b"")
            if entered is not None:
                reading = asyncio.ensure_future(streams.enter(ends, entered))
            written = 0
            async with contextlib.aclosing(streams.read(ends, watch)) as pieces:
                async for piece in pieces:
                    written += len(piece.data)
                    if written > output_bytes_max:
                        reason = f"wrote more than {output_bytes_max} bytes and was killed"
                        yield CommandEnded(exit_code=KILLED, reason=reason)
                        return
                    yield piece
            reason = await watch
            yield CommandEnded(
                exit_code=TIMED_OUT if reason else await _told_code(child, ends), reason=reason
            )
        finally:
            watch.cancel()
            try:
                if reading is not None:
                    reading.cancel()
                    await asyncio.wait({reading})
                    if not reading.cancelled():
                        reading.result()
            finally:
                await self._leave_nothing(child, ends, watch)

    def _start(
        self, command: Sequence[str], *, reads: bool, terminal: Terminal | None
    ) -> tuple[subprocess.Popen[bytes], Streams]:
        bundle = self._layout.bundle(self._number)
        with (
            explained(self._what, bundle),
            contextlib.ExitStack() as failed,
            contextlib.ExitStack() as over,
        ):
            self._part, part = self._divided()
            failed.callback(self._cgroups.clear, self._part)
            self._pid_file = bundle / f"{self._part.name}.pid"
            self._forget_pid()  # of an agent that died
            words = [
                *(self._runc, "--root", str(self._layout.runc)),
                *("exec", "--cgroup", part, "--pid-file", str(self._pid_file)),
            ]
            passed: tuple[int, ...] = ()
            if terminal is None:
                ends = streams.pipes(reads=reads)
                failed.callback(ends.close)
                words += [self._layout.id(self._number), *command]
            else:
                ends = streams.terminal(bundle, f"{self._part.name}.sock")
                failed.callback(ends.close)
                described = self._described(command, terminal)
                over.callback(os.close, described)
                words, passed = self._at_terminal(words, ends, described)
            read, out, err = ends.theirs
            child = subprocess.Popen(
                words,
                env={"PATH": processes.PATH},
                stdin=read,
                stdout=out,
                stderr=err,
                pass_fds=passed,
                start_new_session=True,
            )
            ends.given()
            failed.pop_all()
        return child, ends

    def _at_terminal(
        self, words: Sequence[str], ends: Streams, described: int
    ) -> tuple[list[str], tuple[int, ...]]:
        """Return what starts a command at a terminal, and which files it needs for that.

        runc hands terminals over only when it lets go of the command. Then nobody would learn how it ended, so it gets
        another parent.
        """
        assert ends.console is not None
        start = [
            *words,
            *("--detach", "--process", f"/proc/self/fd/{described}", "--console-socket", ends.console.path),
            self._layout.id(self._number),
        ]
        attended = [sys.executable, "-I", "-S", parent.__file__, str(self._pid_file), *start]
        return attended, (described, ends.console.directory)

    def _described(self, command: Sequence[str], terminal: Terminal) -> int:
        """Return a file in memory with the container's own process, but that it is this command at a terminal.

        Only so does the terminal have its size before the command looks.
        """
        config = msgspec.json.decode((self._layout.bundle(self._number) / "config.json").read_bytes())
        process = config["process"]
        known = [variable for variable in process.get("env", ()) if not variable.startswith("TERM=")]
        described = {
            **process,
            "args": list(command),
            "env": [*known, f"TERM={terminal.name}"],
            "terminal": True,
            "consoleSize": {"height": terminal.size.rows, "width": terminal.size.columns},
        }
        fd = os.memfd_create("process")
        os.write(fd, msgspec.json.encode(described))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def _divided(self) -> tuple[Path, str]:
        for name in self._names:
            with contextlib.suppress(FileExistsError):  # of an agent that died, and hangs in the kernel
                return self._cgroups.divide(self._number, f"{PART}{name}")
        raise AssertionError("there is always another name")

    async def _started(
        self, child: subprocess.Popen[bytes], ends: Streams, watch: asyncio.Future[str]
    ) -> None:
        """Return when the command runs or ran. Raises what kept it from that."""
        while not self._pid_file.exists():
            if child.poll() is not None and not self._pid_file.exists():
                reason = await watch
                if reason:
                    raise Unavailable(f"{self._what} failed: its start {reason}")
                raise explain_runc(self._what, ends.said(), directory=self._layout.bundle(self._number))
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
        for _ in range(2):  # runc may be letting go of it just now, between one look and the other
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

    async def _leave_nothing(
        self, child: subprocess.Popen[bytes], ends: Streams, watch: asyncio.Future[str]
    ) -> None:
        _kill_all(child)
        ends.close()
        await asyncio.wait({watch})
        if not watch.cancelled():
            watch.exception()  # who waits for it was told
        await clear(self._cgroups, self._part)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLED_WAIT_S):
                await _code(child)
        self._forget_pid()

    def _forget_pid(self) -> None:
        """Remove the file with the command's process id; a runc that is killed may leave it under its first name."""
        self._pid_file.unlink(missing_ok=True)
        self._pid_file.with_name(f".{self._pid_file.name}").unlink(missing_ok=True)


async def clear(cgroups: Cgroups, part: Path) -> bool:
    """Kill everything that is in a part of a container's cgroup, and remove it; False if that hangs."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WAIT_S):
            while not cgroups.clear(part):  # noqa: ASYNC110 - nor have cgroups
                await asyncio.sleep(_POLL_S)
            return True
    return False


async def _told_code(child: subprocess.Popen[bytes], ends: Streams) -> int:
    """Return the exit code of a command that has ended. Raises `Unavailable` if runc will not tell it."""
    if ends.held:
        raise Unavailable(
            "the command has ended, but its exit code is lost: another process of the instance holds its output open; "
            "end that, and run the command again"
        )
    return await _code(child)


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
