"""Links, addresses, routes and neighbours (rtnetlink(7)): one function per request, one per listing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from oakestra.network.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    nested,
    number,
    parse,
    text,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PROTOCOL = 79
"""Marks our routes, as other daemons mark theirs (`ip route show proto 79`)."""
PROTOCOL_KERNEL = 2
IFNAME_MAX = 15

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 4, 16, 18, 20
_IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 26, 27, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_RTEXT_FILTER_SKIP_STATS = 8
_VETH_INFO_PEER = 1
_IFLA_VXLAN_ID, _IFLA_VXLAN_LOCAL, _IFLA_VXLAN_LEARNING, _IFLA_VXLAN_PORT = 1, 4, 7, 15
_IFLA_VXLAN_LOCALBYPASS = 31
_IFF_UP = 1
_IF_OPER_UP = b"\x06"

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_ANY = 0, 253, 255
_RTNH_F_ONLINK = 4

_NDA_DST, _NDA_LLADDR, _NDA_PORT = 1, 2, 6
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device as it was seen."""

    index: int
    name: str
    kind: str
    up: bool
    carries: bool
    """Packets given to it are sent: the kernel gets that far some time after a link is up and its peer, too."""
    mtu: int
    group: int
    alias: str
    mac: bytes
    vxlan_port: int = 0
    vxlan_local: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of the main table as it was seen."""

    destination: Network
    device: int
    gateway: Address | None
    source: Address | None
    protocol: int
    metric: int


def _family(address: Address | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004


# --- links ------------------------------------------------------------------------------------------------------------


def new_veth(
    name: str, *, index: int, mac: bytes, mtu: int, peer: str, peer_mac: bytes, peer_namespace: int
) -> Message:
    """Make a pair of links: `name` here with the index given, `peer` in the namespace of that file descriptor."""
    other = b"".join(
        (
            _LINK.pack(0, 0, 0, 0, 0),
            text(_IFLA_IFNAME, peer),
            number(_IFLA_MTU, mtu),
            attribute(_IFLA_ADDRESS, peer_mac),
            number(_IFLA_NET_NS_FD, peer_namespace),
        )
    )
    return _new_link(name, "veth", nested(_VETH_INFO_PEER, other), index=index, mac=mac, mtu=mtu)


def new_bridge(name: str, *, mac: bytes, mtu: int) -> Message:
    """Make a bridge."""
    return _new_link(name, "bridge", mac=mac, mtu=mtu)


def new_vxlan(name: str, *, mac: bytes, mtu: int, id: int, port: int, local: IPv4Address) -> Message:
    """Make a VXLAN device that learns nothing by itself and sends from `local`.

    Making it succeeds even if the port is taken; setting it up fails then.
    """
    return _new_link(
        name,
        "vxlan",
        number(_IFLA_VXLAN_ID, id),
        attribute(_IFLA_VXLAN_LOCAL, local.packed),
        attribute(_IFLA_VXLAN_LEARNING, b"\0"),
        attribute(_IFLA_VXLAN_PORT, struct.pack(">H", port)),
        mac=mac,
        mtu=mtu,
    )


def _new_link(name: str, kind: str, *data: bytes, mac: bytes, mtu: int, index: int = 0) -> Message:
    assert len(name) <= IFNAME_MAX, f"{name} is too long for a link's name"
    body = b"".join(
        (
            _LINK.pack(0, 0, index, 0, 0),
            text(_IFLA_IFNAME, name),
            number(_IFLA_MTU, mtu),
            attribute(_IFLA_ADDRESS, mac),
            nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind), nested(_IFLA_INFO_DATA, *data)),
        )
    )
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_up(
    index: int, *, name: str = "", group: int | None = None, alias: str = "", plain_v6: bool = False
) -> Message:
    """Set a link up, after naming, grouping and labelling it as told.

    `plain_v6`: give it no IPv6 address of its own making.
    """
    attributes = []
    if name:
        assert len(name) <= IFNAME_MAX, f"{name} is too long for a link's name"
        attributes.append(text(_IFLA_IFNAME, name))
    if group is not None:
        attributes.append(number(_IFLA_GROUP, group))
    if alias:
        attributes.append(attribute(_IFLA_IFALIAS, alias.encode()))
    if plain_v6:
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
        attributes.append(nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, mode)))
    return Message(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + b"".join(attributes))


def set_down(index: int) -> Message:
    """Set a link down; its routes go."""
    return Message(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, _IFF_UP))


def rename(index: int, name: str) -> Message:
    """Give a link that is down another name."""
    return Message(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + text(_IFLA_IFNAME, name))


def set_mtu(index: int, mtu: int) -> Message:
    """Change the greatest packet a link carries."""
    return Message(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + number(_IFLA_MTU, mtu))


def delete_link(index: int) -> Message:
    """Remove a link, and its peer."""
    return Message(_RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))


def links(netlink: Netlink) -> Iterator[Link]:
    """Yield every link of the namespace."""
    body = _LINK.pack(0, 0, 0, 0, 0) + number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    for answer in netlink.dump(Message(_RTM_GETLINK, NLM_F_DUMP, body)):
        yield _link(answer)


def link(netlink: Netlink, name: str) -> Link | None:
    """Return the link of that name, or None."""
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
    try:
        answers = list(netlink.dump(Message(_RTM_GETLINK, 0, body)))
    except OSError:
        return None
    return _link(answers[0]) if answers else None


def _link(raw: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(raw)
    found = dict(parse(raw, _LINK.size))
    info = dict(parse(found.get(_IFLA_LINKINFO, b"")))
    data = dict(parse(info.get(_IFLA_INFO_DATA, b"")))
    kind = _string(info.get(_IFLA_INFO_KIND, b""))
    vxlan = kind == "vxlan"
    return Link(
        index=index,
        name=_string(found.get(_IFLA_IFNAME, b"")),
        kind=kind,
        up=bool(flags & _IFF_UP),
        carries=found.get(_IFLA_OPERSTATE) == _IF_OPER_UP,
        mtu=_number(found.get(_IFLA_MTU)),
        group=_number(found.get(_IFLA_GROUP)),
        alias=_string(found.get(_IFLA_IFALIAS, b"")),
        mac=found.get(_IFLA_ADDRESS, b""),
        vxlan_port=struct.unpack(">H", data[_IFLA_VXLAN_PORT])[0] if vxlan else 0,
        vxlan_local=str(IPv4Address(data[_IFLA_VXLAN_LOCAL])) if vxlan and _IFLA_VXLAN_LOCAL in data else "",
    )


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0


# --- addresses --------------------------------------------------------------------------------------------------------


def add_address(index: int, interface: IPv4Interface | IPv6Interface) -> Message:
    """Give a link an address; at once usable, also IPv6."""
    return Message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address(index, interface))


def delete_address(index: int, interface: IPv4Interface | IPv6Interface) -> Message:
    """Take an address from a link."""
    return Message(_RTM_DELADDR, 0, _address(index, interface))


def _address(index: int, interface: IPv4Interface | IPv6Interface) -> bytes:
    address = interface.ip
    flags = _IFA_F_NODAD if address.version == 6 else 0  # noqa: PLR2004
    head = _ADDRESS.pack(_family(address), interface.network.prefixlen, flags, 0, index)
    return head + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def addresses(netlink: Netlink) -> Iterator[tuple[int, IPv4Interface | IPv6Interface]]:
    """Yield the index of the link and the address, for every address of the namespace."""
    for raw in netlink.dump(Message(_RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))):
        family, prefix, _, _, index = _ADDRESS.unpack_from(raw)
        found = dict(parse(raw, _ADDRESS.size))
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if packed is None:
            continue
        if family == socket.AF_INET:
            yield index, IPv4Interface((packed, prefix))
        elif family == socket.AF_INET6:
            yield index, IPv6Interface((packed, prefix))


# --- routes -----------------------------------------------------------------------------------------------------------


def replace_route(
    destination: Network,
    *,
    device: int,
    gateway: Address | None = None,
    source: Address | None = None,
    metric: int = 0,
) -> Message:
    """Have packets for `destination` leave through a device, or change how they do.

    A gateway is taken to be on the device's link, whatever addresses that has.
    """
    near = gateway is None and destination.version == 4  # noqa: PLR2004 - IPv6 has no scopes of routes
    head = _route_head(
        destination,
        scope=_RT_SCOPE_LINK if near else _RT_SCOPE_UNIVERSE,
        flags=0 if gateway is None else _RTNH_F_ONLINK,
    )
    parts = (
        attribute(_RTA_GATEWAY, gateway.packed) if gateway is not None else b"",
        attribute(_RTA_PREFSRC, source.packed) if source is not None else b"",
    )
    body = head + b"".join(parts) + _route_end(device=device, metric=metric)
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_route(destination: Network, *, device: int, metric: int = 0) -> Message:
    """Remove our route to `destination`, whatever its gateway."""
    head = _route_head(destination, scope=_RT_SCOPE_ANY, flags=0)
    return Message(_RTM_DELROUTE, 0, head + _route_end(device=device, metric=metric))


def _route_head(destination: Network, *, scope: int, flags: int) -> bytes:
    family, prefix = _family(destination), destination.prefixlen
    head = _ROUTE.pack(family, prefix, 0, 0, _RT_TABLE_MAIN, PROTOCOL, scope, _RTN_UNICAST, flags)
    return head + (attribute(_RTA_DST, destination.network_address.packed) if prefix else b"")


def _route_end(*, device: int, metric: int) -> bytes:
    return (number(_RTA_PRIORITY, metric) if metric else b"") + number(_RTA_OIF, device)


def routes(netlink: Netlink, family: int) -> Iterator[Route]:
    """Yield the unicast routes of the main table of one address family."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    for raw in netlink.dump(Message(_RTM_GETROUTE, NLM_F_DUMP, body)):
        _, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(raw)
        found = dict(parse(raw, _ROUTE.size))
        table = _number(found.get(_RTA_TABLE)) or table
        if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
            continue
        four = family == socket.AF_INET
        packed = found.get(_RTA_DST) or bytes(4 if four else 16)
        yield Route(
            destination=IPv4Network((packed, prefix)) if four else IPv6Network((packed, prefix)),
            device=_number(found.get(_RTA_OIF)),
            gateway=_some_address(found.get(_RTA_GATEWAY)),
            source=_some_address(found.get(_RTA_PREFSRC)),
            protocol=protocol,
            metric=_number(found.get(_RTA_PRIORITY)),
        )


