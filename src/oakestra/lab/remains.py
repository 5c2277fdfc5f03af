"""Find everything that belongs to a lab, or to one host of it, by the names that all of it carries; and end it.

Needs no record of what was started: whoever made it may have been killed at any moment.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from oakestra.control import processes
from oakestra.control.installation import Installation
from oakestra.lab.kernel import NAMESPACES
from oakestra.model.errors import Unavailable
from oakestra.runtime.oci.linux.cgroups import hierarchies
from oakestra.runtime.oci.rootfs import unmount

GONE_WITHIN_S = 20.0
_LOOK_EVERY_S = 0.02
_CGROUP = Path("oakestra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is to be found: a lab with all its hosts, or one host."""

    installation: str
    """Those below it are meant as well."""
    namespaces: tuple[str, ...]
    """Network namespaces; whatever runs in one of them is meant."""

    @property
    def home(self) -> Installation:
        return Installation(self.installation)


def cut_power(scope: Scope) -> None:
    """End everything that runs at once, and take away what only a running machine has: mounts, cgroups, /run.

    Files that survive a reboot stay. Raises `Unavailable` naming what does not go away.
    """
    end_processes(scope)
    for target in mounts_below(
        Path("/proc/self/mountinfo").read_text(), (scope.home.state, scope.home.runtime)
    ):
        unmount(Path(target))
    _remove_cgroups(scope)
    shutil.rmtree(scope.home.runtime, ignore_errors=True)


def erase(scope: Scope) -> None:
    """Remove every file, and directories above that are empty then."""
    home = scope.home
    for directory in (home.state, home.runtime, home.logs):
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            directory.parent.rmdir()
    for point in hierarchies(Path("/proc/self/mountinfo").read_text()).mount_points:
        with contextlib.suppress(OSError):
            (point / _CGROUP).rmdir()


def end_processes(scope: Scope) -> None:
    """Kill until nothing is left to kill. Raises `Unavailable` naming what does not die."""
    until_s = time.monotonic() + GONE_WITHIN_S
    while found := find(scope):
        end(found)
        if time.monotonic() > until_s:
            names = ", ".join(f"{process.name} ({process.pid})" for process in found)
            raise Unavailable(
                f"these processes do not end: {names}; they hang in the kernel. Try again later, or reboot the machine"
            )


def end(found: Sequence[processes.Process]) -> None:
    """Send SIGKILL to all at once; return when they have ended, or after a second."""
    for process in found:
        processes.kill(process.pid, signal.SIGKILL)
    until_s = time.monotonic() + 1.0
    for process in found:
        fd = processes.open_process(process.pid, process.start_ticks)
        if fd is not None:
            select.select([fd], [], [], max(0.0, until_s - time.monotonic()))
            os.close(fd)


def find(scope: Scope) -> tuple[processes.Process, ...]:
    """Return what runs: in the network namespaces, in the cgroups, or started under the name. Never this process."""
    rooms = {inode for name in scope.namespaces if (inode := _inode(NAMESPACES / name))}
    pids = set(_in_cgroups(scope))
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208 - names are all we need
        if _inode(Path(f"/proc/{pid}/ns/net")) in rooms or is_named(
            processes.arguments(pid), scope.installation
        ):
            pids.add(pid)
    seen = [processes.look(pid) for pid in sorted(set(processes.descendants(tuple(pids))) - {os.getpid()})]
    return tuple(process for process in seen if process is not None)


def is_named(arguments: Sequence[str], installation: str) -> bool:
    """Tell whether a command line starts a tier or a supervisor of the installation, or of one below it. Pure."""
    flag = f"--installation={installation}"
    named = any(argument == flag or argument.startswith(f"{flag}/") for argument in arguments)
    return named and ("-m", "oakestra") in pairwise(arguments)


def mounts_below(mountinfo: str, directories: Sequence[Path]) -> tuple[str, ...]:
    """Return the mount points at or below the directories, the ones mounted last first (proc(5)). Pure."""
    points = [line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines()]
    below = [
        point for point in points if any(Path(point).is_relative_to(directory) for directory in directories)
    ]
    return tuple(reversed(below))


def _inode(path: Path) -> tuple[int, int] | None:
    """Return what identifies a network namespace; None if it is gone or not one."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _cgroups(scope: Scope) -> Iterator[Path]:
    """Yield the cgroups, those inside others first."""
    for point in hierarchies(Path("/proc/self/mountinfo").read_text()).mount_points:
        top = point / _CGROUP / scope.installation
        for directory, _, _ in os.walk(top, topdown=False):
            yield Path(directory)


def _in_cgroups(scope: Scope) -> Iterator[int]:
    for group in _cgroups(scope):
        with contextlib.suppress(OSError):
            yield from (int(text) for text in (group / "cgroup.procs").read_text().split())


def _remove_cgroups(scope: Scope) -> None:
    until_s = time.monotonic() + GONE_WITHIN_S
    while left := [group for group in _cgroups(scope) if not _removed(group)]:
        if time.monotonic() > until_s:
            raise Unavailable(
                f"the cgroup {left[0]} does not become empty; try again later, or reboot the machine"
            )
        time.sleep(_LOOK_EVERY_S)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # what was in it has ended and is not yet counted off
        return False
    return True
