"""Keep the machine's part of the overlay as it should be, and remember what it would not do."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from oakestra.control.clock import Clock
from oakestra.model.address import Subnet
from oakestra.model.errors import OakestraError
from oakestra.network import Network, Overlay
from oakestra.worker.desired import Desired
from oakestra.worker.observe import Observed
from oakestra.worker.overlay import basis, overlay
from oakestra.worker.plan import running

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""So long the network may resist a change before instances that already serve are called not ready."""


class Plumbing:
    """The network of one machine, as one agent sees it."""

    def __init__(self, network: Network, *, underlay_v4: str, clock: Clock, prepare_every_s: float) -> None:
        self.refused_ports: Mapping[tuple[str, int], str] = {}
        """Published ports that the machine would not give, and why."""
        self.unserved: set[int] = set()
        """Instances that this agent started and that no change of the network took into account yet."""
        self.trouble = ""
        """Why the network is not as it should be; empty when it is."""
        self._network = network
        self._underlay_v4 = underlay_v4
        self._clock = clock
        self._prepare_every_s = prepare_every_s
        self._prepared_for: tuple[Subnet, ...] = ()
        self._prepare_due_s = 0.0
        self._troubled_since_s = 0.0
        self._last: tuple[Desired, tuple[object, ...], Overlay] | None = None
        """The last overlay, and what it followed from."""

    @property
    def lasting_trouble(self) -> str:
        """What is wrong, once it lasts. A moment's trouble is no reason to tell the whole fleet: the kernel goes on
        as before."""
        lasts = self.trouble and self._clock.uptime_s() - self._troubled_since_s >= PATIENCE_S
        return self.trouble if lasts else ""

    async def prepare(self, observed: Observed) -> None:
        """Have the ground ready that instances are attached to."""
        subnets, now_s = observed.desired.subnets, self._clock.uptime_s()
        if not subnets or (self._prepared_for == subnets and now_s < self._prepare_due_s):
            return
        self._prepared_for = ()
        try:
            await self._network.prepare(self._overlay(observed))
        except OakestraError as error:
            self._note(error)
            return
        self._prepared_for = subnets
        self._prepare_due_s = now_s + self._prepare_every_s

    async def apply(self, observed: Observed) -> None:
        """Let the kernel do what should be done now."""
        if not self._prepared_for:
            return
        try:
            applied = await self._network.apply(self._overlay(observed))
        except OakestraError as error:
            self._note(error)
            return
        self.trouble = ""
        self.unserved -= {instance.number for instance in running(observed)}
        self.refused_ports = {
            (port.protocol.value, port.host_port): why for port, why in applied.refused_ports
        }

    def _overlay(self, observed: Observed) -> Overlay:
        desired, follows = observed.desired, basis(observed)
        if self._last is None or self._last[0] is not desired or self._last[1] != follows:
            self._last = (desired, follows, overlay(observed, underlay_v4=self._underlay_v4))
        return self._last[2]

    def _note(self, error: OakestraError) -> None:
        if self.trouble != str(error):
            logger.warning("the network is not as it should be, will repeat", extra={"error": error})
        if not self.trouble:
            self._troubled_since_s = self._clock.uptime_s()
        self.trouble = str(error)
