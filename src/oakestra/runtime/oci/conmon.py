"""conmon: the small process that holds a container's output and exit code while the agent is away.

Command line and sync pipe as of conmon 2.1 (containers/conmon, src/cli.c and src/ctrl.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

import msgspec

from oakestra.control import endings, processes
from oakestra.control.failpoints import Point, reach
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.runtime.oci.failures import explain_runc
from oakestra.runtime.oci.record import Layout

CREATE_TIMEOUT_S = 60.0
"""An honest `runc create` takes 30 ms; on a board with a busy SD card, seconds."""
_REOPEN_LOGS = b"2 0 0\n"
_STDERR_NAME = "conmon.err"


class _Report(msgspec.Struct, frozen=True):
    """What conmon writes into its sync pipe: the pid of the container's first process, or -1 and runc's words."""

    data: int | None = None
    pid: int | None = None
    message: str = ""


def command(layout: Layout, number: int, *, conmon: str, runc: str, log: Path) -> list[str]:
    """Return the command that makes conmon create a container from its bundle."""
    bundle, identity = layout.bundle(number), layout.id(number)
    options = {
        "--api-version": "1",
        "--cid": identity,
        "--cuuid": identity,
        "--name": identity,
        "--runtime": runc,
        "--bundle": str(bundle),
        "--container-pidfile": str(bundle / "pid"),
        "--conmon-pidfile": str(bundle / "conmon.pid"),
        "--exit-dir": str(layout.exits),
        "--log-path": f"k8s-file:{log}",
        "--log-level": "error",
    }
    flags = ["--full-attach", "--no-sync-log", f"--runtime-arg=--root={layout.runc}"]
    return [conmon, *(word for pair in options.items() for word in pair), *flags]


async def create(layout: Layout, number: int, arguments: Sequence[str]) -> int:
    """Have conmon create the container; return the pid of its first process, which waits to be started.

    Raises `Rejected` or `Unavailable` with runc's reason. Something of it may then be left.
    """
    bundle = layout.bundle(number)
    read_end, write_end = os.pipe()
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, write_end)
            stderr = stack.enter_context((bundle / _STDERR_NAME).open("ab"))
            parent = subprocess.Popen(  # noqa: ASYNC220 - returns after vfork and exec, 1 ms
                arguments,
                cwd=bundle,
                env={"PATH": processes.PATH, "_OCI_SYNCPIPE": str(write_end)},
                pass_fds=(write_end,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        reach(Point.RUNTIME_CONMON_STARTED)
        await _reap(parent)
        report = await _first_line(read_end)
    except TimeoutError as error:
        raise Unavailable(f"creating container {number} took longer than {CREATE_TIMEOUT_S:.0f} s") from error
    finally:
        os.close(read_end)
    return _pid(report, bundle)


def reopen_log(bundle: Path) -> bool:
    """Ask conmon to go on in a new log file; False if there is no conmon to ask, or it has yet to read an earlier wish.

    It opens `<log>.tmp` and renames it over `<log>`: whoever linked the old file elsewhere has lost nothing.
    """
    try:
        fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no such fifo, or nobody reads it any more
        return False
    try:
        (unread,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
        if unread:
            return False
        os.write(fd, _REOPEN_LOGS)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


async def _first_line(fd: int) -> bytes:
    """Return what arrives on the pipe `fd` until a newline or its end. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bytes] = loop.create_future()
    received = bytearray()

    def take() -> None:
        piece = os.read(fd, 65536)
        received.extend(piece)
        if (not piece or b"\n" in piece) and not found.done():
            found.set_result(bytes(received))

    loop.add_reader(fd, take)
    try:
        async with asyncio.timeout(CREATE_TIMEOUT_S):
            return await found
    finally:
        loop.remove_reader(fd)


async def _reap(parent: subprocess.Popen[bytes]) -> None:
    """Wait for the process that starts the daemon and ends."""
    fd = os.pidfd_open(parent.pid)
    try:
        await endings.until_gone(fd)
    finally:
        os.close(fd)
    parent.wait()


def _pid(report: bytes, bundle: Path) -> int:
    try:
        answer = msgspec.json.decode(report, type=_Report)
    except msgspec.DecodeError:
        answer = _Report()
    pid = answer.data if answer.data is not None else answer.pid
    if pid is not None and pid > 0:
        return pid
    raise _failure(answer.message, bundle)


def _failure(message: str, bundle: Path) -> OakestraError:
    with contextlib.suppress(OSError):
        message = message or (bundle / _STDERR_NAME).read_text(errors="replace")
    return explain_runc("creating the container", message, directory=bundle)
