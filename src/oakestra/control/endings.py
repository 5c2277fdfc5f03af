"""Wait in the event loop for processes that are not our children, and for short-lived ones that are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence

from oakestra.control import processes


async def until_gone(fd: int) -> None:
    """Return when the process of the pidfd `fd` has ended."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()

    def note() -> None:
        loop.remove_reader(fd)
        if not gone.done():
            gone.set_result(None)

    loop.add_reader(fd, note)
    try:
        await gone
    finally:
        loop.remove_reader(fd)


async def gone_within(pid: int, start_ticks: int, timeout_s: float) -> bool:
    """Tell whether that very process ends within that time. Reaps it if it is our child."""
    fd = processes.open_process(pid, start_ticks)
    if fd is None:
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await until_gone(fd)
    except TimeoutError:
        return False
    finally:
        os.close(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
    return True


async def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a short-lived program to its end; return its exit code and what it wrote to stderr (a few KiB at most).

    It is in a session of its own, so that the agent's death does not reach it.
    """
    child = subprocess.Popen(  # noqa: ASYNC220 - returns after vfork and exec, 1 ms; asyncio's own needs a thread
        command,
        env={"PATH": processes.PATH, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stderr is not None
    fd = os.pidfd_open(child.pid)
    try:
        await until_gone(fd)
        code = child.wait()
        return code, child.stderr.read().decode(errors="replace")
    finally:
        os.close(fd)
        child.stderr.close()
