"""The machine's part of the overlay, behind one protocol.

What should be is a value (`Overlay`); `apply` makes the kernel so and can be repeated for ever. Knows nothing of
tiers, phases or desired sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from oakestra.model.address import Peer, Route, Subnet
from oakestra.model.ids import OrganizationId
from oakestra.model.service import InstanceAddress, PublishedPort


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An instance's place in the network. `number` is the worker's local number of the instance."""

    number: int
    namespace: InstanceAddress
    """Its addresses on this worker's subnet."""
    tenant: OrganizationId = OrganizationId("")
    """Whose it is: instances of one tenant reach each other, those of two do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Other instances see what a local instance sends as coming from its semantic address."""

    namespace: InstanceAddress
    instance: InstanceAddress
    tenant: OrganizationId = OrganizationId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A port of this machine that leads to a local instance."""

    port: PublishedPort
    namespace: InstanceAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """All that the kernel should do for this worker."""

    subnets: tuple[Subnet, ...] = ()
    subnet_index: int = 0
    routes: tuple[Route, ...] = ()
    sources: tuple[Source, ...] = ()
    publications: tuple[Publication, ...] = ()
    peers: tuple[Peer, ...] = ()
    underlay_v4: str = ""
    """This machine's address towards its peers; only needed when there are peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What `apply` could not do, each with its reason; empty when all is as wished."""

    refused_ports: tuple[tuple[PublishedPort, str], ...] = field(default=())


class Network(Protocol):
    """Gives instances their network. Every call is idempotent and touches only what carries this worker's name.

    Calls raise `model.errors.Unavailable` or `model.errors.Rejected` with a sentence that a user can act on.
    """

    async def prepare(self, overlay: Overlay) -> None:
        """Have the gateway, forwarding and rules ready for `overlay.subnets`; adopt what an earlier agent left.

        Raises `Rejected` naming the route if the machine already uses the overlay's addresses otherwise.
        """

    async def attach(self, endpoint: Endpoint) -> str:
        """Give the instance a network namespace with address and route; return the namespace's path."""

    async def detach(self, number: int) -> None:
        """Take the instance's namespace and link away and end its open connections. No-op when there is none."""

    async def attached(self) -> Sequence[int]:
        """Return the numbers that have a network namespace now."""

    async def apply(self, overlay: Overlay) -> Applied:
        """Make the kernel's maps equal to `overlay`: one transaction, only the differences, no packet lost."""

    def name_servers(self) -> tuple[str, ...]:
        """Return the name servers that instances should ask: the machine's own, none of them loopback."""

    async def remove(self) -> None:
        """Take everything of this worker out of the kernel."""