def _some_address(packed: bytes | None) -> Address | None:
    if packed is None:
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)  # noqa: PLR2004


# --- neighbours and forwarding entries --------------------------------------------------------------------------------


def replace_neighbour(index: int, address: Address, mac: bytes) -> Message:
    """Say for good which hardware address a neighbour has."""
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _neighbour(index, address, mac))


def delete_neighbour(index: int, address: Address) -> Message:
    """Forget a neighbour."""
    return Message(_RTM_DELNEIGH, 0, _neighbour(index, address, b""))


def _neighbour(index: int, address: Address, mac: bytes) -> bytes:
    head = _NEIGHBOUR.pack(_family(address), index, _NUD_PERMANENT, 0, 0)
    parts = (attribute(_NDA_DST, address.packed), attribute(_NDA_LLADDR, mac) if mac else b"")
    return head + b"".join(parts)


def replace_forwarding(index: int, mac: bytes, host: IPv4Address, port: int) -> Message:
    """Say to which host and UDP port a VXLAN device sends frames for a hardware address."""
    head = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
    parts = (
        attribute(_NDA_LLADDR, mac),
        attribute(_NDA_DST, host.packed),
        attribute(_NDA_PORT, struct.pack(">H", port)),
    )
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, head + b"".join(parts))


def delete_forwarding(index: int, mac: bytes) -> Message:
    """Forget where frames for a hardware address go."""
    head = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
    return Message(_RTM_DELNEIGH, 0, head + attribute(_NDA_LLADDR, mac))


