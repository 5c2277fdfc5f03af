"""What this machine is and how loaded it is, read from /proc."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oakestra.model.machine import Capacity, MachineUsage
from oakestra.model.service import Resources

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
RESERVED_MIB = 64
"""Kept for the machine itself and the agent."""
FREE_BYTES_MIN = 1 << 20
"""What the files of a new container and the worker's own need, several times over."""


class Machine(Protocol):
    """The machine a worker runs on."""

    def capacity(self) -> Capacity:
        """Return what it is and has, before any reservation; the same as long as nobody changes the machine."""

    def usage(self) -> MachineUsage:
        """Return its load since the last call."""

    def trouble(self) -> str:
        """Say what keeps anything new from starting here, and what to do about it; nothing if nothing does."""


@dataclass(slots=True)
class LinuxMachine:
    """Implements `Machine` for this machine; a number above 0 overrides what would be measured."""

    state_dir: Path
    virtualizations: tuple[str, ...]
    memory_mib: int = 0
    vcpus: int = 0
    _cpu_before: tuple[int, int] = field(default=(0, 0))
    _storage_mib: int = field(default=0)

    def capacity(self) -> Capacity:
        memory_mib = self.memory_mib or _memory_mib("MemTotal") - RESERVED_MIB
        if not self._storage_mib:
            self._storage_mib = shutil.disk_usage(self.state_dir).total >> 20
        return Capacity(
            resources=Resources(
                memory_mib=memory_mib,
                vcpus=self.vcpus or len(os.sched_getaffinity(0)),
                storage_mib=self._storage_mib,
            ),
            architecture=architecture(),
            virtualizations=self.virtualizations,
        )

    def trouble(self) -> str:
        try:
            disk = os.statvfs(self.state_dir)
        except OSError as error:
            return f"{self.state_dir} cannot be looked at: {(error.strerror or str(error)).lower()}"
        files_left = disk.f_ffree or not disk.f_files  # some file systems do not count them
        if disk.f_bfree * disk.f_frsize >= FREE_BYTES_MIN and files_left:
            return ""
        return (
            f"the disk that holds {self.state_dir} is full, so nothing new can start here; "
            "free some space there or remove images that are not needed"
        )

    def usage(self) -> MachineUsage:
        busy, total = _cpu_ticks()
        busy_before, total_before = self._cpu_before
        self._cpu_before = (busy, total)
        ticks = total - total_before
        disk = shutil.disk_usage(self.state_dir)
        available_mib = _memory_mib("MemAvailable")
        return MachineUsage(
            cpu_ratio=round((busy - busy_before) / ticks, 3) if ticks > 0 else 0.0,
            memory_ratio=round(1 - available_mib / max(_memory_mib("MemTotal"), 1), 3),
            memory_available_mib=available_mib,
            disk_ratio=round(disk.used / disk.total, 3),
        )


def architecture() -> str:
    """Return this machine's architecture by the name that image indexes use."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _memory_mib(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) >> 10
    return 0


def _cpu_ticks() -> tuple[int, int]:
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)
