"""Addresses of the overlay: worker subnets, service IPs, and the routes between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address, ip_interface

from oakestra.model.ids import OrganizationId, ServiceId
from oakestra.model.service import InstanceAddress

SERVICE_NETWORK_V4 = "10.30.0.0/16"
SERVICE_NETWORK_V6 = "fdff::/16"
OVERLAY_NETWORK_V4 = "10.16.0.0/12"
OVERLAY_NETWORK_V6 = "fc00::/7"
WORKER_NETWORK_V6 = "fd18::/48"
"""All workers' IPv6 subnets; their IPv4 ones are in OVERLAY_NETWORK_V4."""


class RouteKind(StrEnum):
    """What a semantic address means."""

    ROUND_ROBIN = "round_robin"
    """Any ready instance, at random for every connection."""
    CLOSEST = "closest"
    """The nearest ready instance."""
    INSTANCE = "instance"
    """One slot, wherever it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where an instance really is: its addresses on its worker's subnet."""

    slot: int
    address: InstanceAddress
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A semantic address and the ready instances it leads to. No backends: refuse, do not wait."""

    service: ServiceId
    kind: RouteKind
    address: InstanceAddress
    backends: tuple[Backend, ...] = ()
    tenant: OrganizationId = OrganizationId("")
    """Only instances of the same tenant may use it."""
    senders: tuple[InstanceAddress, ...] = ()
    """Kind INSTANCE: addresses on workers' subnets of all that runs for the slot, ready or not. What comes from there
    is the tenant's, and is seen as coming from `address`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """Addresses a worker may give to its instances. The first host address is the bridge's."""

    v4: str
    """CIDR, e.g. `10.18.0.64/26`."""
    v6: str
    """CIDR, e.g. `fd18:0:0:1::/120`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another worker, reachable through the tunnel."""

    subnet_index: int
    subnets: tuple[Subnet, ...]
    host: str
    port: int = 50103


SUBNETS_MAX = 1 << 14
INSTANCES_PER_SUBNET = 60
"""A /26 less network, broadcast, bridge, and one to spare."""
_FIRST_SUBNET_V4 = int(ip_address("10.18.0.0"))
_FIRST_SUBNET_V6 = int(ip_address("fd18::"))


@lru_cache(maxsize=4096)
def worker_subnet(index: int) -> Subnet:
    """Return the index-th worker subnet: a /26 from 10.18.0.0 upwards and a /120 under fd18::/32."""
    assert 0 <= index < SUBNETS_MAX, "subnet indexes have 14 bits"
    v4 = ip_address(_FIRST_SUBNET_V4 + 64 * index)
    v6 = ip_address(_FIRST_SUBNET_V6 + (index << 64))
    return Subnet(v4=f"{v4}/26", v6=f"{v6}/120")


def subnet_around(v4: str) -> Subnet:
    """Return the worker subnet that an instance's own address belongs to."""
    return worker_subnet((int(ip_address(v4)) - _FIRST_SUBNET_V4) // 64)


def subnet_index(subnet: Subnet) -> int:
    """Return the index of a worker subnet."""
    return (int(ip_interface(subnet.v4).network.network_address) - _FIRST_SUBNET_V4) // 64


@lru_cache(maxsize=4096)
def host_address(subnet: Subnet, host: int) -> InstanceAddress:
    """Return address number `host` of a subnet; 1 is the bridge, instances begin at 2."""
    v4 = ip_interface(subnet.v4).network.network_address + host
    v6 = ip_interface(subnet.v6).network.network_address + host
    return InstanceAddress(v4=str(v4), v6=str(v6))
