"""The data plane of one worker, as its kernel sees it. Blocks for milliseconds at most; one thread's business."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from oakestra.control.failpoints import Point, reach
from oakestra.model.address import host_address
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.model.ids import OrganizationId
from oakestra.model.service import InstanceAddress, PublishedPort, TransportProtocol
from oakestra.network import Applied, Endpoint, Overlay, ground, links, listeners, namespaces, rules
from oakestra.network.firewall import OtherFirewalls
from oakestra.network.links import Surroundings
from oakestra.network.names import Names
from oakestra.network.netlink import GONE, NETFILTER, ROUTE, Netlink
from oakestra.network.netlink import route as rt
from oakestra.network.paths import Paths, only_v4, paths
from oakestra.network.table import Table
from oakestra.network.tunnel import Tunnel

logger = logging.getLogger(__name__)

_VXLAN_BYTES = 50
"""What the tunnel adds to each packet: Ethernet, IPv4, UDP and VXLAN headers."""
DRAIN_S = 15.0
"""How long connections may go on to an instance that no route leads to any more: longer than stopping it takes."""


class Plane:
    """Everything of one worker in the network namespace of the thread that makes this."""

    def __init__(
        self, names: Names, *, folder: Path, tunnel_port: int, uptime_s: Callable[[], float]
    ) -> None:
        self._names = names
        self._folder = folder
        self._netlink = Netlink(ROUTE)
        netfilter = Netlink(NETFILTER)
        self._netfilter = netfilter
        self._table = Table(netfilter, names, tunnel_port=tunnel_port)
        self._tunnel = Tunnel(self._netlink, names, port=tunnel_port)
        self._firewalls = OtherFirewalls(netfilter, names)
        self._around: Surroundings | None = None
        self._tenants: dict[int, OrganizationId] = {}
        """Whose each attached instance is."""
        self._groups: dict[OrganizationId, int] = {}
        self._tunnel_port = tunnel_port
        self._uptime_s = uptime_s
        self._settled: Overlay | None = None
        """What is in the kernel, all of it, unless somebody else changed something."""
        self._backends: set[InstanceAddress] = set()
        self._drained_s: dict[InstanceAddress, float] = {}
        """When the connections end of backends that no route leads to any more."""
        self._adopt()

    def _adopt(self) -> None:
        """Take over what is whole; take away what an agent that died was making or taking away."""
        whole = set(attached(self._names, self._folder))
        for seat in links.seats(self._netlink, self._names):
            if seat.endpoint.number in whole:
                self._tenants[seat.endpoint.number] = seat.endpoint.tenant
                self._groups[seat.endpoint.tenant] = seat.group
        for number in self._numbers() - whole:
            self.detach(number)

    def prepare(self, overlay: Overlay) -> None:
        """See `Network.prepare`."""
        assert overlay.subnets, "a worker without addresses has nothing to prepare"
        self._settled = None
        v6 = ground.has_v6()
        ground.refuse_conflicts(self._netlink, self._names, overlay.subnets)
        ground.allow_forwarding(v6=v6)
        ground.have_gateway(
            self._netlink, self._names, overlay.subnets, subnet_index=overlay.subnet_index, v6=v6
        )
        reach(Point.NETWORK_GATEWAY_MADE)
        links.clear_leftovers(self._netlink, self._names, self._folder)
        first = host_address(overlay.subnets[0], 1)
        self._around = Surroundings(
            mtu=ground.underlay_mtu(self._netlink, overlay.underlay_v4) - _VXLAN_BYTES,
            gateway_v4=IPv4Address(first.v4),
            gateway_v6=IPv6Address(first.v6) if v6 else None,
        )
        if not self._table.look(overlay.subnets):
            accepted, _ = self._publishable(overlay)
            self._number_tenants(overlay)
            self._table.replace(overlay.subnets, rules.elements(accepted, self._groups))
        self._firewalls.let_through()

    def attach(self, endpoint: Endpoint) -> str:
        """See `Network.attach`."""
        if self._around is None:
            raise Unavailable("the machine's network is not ready yet")
        number = endpoint.number
        path = self._folder / str(number)
        seat = links.seat_of(self._netlink, self._names, number)
        if seat is not None and seat.endpoint == endpoint and namespaces.is_bound(path):
            return str(path)
        self.detach(number)
        self._groups = rules.choose_groups({endpoint.tenant}, self._groups)
        links.attach(
            self._netlink,
            self._names,
            endpoint,
            path=path,
            group=self._groups[endpoint.tenant],
            around=self._around,
        )
        self._tenants[number] = endpoint.tenant
        return str(path)

    def detach(self, number: int) -> None:
        """See `Network.detach`."""
        path = self._folder / str(number)
        links.detach(self._netlink, self._netfilter, self._names, number, path=path)
        self._tenants.pop(number, None)

    def apply(self, overlay: Overlay) -> Applied:
        """See `Network.apply`."""
        if self._around is None:
            raise Unavailable("the machine's network is not ready yet")
        if overlay != self._settled or not self._table.is_untouched():
            refused = self._make_so(overlay, self._around)
            self._settled = None if refused else overlay
        else:
            refused = ()
        self._end_drained(overlay)
        return Applied(refused_ports=refused)

    def _make_so(self, overlay: Overlay, around: Surroundings) -> tuple[tuple[PublishedPort, str], ...]:
        self._settled = None
        accepted, refused = self._publishable(overlay)
        self._number_tenants(overlay)
        ways = paths(overlay)
        if around.gateway_v6 is None:
            ways = only_v4(ways)
        trouble = self._extend_tunnel(overlay, ways, mtu=around.mtu)
        reach(Point.NETWORK_TUNNEL_EXTENDED)
        self._table.set(overlay.subnets, rules.elements(accepted, self._groups))
        if trouble is not None:
            raise trouble
        self._tunnel.shrink(ways)
        return refused

    def _extend_tunnel(self, overlay: Overlay, ways: Paths, *, mtu: int) -> OakestraError | None:
        """Return what is wrong with the tunnel: that is no reason to leave instances on this machine without rules."""
        try:
            self._tunnel.extend(ways, index=overlay.subnet_index, underlay_v4=overlay.underlay_v4, mtu=mtu)
        except OakestraError as error:
            return error
        return None

    def _end_drained(self, overlay: Overlay) -> None:
        """End the connections to instances that no route has led to for a while.

        Those that stop get their time to finish; those that are gone would leave their clients waiting. What they
        began themselves goes on: an instance that is not ready is not gone.
        """
        now_s = self._uptime_s()
        self._note_drained(overlay, now_s)
        for address in [each for each, until_s in self._drained_s.items() if until_s <= now_s]:
            links.forget_connections(self._netfilter, address, opened=False)
            del self._drained_s[address]

    def _note_drained(self, overlay: Overlay, now_s: float) -> None:
        backends = {backend.address for route in overlay.routes for backend in route.backends}
        for address in self._backends - backends:
            self._drained_s[address] = now_s + DRAIN_S
        for address in backends & self._drained_s.keys():
            del self._drained_s[address]
        self._backends = backends

    def _number_tenants(self, overlay: Overlay) -> None:
        """Give every tenant of the overlay a number; those with instances here keep theirs."""
        attached = set(self._tenants.values())
        wanted = rules.tenants(overlay)
        held = {tenant: group for tenant, group in self._groups.items() if tenant in attached | wanted}
        self._groups = rules.choose_groups(wanted, held)

    def _publishable(self, overlay: Overlay) -> tuple[Overlay, tuple[tuple[PublishedPort, str], ...]]:
        """Return the overlay without the publications that cannot be, and why not."""
        there = self._table.published
        accepted, refused = [], []
        heard: dict[TransportProtocol, Mapping[int, int]] = {}
        for publication in overlay.publications:
            port = publication.port
            rival = "" if rules.publication_key(port) in there else self._rival(port, heard)
            if rival:
                refused.append((port, _taken(port, rival)))
            else:
                accepted.append(publication)
        return replace(overlay, publications=tuple(accepted)), tuple(refused)

    def _rival(self, port: PublishedPort, heard: dict[TransportProtocol, Mapping[int, int]]) -> str:
        """Return who has a port of the machine, or nothing. `heard` keeps what was found for the next port."""
        if (port.protocol, port.host_port) == (TransportProtocol.UDP, self._tunnel_port):
            return "the tunnel to other workers"
        if port.protocol not in heard:
            heard[port.protocol] = listeners.listeners(port.protocol)
        inode = heard[port.protocol].get(port.host_port)
        return "" if inode is None else listeners.owner(inode)

    def remove(self) -> None:
        """See `Network.remove`."""
        self._firewalls.forget()
        self._table.remove()
        self._tunnel.remove()
        for number in self._numbers():
            self.detach(number)
        for link in rt.links(self._netlink):
            if link.name.startswith(self._names.links):
                self._netlink.request([rt.delete_link(link.index)], ignore=GONE)
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        self._around = None

    def close(self) -> None:
        """Speak with the kernel no more; everything in it stays."""
        self._netlink.close()
        self._netfilter.close()

    def _numbers(self) -> set[int]:
        seats = {seat.endpoint.number for seat in links.seats(self._netlink, self._names)}
        bound = {int(path.name) for path in self._folder.glob("*") if path.name.isdecimal()}
        return seats | bound


def _taken(port: PublishedPort, by: str) -> str:
    return (
        f"port {port.host_port}/{port.protocol} of this machine is taken by {by}; "
        "stop that, or publish the service on another port"
    )


def attached(names: Names, folder: Path) -> Sequence[int]:
    """Return the numbers of the instances that have their network, in the calling thread's network namespace."""
    return tuple(sorted(links.numbers(names, folder)))