def neighbours(netlink: Netlink, index: int) -> Iterator[tuple[Address, bytes]]:
    """Yield the permanent neighbours of a link with their hardware addresses."""
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _NEIGHBOUR.pack(family, 0, 0, 0, 0)
        for raw in netlink.dump(Message(_RTM_GETNEIGH, NLM_F_DUMP, body)):
            _, device, state, _, _ = _NEIGHBOUR.unpack_from(raw)
            found = dict(parse(raw, _NEIGHBOUR.size))
            if device == index and state & _NUD_PERMANENT and _NDA_LLADDR in found:
                packed = found[_NDA_DST]
                address = IPv4Address(packed) if family == socket.AF_INET else IPv6Address(packed)
                yield address, found[_NDA_LLADDR]


def forwarding(netlink: Netlink, index: int, *, default_port: int) -> Iterator[tuple[bytes, str, int]]:
    """Yield hardware address, host and port of each forwarding entry of a VXLAN device."""
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
    for raw in netlink.dump(Message(_RTM_GETNEIGH, NLM_F_DUMP, body)):
        _, device, _, _, _ = _NEIGHBOUR.unpack_from(raw)
        found = dict(parse(raw, _NEIGHBOUR.size))
        if device == index and _NDA_DST in found and len(found[_NDA_DST]) == 4:  # noqa: PLR2004
            port = struct.unpack(">H", found[_NDA_PORT])[0] if _NDA_PORT in found else default_port
            yield found[_NDA_LLADDR], str(IPv4Address(found[_NDA_DST])), port
