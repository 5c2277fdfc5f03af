"""What of this machine a container's description depends on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oakestra.runtime.machine import architecture
from oakestra.runtime.oci.linux.cgroups import Hierarchies
from oakestra.runtime.oci.spec import HostFacts

_CAPABILITY_NAMES = (  # noqa: SIM905 - a list of forty strings would be forty lines
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
"""By number, from capabilities(7)."""
_OWN_DEVICES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/ptmx", "/dev/console")  # noqa: S108 - names, not files of ours
"""A container has its own of these, privileged or not."""


def read_boot_id() -> str:
    """Return what differs between any two boots of a machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host_facts(found: Hierarchies, *, privileged: bool) -> HostFacts:
    """Read the facts; the ones that only a privileged container needs are looked up only for one."""
    facts = HostFacts(
        architecture=architecture(),
        limits_memory=found.controlled_by("memory") is not None,
        limits_swap=found.counts_swap,
    )
    if not privileged:
        return facts
    return HostFacts(
        architecture=facts.architecture,
        limits_memory=facts.limits_memory,
        limits_swap=facts.limits_swap,
        capabilities=_capabilities(),
        devices=tuple(_devices(Path("/dev"))),
    )


def _capabilities() -> tuple[str, ...]:
    """Return the capabilities this process may pass on: its bounding set."""
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("CapBnd:")[2].split()[0], 16)
    return tuple(f"CAP_{name}" for number, name in enumerate(_CAPABILITY_NAMES) if mask >> number & 1)


def _devices(directory: Path) -> Iterator[dict[str, Any]]:
    for entry in sorted(directory.iterdir()):
        if str(entry) in _OWN_DEVICES or entry.is_symlink():
            continue
        status = entry.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from _devices(entry)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            yield {
                "path": str(entry),
                "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
                "major": os.major(status.st_rdev),
                "minor": os.minor(status.st_rdev),
                "fileMode": stat.S_IMODE(status.st_mode),
                "uid": status.st_uid,
                "gid": status.st_gid,
            }
