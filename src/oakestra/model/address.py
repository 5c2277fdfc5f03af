"""Addresses of the overlay: worker subnets, service IPs, and the routes between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from oakestra.model.ids import ServiceId
from oakestra.model.service import InstanceAddress

SERVICE_NETWORK_V4 = "10.30.0.0/16"
SERVICE_NETWORK_V6 = "fdff::/16"
OVERLAY_NETWORK_V4 = "10.16.0.0/12"
OVERLAY_NETWORK_V6 = "fc00::/7"


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
