"""End the connections that the kernel keeps track of for an address (nfnetlink)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from oakestra.network.netlink import NLM_F_DUMP, Message, Netlink, NetlinkError, attribute, nested, parse
from oakestra.network.netlink.route import Address

_SUBSYSTEM = 1
_GET, _DELETE = 1, 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP = 1
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_FILTER_BY_SOURCE = 1
_HEADER = struct.Struct(">BBH")
_AF_INET, _AF_INET6 = 2, 10


def forget(netlink: Netlink, address: Address, *, opened: bool) -> None:
    """Forget every connection that `address` answers, and with `opened` those that it began, too.

    What comes of them next is a stranger's.
    """
    for direction in (_TUPLE_REPLY, _TUPLE_ORIGINAL) if opened else (_TUPLE_REPLY,):
        try:
            netlink.request([_filtered(address, direction)], ignore={errno.ENOENT})
        except NetlinkError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            _forget_one_by_one(netlink, address, direction)  # an older kernel, that cannot filter


def _filtered(address: Address, direction: int) -> Message:
    original, reply = (_FILTER_BY_SOURCE, 0) if direction == _TUPLE_ORIGINAL else (0, _FILTER_BY_SOURCE)
    flags = (
        attribute(_FILTER_ORIGINAL, struct.pack("=I", original)),
        attribute(_FILTER_REPLY, struct.pack("=I", reply)),
    )
    source = attribute(_source(address), address.packed)
    body = nested(direction, nested(_TUPLE_IP, source)) + nested(_FILTER, *flags)
    return _message(_DELETE, 0, address, body)


def _source(address: Address) -> int:
    return 1 if address.version == 4 else 3  # noqa: PLR2004 - CTA_IP_V4_SRC, CTA_IP_V6_SRC


def _message(kind: int, flags: int, address: Address, body: bytes = b"") -> Message:
    family = _AF_INET if address.version == 4 else _AF_INET6  # noqa: PLR2004
    return Message(_SUBSYSTEM << 8 | kind, flags, _HEADER.pack(family, 0, 0) + body)


def _forget_one_by_one(netlink: Netlink, address: Address, direction: int) -> None:
    deletions = [
        _message(_DELETE, 0, address, nested(_TUPLE_ORIGINAL, original))
        for original, source in _entries(netlink, address, direction)
        if source == address.packed
    ]
    netlink.request(deletions, ignore={errno.ENOENT})


def _entries(netlink: Netlink, address: Address, direction: int) -> Iterator[tuple[bytes, bytes | None]]:
    for raw in netlink.dump(_message(_GET, NLM_F_DUMP, address)):
        found = dict(parse(raw, _HEADER.size))
        ip = dict(parse(dict(parse(found[direction]))[_TUPLE_IP]))
        yield found[_TUPLE_ORIGINAL], ip.get(_source(address))
