"""The tunnel to other workers: one VXLAN device and what the kernel must know to use it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import TypeVar

from oakestra.model.errors import Rejected, Unavailable
from oakestra.network.names import Names, tunnel_mac
from oakestra.network.netlink import GONE, Message, Netlink
from oakestra.network.netlink import route as rt
from oakestra.network.paths import Paths, is_v4

_VNI = 1
K = TypeVar("K")
V = TypeVar("V")


class Tunnel:
    """Keeps the device and its paths equal to what is wanted. There is a device only while there is a peer:
    its socket takes packets from everywhere.
    """

    def __init__(self, netlink: Netlink, names: Names, *, port: int) -> None:
        self._netlink = netlink
        self._names = names
        self._port = port
        self._index = 0
        self._there = Paths()

    def extend(self, wanted: Paths, *, index: int, underlay_v4: str, mtu: int) -> None:
        """Have the device and every wanted path; what is there besides stays until `shrink`."""
        if not wanted.forwarding:
            return
        if not is_v4(underlay_v4):
            raise Rejected(
                f"other workers reach this one at {underlay_v4 or 'no address'}, but the tunnel between them needs an "
                "IPv4 address; set `address` in the worker's configuration"
            )
        self._have_device(index=index, underlay_v4=underlay_v4, mtu=mtu)
        there = self._there
        messages = [
            *(
                rt.replace_forwarding(self._index, mac, IPv4Address(host), port)
                for mac, (host, port) in _new(wanted.forwarding, there.forwarding)
            ),
            *(
                rt.replace_neighbour(self._index, address, mac)
                for address, mac in _new(wanted.neighbours, there.neighbours)
            ),
            *(
                rt.replace_route(destination, device=self._index, gateway=neighbour)
                for destination, neighbour in _new(wanted.routes, there.routes)
            ),
        ]
        self._netlink.request(messages)
        self._there = Paths(
            forwarding={**there.forwarding, **wanted.forwarding},
            neighbours={**there.neighbours, **wanted.neighbours},
            routes={**there.routes, **wanted.routes},
        )

    def shrink(self, wanted: Paths) -> None:
        """Forget the paths that are not wanted, and the device when none is."""
        if not wanted.forwarding:
            self.remove()
            return
        self._netlink.request(list(self._surplus(wanted)), ignore=GONE)
        self._there = wanted

    def _surplus(self, wanted: Paths) -> Iterator[Message]:
        there, index = self._there, self._index
        yield from (
            rt.delete_route(each, device=index) for each in there.routes.keys() - wanted.routes.keys()
        )
        yield from (
            rt.delete_neighbour(index, each) for each in there.neighbours.keys() - wanted.neighbours.keys()
        )
        yield from (
            rt.delete_forwarding(index, each) for each in there.forwarding.keys() - wanted.forwarding.keys()
        )

    def remove(self) -> None:
        """Take the device and all its paths away."""
        found = rt.link(self._netlink, self._names.tunnel)
        if found is not None:
            self._netlink.request([rt.delete_link(found.index)], ignore=GONE)
        self._index, self._there = 0, Paths()

    def _have_device(self, *, index: int, underlay_v4: str, mtu: int) -> None:
        found = rt.link(self._netlink, self._names.tunnel)
        right = (
            found is not None
            and found.up
            and found.kind == "vxlan"
            and (found.vxlan_port, found.vxlan_local) == (self._port, underlay_v4)
            and found.mac == tunnel_mac(index)
        )
        if found is not None and not right:
            self._netlink.request([rt.delete_link(found.index)], ignore=GONE)
        if found is None or not right:
            found = self._make(index=index, underlay_v4=underlay_v4, mtu=mtu)
        if found.mtu != mtu:
            self._netlink.request([rt.set_mtu(found.index, mtu)])
        if found.index != self._index:
            self._index = found.index
            self._there = self._look()

    def _make(self, *, index: int, underlay_v4: str, mtu: int) -> rt.Link:
        name, local = self._names.tunnel, IPv4Address(underlay_v4)
        try:
            self._netlink.request(
                [rt.new_vxlan(name, mac=tunnel_mac(index), mtu=mtu, id=_VNI, port=self._port, local=local)]
            )
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise Rejected(
                    "this machine's kernel has no VXLAN, so instances cannot reach other workers; "
                    "load or install the kernel module `vxlan`"
                ) from error
            raise self._taken(error) from error
        made = rt.link(self._netlink, name)
        assert made is not None, "the kernel said that it made the link"
        try:
            self._netlink.request([rt.set_up(made.index, plain_v6=True)])
        except OSError as error:
            self._netlink.request([rt.delete_link(made.index)], ignore=GONE)
            raise self._taken(error) from error
        return made

    def _taken(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the tunnel to other workers could not be opened on UDP port {self._port}: {error.strerror}; "
            "if another program uses that port, stop it or set `tunnel_port` in the worker's configuration"
        )

    def _look(self) -> Paths:
        """Return the paths that an earlier agent made."""
        index = self._index
        forwarding = rt.forwarding(self._netlink, index, default_port=self._port)
        ours = [
            route
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in rt.routes(self._netlink, family)
            if route.device == index and route.protocol == rt.PROTOCOL
        ]
        return Paths(
            forwarding={mac: (host, port) for mac, host, port in forwarding},
            neighbours=dict(rt.neighbours(self._netlink, index)),
            routes={route.destination: route.gateway for route in ours if route.gateway is not None},
        )


def _new(wanted: Mapping[K, V], there: Mapping[K, V]) -> Iterator[tuple[K, V]]:
    return ((key, value) for key, value in wanted.items() if there.get(key) != value)
