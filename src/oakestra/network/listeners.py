"""Which ports of this machine other programs listen on, and who they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from oakestra.model.service import TransportProtocol

_FILES = {
    TransportProtocol.TCP: (("tcp", "0A"), ("tcp6", "0A")),
    TransportProtocol.UDP: (("udp", "07"), ("udp6", "07")),
}
"""Per protocol: files under /proc/net, and the state of a socket that waits for anybody."""
_SOCKETS = Path("/proc/thread-self/net")
_LOOPBACKS = ("0100007F", "7F000001", "0" * 24 + "01000000", "0" * 31 + "1")


def listeners(protocol: TransportProtocol, *, loopback: bool = False) -> Mapping[int, int]:
    """Return the ports that programs listen on, each with its socket's inode; with `loopback` those on it alone, too."""
    found: dict[int, int] = {}
    for name, state in _FILES[protocol]:
        for fields in _lines(_SOCKETS / name):
            address, _, port = fields[1].partition(":")
            if fields[3] == state and (loopback or address not in _LOOPBACKS):
                found[int(port, 16)] = int(fields[9])
    return found


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return  # a kernel without IPv6
    for line in text.splitlines()[1:]:
        yield line.split()


def owner(inode: int) -> str:
    """Return who has a socket, as `name (pid 12)`. Looks through all processes: only to explain a refusal."""
    pid = owner_pid(inode)
    with contextlib.suppress(OSError):
        if pid is not None:
            return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    return "another program"


def owner_pid(inode: int) -> int | None:
    """Return the process that has a socket; None for the kernel itself, or what we may not see."""
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _has(process, wanted):
            return int(process.name)
    return None


def _has(process: Path, wanted: str) -> bool:
    try:
        return any(str(entry.readlink()) == wanted for entry in (process / "fd").iterdir())
    except OSError:
        return False
