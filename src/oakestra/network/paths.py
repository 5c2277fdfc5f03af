"""Work out how packets find other workers through the tunnel. Pure.

The tunnel is one VXLAN device that learns nothing: a worker is a hardware address made from its subnet index, a
neighbour with that address, and routes to its subnets. Packets between workers carry the addresses of those subnets
and no semantic ones, so where they go is never in doubt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from oakestra.model.address import Peer
from oakestra.network import Overlay
from oakestra.network.names import tunnel_mac, tunnel_neighbour_v4, tunnel_neighbour_v6

Address = IPv4Address | IPv6Address
Destination = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """All that the kernel should know of other workers."""

    forwarding: Mapping[bytes, tuple[str, int]] = field(default_factory=dict)
    """By hardware address: the host and UDP port where the worker's tunnel ends."""
    neighbours: Mapping[Address, bytes] = field(default_factory=dict)
    routes: Mapping[Destination, Address] = field(default_factory=dict)


def usable(overlay: Overlay) -> Iterator[Peer]:
    """Yield the peers that the tunnel can reach: those with an IPv4 address, one per subnet index, never ourselves."""
    seen = {overlay.subnet_index}
    for peer in overlay.peers:
        if is_v4(peer.host) and peer.subnet_index not in seen:
            seen.add(peer.subnet_index)
            yield peer


def is_v4(host: str) -> bool:
    """Tell whether this is an IPv4 address, and not another one or a name."""
    try:
        return isinstance(ip_address(host), IPv4Address)
    except ValueError:
        return False


def paths(overlay: Overlay) -> Paths:
    """Return the ways to the overlay's peers."""
    reachable = tuple(usable(overlay))
    ways: dict[Destination, Address] = {}
    for peer in reachable:
        for subnet in peer.subnets:
            ways[ip_network(subnet.v4)] = tunnel_neighbour_v4(peer.subnet_index)
            ways[ip_network(subnet.v6)] = tunnel_neighbour_v6(peer.subnet_index)
    return Paths(
        forwarding={tunnel_mac(peer.subnet_index): (peer.host, peer.port) for peer in reachable},
        neighbours={
            neighbour: tunnel_mac(peer.subnet_index)
            for peer in reachable
            for neighbour in (tunnel_neighbour_v4(peer.subnet_index), tunnel_neighbour_v6(peer.subnet_index))
        },
        routes=ways,
    )


def only_v4(found: Paths) -> Paths:
    """Return what of the paths a machine without IPv6 can use."""
    return Paths(
        forwarding=found.forwarding,
        neighbours={key: mac for key, mac in found.neighbours.items() if isinstance(key, IPv4Address)},
        routes={key: way for key, way in found.routes.items() if isinstance(key, IPv4Network)},
    )
