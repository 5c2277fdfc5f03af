"""What the machine itself must be like before instances can be joined to it: addresses free, forwarding on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
from pathlib import Path

from oakestra.model.address import (
    OVERLAY_NETWORK_V4,
    SERVICE_NETWORK_V4,
    SERVICE_NETWORK_V6,
    Subnet,
    host_address,
)
from oakestra.model.errors import Rejected
from oakestra.network.names import GATEWAY_MAC, Names, is_some_workers
from oakestra.network.netlink import GONE, Netlink
from oakestra.network.netlink import route as rt

SYSTEMD_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
_SYSCTL = Path("/proc/sys/net")
_DEFAULT_ROUTE_BITS = 8
"""A route to an eighth of the world or more (0.0.0.0/1 of a VPN) says where the rest goes, not who has an address."""
_METRIC = 20000
"""Of the route to service addresses, plus the subnet index: workers on one machine keep one each."""


def has_v6() -> bool:
    """Tell whether this machine uses IPv6."""
    switch = _SYSCTL / "ipv6/conf/all/disable_ipv6"
    return switch.exists() and switch.read_text().strip() == "0"


def refuse_conflicts(netlink: Netlink, names: Names, subnets: Sequence[Subnet]) -> None:
    """Raise `Rejected` naming the route if the machine already uses the overlay's addresses otherwise."""
    devices = {link.index: link.name for link in rt.links(netlink)}
    overlay = IPv4Network(OVERLAY_NETWORK_V4)
    own = [ip_network(subnet.v4) for subnet in subnets]
    for route in rt.routes(netlink, socket.AF_INET):
        device = devices.get(route.device, "a device that is gone")
        taken = route.destination
        if device.startswith(names.links) or taken.prefixlen < _DEFAULT_ROUTE_BITS:
            continue
        if is_some_workers(device):
            if any(taken.overlaps(subnet) for subnet in own):
                raise Rejected(
                    f"another worker on this machine has the addresses {taken} already (on {device}); workers of "
                    "two fleets cannot share a network namespace when their fleets gave them the same addresses: "
                    "stop one of them"
                )
        elif taken.overlaps(overlay):
            raise Rejected(
                f"this machine already has a route to {taken} (on {device}), which overlaps {overlay}, the addresses "
                "of the overlay network; instances cannot be reached beside it. Remove that route, give that network "
                "other addresses, or use another machine"
            )


def allow_forwarding(*, v6: bool) -> None:
    """Let the machine pass packets on. Raises `Rejected` where that cannot be set."""
    _set(_SYSCTL / "ipv4/ip_forward", "1")
    if v6 and _get(_SYSCTL / "ipv6/conf/all/forwarding") != "1":
        for device in (_SYSCTL / "ipv6/conf").iterdir():
            # a router ignores other routers' advertisements unless told twice; the machine may live by them. Not
            # the default of links to come: an instance must never be one of those routers
            if device.name not in {"all", "default"} and _get(device / "accept_ra") == "1":
                _set(device / "accept_ra", "2")
        _set(_SYSCTL / "ipv6/conf/all/forwarding", "1")


def _get(path: Path) -> str:
    return path.read_text().strip()


def _set(path: Path, value: str) -> None:
    try:
        if _get(path) != value:
            path.write_text(value)
    except OSError as error:
        raise Rejected(
            f"this machine must forward packets between instances, but {path} cannot be set to {value}: "
            f"{error.strerror}"
        ) from error


def have_gateway(
    netlink: Netlink, names: Names, subnets: Sequence[Subnet], *, subnet_index: int, v6: bool
) -> None:
    """Have the device with this worker's own addresses: packets to service addresses that no rule leads on end there."""
    wanted = {
        IPv4Interface(f"{host_address(each, 1).v4}/{ip_network(each.v4).prefixlen}") for each in subnets
    }
    wanted_v6 = {
        IPv6Interface(f"{host_address(each, 1).v6}/{ip_network(each.v6).prefixlen}") for each in subnets if v6
    }
    found = rt.link(netlink, names.gateway)
    if found is None:
        netlink.request([rt.new_bridge(names.gateway, mac=GATEWAY_MAC, mtu=1500)])
        found = rt.link(netlink, names.gateway)
        assert found is not None, "the kernel said that it made the link"
    there = {address for index, address in rt.addresses(netlink) if index == found.index}
    everything = wanted | wanted_v6
    netlink.request(
        [
            *([] if found.up else [rt.set_up(found.index, plain_v6=v6)]),
            *(rt.add_address(found.index, address) for address in sorted(everything - there, key=str)),
            *(rt.delete_address(found.index, address) for address in sorted(there - everything, key=str)),
        ],
        ignore=GONE,
    )
    first = host_address(subnets[0], 1)
    services: list[tuple[rt.Network, rt.Address]] = [
        (IPv4Network(SERVICE_NETWORK_V4), IPv4Address(first.v4)),
        *([(IPv6Network(SERVICE_NETWORK_V6), IPv6Address(first.v6))] if v6 else []),
    ]
    metric = _METRIC + subnet_index
    routed = {
        (route.destination, route.source, route.metric)
        for family in (socket.AF_INET, socket.AF_INET6)
        for route in rt.routes(netlink, family)
        if route.device == found.index and route.protocol == rt.PROTOCOL
    }
    wanted_routes = {(network, source, metric) for network, source in services}
    netlink.request(
        [
            *(
                rt.replace_route(network, device=found.index, source=source, metric=metric)
                for network, source, metric in sorted(wanted_routes - routed, key=str)
            ),
            *(
                rt.delete_route(network, device=found.index, metric=old)
                for network, _, old in sorted(routed - wanted_routes, key=str)
                if old != metric
            ),
        ],
        ignore=GONE,
    )


def underlay_mtu(netlink: Netlink, underlay_v4: str) -> int:
    """Return the greatest packet of the network that leads to other workers: that of the device with our address,
    or, when that is not known, of the default route's.
    """
    mtus = {link.index: link.mtu for link in rt.links(netlink)}
    for index, address in rt.addresses(netlink):
        if underlay_v4 and str(address.ip) == underlay_v4:
            return mtus[index]
    defaults = [
        mtus[route.device]
        for route in rt.routes(netlink, socket.AF_INET)
        if route.destination.prefixlen == 0 and route.device in mtus
    ]
    return min(defaults, default=1500)


def name_servers(resolv_conf: Path, *, upstream: Path = SYSTEMD_UPSTREAM) -> tuple[str, ...]:
    """Return the name servers of the machine that its instances can ask as well: those that are not loopback's.

    Where all are, a resolver of the machine stands in between; systemd's says in `upstream` whom it asks.
    """
    for path in (resolv_conf, upstream):
        found = tuple(server for server in _listed(path) if not _is_loopback(server))
        if found:
            return found
    return ()


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server == "::1" or server.lower().startswith("fe80:")
