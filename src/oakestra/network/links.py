"""The links of instances: a network namespace each, joined to the machine by a wire of its own, and routed.

There is no bridge, so instances meet only where the rules are applied, and the machine needs no ARP to find them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from socket import if_nameindex, if_nametoindex

from oakestra.control.failpoints import Point, reach
from oakestra.model.ids import OrganizationId
from oakestra.model.service import InstanceAddress
from oakestra.network import Endpoint, namespaces
from oakestra.network.names import GATEWAY_MAC, Names, instance_mac
from oakestra.network.netlink import GONE, Message, Netlink, conntrack
from oakestra.network.netlink import route as rt

_MARK = "oakestra"
_NONE = "-"
_INSIDE = "eth0"
_CARRIER_LOOK_S = 0.0005
_CARRIER_LOOKS = 200
_LOOPBACK, _ETH0 = 1, 2
"""Indexes of the links in an instance's namespace: a new one has only loopback."""
_EVERYTHING_V4 = IPv4Network("0.0.0.0/0")
_EVERYTHING_V6 = IPv6Network("::/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all instances of a worker share."""

    mtu: int
    gateway_v4: IPv4Address
    gateway_v6: IPv6Address | None
    """None: this machine has no IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """An attached instance, as the kernel remembers it."""

    endpoint: Endpoint
    group: int
    index: int


def seats(netlink: Netlink, names: Names) -> Iterator[Seat]:
    """Yield every instance that has its link."""
    for link in rt.links(netlink):
        seat = _seat(link, names)
        if seat is not None:
            yield seat


def seat_of(netlink: Netlink, names: Names, number: int) -> Seat | None:
    """Return an instance's seat, or None if it has none."""
    link = rt.link(netlink, names.instance(number))
    return _seat(link, names) if link else None


def _seat(link: rt.Link, names: Names) -> Seat | None:
    number = names.number(link.name)
    words = link.alias.split(" ")
    if number is None or len(words) != 4 or words[0] != _MARK:  # noqa: PLR2004 - as in `_alias`
        return None
    v4, v6, tenant = ("" if word == _NONE else word for word in words[1:])
    endpoint = Endpoint(number=number, namespace=InstanceAddress(v4=v4, v6=v6), tenant=OrganizationId(tenant))
    return Seat(endpoint=endpoint, group=link.group, index=link.index)


def _alias(endpoint: Endpoint) -> str:
    address = endpoint.namespace
    return " ".join((_MARK, address.v4 or _NONE, address.v6 or _NONE, endpoint.tenant or _NONE))


def numbers(names: Names, folder: Path) -> Iterator[int]:
    """Yield the numbers of instances that have both namespace and link."""
    for _, link in if_nameindex():
        number = names.number(link)
        if number is not None and namespaces.is_bound(folder / str(number)):
            yield number


def attach(
    netlink: Netlink, names: Names, endpoint: Endpoint, *, path: Path, group: int, around: Surroundings
) -> None:
    """Make namespace and link of an instance that has neither.

    The link gets its name last, together with its routes, in one system call: an instance either has its network or
    is to be made again, wherever its agent was killed.
    """
    clear_leftover(netlink, names, endpoint.number)
    home = os.open(namespaces.OWN, os.O_RDONLY | os.O_CLOEXEC)
    name, unfinished = names.instance(endpoint.number), names.unfinished(endpoint.number)
    try:
        messages = list(_inside(endpoint, around, peer=unfinished, home=home))
        there = namespaces.make(path, lambda there: there.request(messages))
    finally:
        os.close(home)
    with contextlib.closing(there):
        reach(Point.NETWORK_NAMESPACE_BOUND)
        index = if_nametoindex(unfinished)
        netlink.request(list(_outside(endpoint, around, index, name=name, group=group)))
        reach(Point.NETWORK_LINK_NAMED)
        _await_carrier((netlink, name), (there, _INSIDE))


def _await_carrier(*ends: tuple[Netlink, str]) -> None:
    """Return when both ends of a link send what they are given: before that the first packets would be lost.

    To ask is to make it so on new kernels (6.14); older ones get there by themselves within a millisecond or so.
    """
    for netlink, name in ends:
        for _ in range(_CARRIER_LOOKS):
            link = rt.link(netlink, name)
            if link is None or link.carries:
                break
            time.sleep(_CARRIER_LOOK_S)


def _inside(endpoint: Endpoint, around: Surroundings, *, peer: str, home: int) -> Iterator[Message]:
    v4 = IPv4Address(endpoint.namespace.v4)
    yield rt.set_up(_LOOPBACK)
    yield rt.new_veth(
        _INSIDE,
        index=_ETH0,
        mac=instance_mac(v4),
        mtu=around.mtu,
        peer=peer,
        peer_mac=GATEWAY_MAC,
        peer_namespace=home,
    )
    yield rt.set_up(_ETH0, plain_v6=around.gateway_v6 is not None)
    yield rt.add_address(_ETH0, IPv4Interface(v4))
    yield rt.replace_neighbour(_ETH0, around.gateway_v4, GATEWAY_MAC)
    yield rt.replace_route(_EVERYTHING_V4, device=_ETH0, gateway=around.gateway_v4)
    if around.gateway_v6 is not None and endpoint.namespace.v6:
        yield rt.add_address(_ETH0, IPv6Interface(endpoint.namespace.v6))
        yield rt.replace_neighbour(_ETH0, around.gateway_v6, GATEWAY_MAC)
        yield rt.replace_route(_EVERYTHING_V6, device=_ETH0, gateway=around.gateway_v6)


def _outside(
    endpoint: Endpoint, around: Surroundings, index: int, *, name: str, group: int
) -> Iterator[Message]:
    v4 = IPv4Address(endpoint.namespace.v4)
    mac = instance_mac(v4)
    yield rt.set_up(
        index, name=name, group=group, alias=_alias(endpoint), plain_v6=around.gateway_v6 is not None
    )
    yield rt.replace_neighbour(index, v4, mac)
    yield rt.replace_route(IPv4Network(v4), device=index, gateway=v4, source=around.gateway_v4)
    if around.gateway_v6 is not None and endpoint.namespace.v6:
        v6 = IPv6Address(endpoint.namespace.v6)
        yield rt.replace_neighbour(index, v6, mac)
        yield rt.replace_route(IPv6Network(v6), device=index, source=around.gateway_v6)


def detach(netlink: Netlink, netfilter: Netlink, names: Names, number: int, *, path: Path) -> None:
    """Take an instance's link and namespace away and end its connections; no-op for what is not there.

    The link goes down at once and loses its name; the kernel takes it away with the namespace, a little later.
    To wait for that would take ten times as long as all the rest.
    """
    seat = seat_of(netlink, names, number)
    if seat is not None:
        clear_leftover(netlink, names, number)
        netlink.request(
            [rt.set_down(seat.index), rt.rename(seat.index, names.unfinished(number))], ignore=GONE
        )
        reach(Point.NETWORK_LINK_UNNAMED)
    namespaces.take_away(path)
    if seat is not None:
        forget_connections(netfilter, seat.endpoint.namespace, opened=True)


def clear_leftover(netlink: Netlink, names: Names, number: int) -> None:
    """Take away what is left of an instance's link whose making or going was cut off, or still goes on."""
    with contextlib.suppress(OSError):
        netlink.request([rt.delete_link(if_nametoindex(names.unfinished(number)))], ignore=GONE)


def clear_leftovers(netlink: Netlink, names: Names, folder: Path) -> None:
    """Take away every link and namespace whose making or going was cut off, or that is kept from going.

    A connection that waits for its last packet holds its namespace, and so the link, for minutes after its process.
    """
    there = {link for _, link in if_nameindex()}
    for number in sorted(filter(None, map(names.unfinished_number, there))):
        clear_leftover(netlink, names, number)
    for path in sorted(folder.glob("*")):
        if path.name.isdecimal() and names.instance(int(path.name)) not in there:
            namespaces.take_away(path)


def forget_connections(netfilter: Netlink, address: InstanceAddress, *, opened: bool) -> None:
    """End the connections to an instance, and with `opened` those that it began, as far as this machine knows them."""
    if address.v4:
        conntrack.forget(netfilter, IPv4Address(address.v4), opened=opened)
    if address.v6:
        conntrack.forget(netfilter, IPv6Address(address.v6), opened=opened)
