"""Processes that are not ours to wait for: known by pid and start time. `control.endings` waits for them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs we start are looked for, and theirs; the agent's own environment is not theirs to know."""
_DEAD_STATES = {"Z", "X", "x"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as it was seen. The start time tells it from a later one with the same pid."""

    pid: int
    start_ticks: int
    name: str


def look(pid: int) -> Process | None:
    """Return the live process `pid`, or None. A zombie is not alive."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if fields[0] in _DEAD_STATES:
        return None
    return Process(pid=pid, start_ticks=int(fields[19]), name=name)


def is_running(pid: int, start_ticks: int) -> bool:
    """Tell whether the very process that had `pid` at `start_ticks` lives."""
    process = look(pid)
    return process is not None and process.start_ticks == start_ticks


def open_process(pid: int, start_ticks: int) -> int | None:
    """Return a pidfd of that very process, or None if it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if is_running(pid, start_ticks):
        return fd
    os.close(fd)
    return None


def arguments(pid: int) -> tuple[str, ...]:
    """Return the command line of `pid`; empty for a dead or a kernel process."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(os.fsdecode(part) for part in raw.split(b"\0")[:-1])


def find_by_argument(argument: str) -> tuple[int, ...]:
    """Return the processes that have `argument` as one of their arguments. Reads all of /proc: not for every pass."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - names are all we need
    return tuple(pid for pid in pids if argument in arguments(pid))


def descendants(pids: Sequence[int]) -> tuple[int, ...]:
    """Return `pids` and all their children's children."""
    found = list(pids)
    for pid in found:
        for children in _children_files(pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.extend(int(child) for child in children.read_text().split())
    return tuple(found)


def _children_files(pid: int) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield thread / "children"


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def heeds(pid: int, number: int) -> bool:
    """Tell whether `pid` would notice the signal `number`: some thread catches, ignores, or blocks it to fetch it.

    The first process of a pid namespace does not die of a signal it has no handler for (pid_namespaces(7)), so
    sending one that it does not heed is pointless where anywhere else it would be the end.
    """
    bit = 1 << (number - 1)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for line in (thread / "status").read_text().splitlines():
                name, _, mask = line.partition(":")
                if name in {"SigBlk", "SigIgn", "SigCgt"} and int(mask, 16) & bit:
                    return True
    return False
