"""A network in memory, that fails when told to. What is in its `FakeKernel` survives the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from oakestra.model.errors import Unavailable
from oakestra.model.service import InstanceAddress
from oakestra.network import Applied, Endpoint, Overlay


@dataclass
class FakeKernel:
    """What survives an agent: namespaces and rules of one machine."""

    attached: dict[int, Endpoint] = field(default_factory=dict)
    overlay: Overlay = field(default_factory=Overlay)
    prepared: bool = False
    ports_taken: dict[int, str] = field(default_factory=dict)
    """Host ports of other programs, and whose they are."""
    failures: int = 0
    """Calls that failed because they were told to."""

    def leads_to(self, semantic: InstanceAddress) -> tuple[InstanceAddress, ...]:
        """Return the namespace addresses that a semantic address leads to from here."""
        for route in self.overlay.routes:
            if route.address == semantic:
                return tuple(backend.address for backend in route.backends)
        return ()


class FakeNetwork:
    """Implements `Network` on a `FakeKernel`."""

    def __init__(
        self, kernel: FakeKernel, *, random: Random, failure_ratio: float = 0.0, latency_s: float = 0.0
    ) -> None:
        self.kernel = kernel
        self.failure_ratio = failure_ratio
        self.latency_s = latency_s
        self._random = random

    async def prepare(self, overlay: Overlay) -> None:
        del overlay
        await self._work()
        self.kernel.prepared = True

    async def attach(self, endpoint: Endpoint) -> str:
        await self._work()
        if not self.kernel.prepared:
            raise Unavailable("the machine's network is not ready yet")
        self.kernel.attached[endpoint.number] = endpoint
        return f"/run/netns/fake-{endpoint.number}"

    async def detach(self, number: int) -> None:
        await self._work()
        self.kernel.attached.pop(number, None)

    async def attached(self) -> Sequence[int]:
        return tuple(sorted(self.kernel.attached))

    async def apply(self, overlay: Overlay) -> Applied:
        await self._work()
        self.kernel.overlay = overlay
        refused = tuple(
            (publication.port, f"port {publication.port.host_port} is taken by {owner}")
            for publication in overlay.publications
            if (owner := self.kernel.ports_taken.get(publication.port.host_port))
        )
        return Applied(refused_ports=refused)

    def name_servers(self) -> tuple[str, ...]:
        return ("192.0.2.53",)

    async def remove(self) -> None:
        self.kernel.attached.clear()
        self.kernel.overlay = Overlay()
        self.kernel.prepared = False

    async def _work(self) -> None:
        await asyncio.sleep(self._random.uniform(0, self.latency_s))
        if self._random.random() < self.failure_ratio:
            self.kernel.failures += 1
            raise Unavailable("told to fail")
