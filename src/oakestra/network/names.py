"""What this worker's things in the kernel are called. Pure.

Every name carries a tag made from the worker's id, so workers that share a network namespace leave each other alone.
"""

from __future__ import annotations

import hashlib
import re
import struct
from base64 import b32encode
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from oakestra.model.ids import WorkerId

PREFIX = "oak"
"""How the names of all workers' links begin."""
_TAG_LENGTH = 5
"""25 bits: links' names have 15 characters, of which 6 are left for an instance's number."""
_FIRST_NEIGHBOUR_V4 = int(IPv4Address("169.254.1.0"))
_FIRST_NEIGHBOUR_V6 = int(IPv6Address("fe80::a12:0"))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one worker's things."""

    tag: str

    @classmethod
    def of(cls, worker: WorkerId) -> Names:
        """Return the names that a worker's things have, always the same."""
        digest = hashlib.sha256(worker.encode()).digest()
        return cls(b32encode(digest).decode().lower()[:_TAG_LENGTH])

    @property
    def table(self) -> str:
        """The nftables table."""
        return f"{PREFIX}_{self.tag}"

    @property
    def links(self) -> str:
        """What the names of all links begin with, and nobody else's."""
        return f"{PREFIX}{self.tag}"

    @property
    def instances(self) -> str:
        """What the names of instances' links begin with."""
        return f"{self.links}i"

    @property
    def gateway(self) -> str:
        """The device that holds this worker's own addresses in the overlay."""
        return f"{self.links}g"

    @property
    def tunnel(self) -> str:
        """The device that leads to other workers."""
        return f"{self.links}t"

    def instance(self, number: int) -> str:
        """The host's end of an instance's link."""
        return f"{self.instances}{number}"

    def unfinished(self, number: int) -> str:
        """The same, while it is being made."""
        return f"{self.links}n{number}"

    def number(self, link: str) -> int | None:
        """Return the number of the instance whose link this is, or None if it is something else."""
        return _number(link, self.instances)

    def unfinished_number(self, link: str) -> int | None:
        """Return the number of the instance whose link this is to become, or was, or None if it is something else."""
        return _number(link, f"{self.links}n")


def _number(link: str, prefix: str) -> int | None:
    digits = link.removeprefix(prefix)
    return int(digits) if digits != link and digits.isdecimal() else None


_LINK = re.compile(rf"{PREFIX}[a-z2-7]{{{_TAG_LENGTH}}}(?:g|t|[in][0-9]+)")


def is_some_workers(link: str) -> bool:
    """Tell whether a link of this name was made by a worker, this one or another."""
    return _LINK.fullmatch(link) is not None


def tunnel_mac(index: int) -> bytes:
    """Return the hardware address in the tunnel of the worker whose first subnet has this index."""
    return b"\x02\x0a\x12" + struct.pack(">H", index) + b"\xfe"


def tunnel_neighbour_v4(index: int) -> IPv4Address:
    """Return the address that stands for a worker in the tunnel: never on the wire, only in routes."""
    return IPv4Address(_FIRST_NEIGHBOUR_V4 + index)


def tunnel_neighbour_v6(index: int) -> IPv6Address:
    """Return the same for IPv6."""
    return IPv6Address(_FIRST_NEIGHBOUR_V6 + index)


def instance_mac(address: IPv4Address) -> bytes:
    """Return the hardware address of an instance, from its address."""
    return b"\x02\x0b" + address.packed


GATEWAY_MAC = b"\x02\x0a\x12\x00\x00\x01"
"""Of every link's host end: each is a wire of its own."""
