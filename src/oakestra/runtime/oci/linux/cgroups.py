"""The cgroup of each instance: what it used, what limits it, and its end. cgroup v1, v2, and both at once."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oakestra.model.errors import Unavailable

UNLIMITED = 1 << 62
"""cgroup v1 writes "no limit" as the largest multiple of a page."""
_EMPTY_WAIT_S = 5.0
_RETRY_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the kernel holds an instance to; 0 stands for no limit."""

    memory_bytes: int = 0
    memory_and_swap_bytes: int = 0
    cpu_weight: int = 0
    """cpu.shares in v1, cpu.weight in v2."""
    pids: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where cgroups are mounted."""

    by_controller: Mapping[str, Path] = field(default_factory=dict)
    """cgroup v1, also named ones: controller or name → mount point."""
    unified: Path | None = None
    """cgroup v2."""

    @property
    def mount_points(self) -> tuple[Path, ...]:
        """Every hierarchy once."""
        points = dict.fromkeys(self.by_controller.values())
        return (*points, *([self.unified] if self.unified is not None else []))

    def controlled_by(self, controller: str) -> tuple[Path, bool] | None:
        """Return the mount point that has `controller`, and whether it is v2; None if no hierarchy has it."""
        if controller in self.by_controller:
            return self.by_controller[controller], False
        if self.unified is not None:
            with contextlib.suppress(OSError):
                if controller in (self.unified / "cgroup.controllers").read_text().split():
                    return self.unified, True
        return None

    @property
    def counts_swap(self) -> bool:
        """Whether memory and swap can be limited together."""
        memory = self.controlled_by("memory")
        return memory is not None and (memory[1] or (memory[0] / "memory.memsw.limit_in_bytes").exists())


def hierarchies(mountinfo: str) -> Hierarchies:
    """Read the cgroup mounts out of /proc/self/mountinfo (proc(5)). Pure."""
    by_controller: dict[str, Path] = {}
    unified: Path | None = None
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(" - ")
        point = Path(mount.split()[4].replace("\\040", " "))
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2":
            unified = unified or point
        elif kind == "cgroup":
            for option in options.split(" ")[-1].split(","):
                if option not in {"rw", "ro", "xattr", "clone_children", "noprefix"}:
                    by_controller.setdefault(option, point)
    return Hierarchies(by_controller=by_controller, unified=unified)


class Cgroups:
    """The cgroups `<parent>/<number>` of one worker's instances."""

    def __init__(self, parent: str, found: Hierarchies) -> None:
        self.parent = "/" + parent.strip("/")
        self.found = found

    def path(self, number: int) -> str:
        """Return the cgroup's name, the same in every hierarchy."""
        return f"{self.parent}/{number}"

    def cpu_ns(self, number: int) -> int:
        """Return the CPU time used so far; 0 if it cannot be told."""
        place = self._place(number, "cpuacct")
        if place is not None:
            return _number(place[0] / "cpuacct.usage")
        place = self._place(number, "cpu")
        return 0 if place is None else _keyed(place[0] / "cpu.stat").get("usage_usec", 0) * 1000

    def memory_bytes(self, number: int) -> int:
        """Return the memory in use, without the file cache that the kernel would give up first."""
        place = self._place(number, "memory")
        if place is None:
            return 0
        directory, unified = place
        used = _number(directory / ("memory.current" if unified else "memory.usage_in_bytes"))
        cache = "inactive_file" if unified else "total_inactive_file"
        return max(used - _keyed(directory / "memory.stat").get(cache, 0), 0)

    def out_of_memory_kills(self, number: int) -> int:
        """Return how many processes were killed because the instance reached its memory limit."""
        place = self._place(number, "memory")
        if place is None:
            return 0
        directory, unified = place
        return _keyed(directory / ("memory.events" if unified else "memory.oom_control")).get("oom_kill", 0)

    def limits(self, number: int) -> Limits:
        """Read the limits back from the kernel."""
        memory, cpu, pids = (self._place(number, name) for name in ("memory", "cpu", "pids"))
        memory_bytes = _limit(memory, _MEMORY_FILES)
        if memory is not None and memory[1]:  # v2 limits swap by itself; "max" is no number
            swap = (memory[0] / "memory.swap.max").read_text().strip()
            together_bytes = memory_bytes + int(swap) if swap.isdigit() else 0
        else:
            together_bytes = _limit(memory, _MEMORY_AND_SWAP_FILES)
        return Limits(
            memory_bytes=memory_bytes,
            memory_and_swap_bytes=together_bytes,
            cpu_weight=_limit(cpu, _CPU_FILES),
            pids=_limit(pids, _PIDS_FILES),
        )

    def pids(self, number: int) -> frozenset[int]:
        """Return the processes that are in the cgroup, in any hierarchy."""
        found: set[int] = set()
        for directory in self._directories(number):
            for group in _tree(directory):
                found.update(_pids(group))
        return frozenset(found)

    def remove(self, number: int) -> None:
        """Kill whatever is left in the cgroup and remove it. Raises `Unavailable` if it does not go away."""
        for directory in self._directories(number):
            for group in reversed(list(_tree(directory))):
                _remove(group)

    def divide(self, number: int, name: str) -> tuple[Path, str]:
        """Make a part `name` of the instance's cgroup, by which processes started later can be told from its own.

        Return its directory, and how runc is told of it. Raises `FileExistsError` if there is one, another `OSError`
        if the instance's cgroup is gone.
        """
        place = self._place(number, "pids")
        if place is None:
            raise Unavailable("this kernel has no pids cgroups, without which commands cannot be contained")
        directory, unified = place
        (directory / name).mkdir()
        return directory / name, name if unified else f"pids:{name}"

    def parts(self, number: int, prefix: str) -> list[Path]:
        """Return the parts of the instance's cgroup whose names begin so."""
        place = self._place(number, "pids")
        return [] if place is None else sorted(place[0].glob(f"{prefix}*"))

    @staticmethod
    def clear(part: Path) -> bool:
        """Kill whatever is left in a part and remove it; False if it is not empty yet."""
        for group in reversed(list(_tree(part))):
            for pid in _pids(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
                    raise
                return False
        return True

    def remove_parents(self) -> None:
        """Remove the cgroups above the instances' as far as they are empty."""
        name = Path(self.parent.lstrip("/"))
        for point in self.found.mount_points:
            for part in (name, *list(name.parents)[:-1]):
                with contextlib.suppress(OSError):
                    (point / part).rmdir()

    def _place(self, number: int, controller: str) -> tuple[Path, bool] | None:
        found = self.found.controlled_by(controller)
        return None if found is None else (found[0] / self.path(number).lstrip("/"), found[1])

    def _directories(self, number: int) -> Iterator[Path]:
        for point in self.found.mount_points:
            directory = point / self.path(number).lstrip("/")
            if directory.is_dir():
                yield directory


_MEMORY_FILES = ("memory.limit_in_bytes", "memory.max")
_MEMORY_AND_SWAP_FILES = ("memory.memsw.limit_in_bytes", "")
_CPU_FILES = ("cpu.shares", "cpu.weight")
_PIDS_FILES = ("pids.max", "pids.max")


def _limit(place: tuple[Path, bool] | None, names: tuple[str, str]) -> int:
    if place is None or not names[place[1]]:
        return 0
    value = _number(place[0] / names[place[1]])
    return 0 if value >= UNLIMITED else value


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _keyed(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(" ", 1) for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _pids(group: Path) -> list[int]:
    try:
        return [int(text) for text in (group / "cgroup.procs").read_text().split()]
    except OSError:  # gone, or a threaded cgroup, whose processes its parent shows
        return []


def _tree(directory: Path) -> Iterator[Path]:
    """Yield a cgroup, then those below it."""
    yield directory
    with contextlib.suppress(OSError):
        for entry in sorted(directory.iterdir()):
            if entry.is_dir():
                yield from _tree(entry)


def _remove(group: Path) -> None:
    for _ in range(int(_EMPTY_WAIT_S / _RETRY_S)):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
                raise
        else:
            return
        for pid in _pids(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_RETRY_S)
    raise Unavailable(f"the cgroup {group} does not become empty; will try again")
