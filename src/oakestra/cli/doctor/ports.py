"""Find out who has a port: nobody, a tier of ours, or somebody else."""

from __future__ import annotations

import errno
import os
import socket

from oakestra.cli.doctor.facts import Port
from oakestra.cli.doctor.running import IsOurs
from oakestra.control import processes
from oakestra.model.service import TransportProtocol
from oakestra.network import listeners

_KINDS = {TransportProtocol.TCP: socket.SOCK_STREAM, TransportProtocol.UDP: socket.SOCK_DGRAM}


def look(
    setting: str,
    address: str,
    number: int,
    *,
    ours: IsOurs,
    protocol: TransportProtocol = TransportProtocol.TCP,
) -> Port:
    """Return who has a port. Takes it for a moment, if nobody has."""
    taken = _take(address, number, protocol)
    kind = protocol.value.upper()
    if taken is None:
        return Port(setting=setting, number=number, address=address, protocol=kind)
    if taken.errno != errno.EADDRINUSE:
        refused = taken.strerror or str(taken)
        return Port(setting=setting, number=number, address=address, protocol=kind, refused=refused)
    inode = listeners.listeners(protocol, loopback=True).get(number, 0)
    pid = listeners.owner_pid(inode) if inode else None
    hidden = bool(inode) and pid is None and os.geteuid() != 0
    return Port(
        setting=setting,
        number=number,
        address=address,
        protocol=kind,
        holder=listeners.owner(inode) if inode else "the kernel",
        ours=pid is not None and ours(processes.arguments(pid)),
        hidden=hidden,
    )


def _take(address: str, number: int, protocol: TransportProtocol) -> OSError | None:
    """Return why a port cannot be had; None if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, _KINDS[protocol]) as probe:
        try:
            if protocol is TransportProtocol.TCP:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, number))
            if protocol is TransportProtocol.TCP:
                probe.listen(1)
        except OSError as error:
            return error
    return None
