"""One production worker on whatever machine a test gives it, and a stand-in for its cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from oakestra.control.clock import Clock
from oakestra.model.address import Backend, Route, RouteKind, host_address, worker_subnet
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus
from oakestra.model.machine import Capacity, MachineUsage
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.network import Network
from oakestra.runtime import Runtime
from oakestra.store.fake import FakeCell
from oakestra.transport import Channel
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import (
    AssignedInstance,
    JoinWorker,
    Version,
    WorkerAssignment,
    WorkerJoined,
    WorkerReport,
    decode,
    encode,
)
from oakestra.worker.health.probes import Prober
from oakestra.worker.tier import Worker

WORKER, CLUSTER = WorkerId("a" * 24), ClusterId("c" * 24)
SERVICE_IP = InstanceAddress(v4="10.30.0.1")


@dataclass(slots=True)
class Box:
    """Implements `Machine`: has enough of everything."""

    def capacity(self) -> Capacity:
        return Capacity(architecture="amd64", virtualizations=("docker",))

    def usage(self) -> MachineUsage:
        return MachineUsage()

    def trouble(self) -> str:
        return ""


@dataclass
class OneWorker:
    """The agent comes and goes; its file, its machine and what was heard of it stay."""

    runtime: Callable[[], Runtime]
    network: Callable[[], Network]
    prober: Callable[[Runtime], Prober]
    clock: Clock
    group: asyncio.TaskGroup
    cell: FakeCell = field(default_factory=FakeCell)
    statuses: list[tuple[float, InstanceStatus]] = field(default_factory=list)
    """Whatever was reported of any instance and differed from before, with the time."""
    tier: Worker | None = None

    def __post_init__(self) -> None:
        self._hub = FakeHub(Random(1))
        self._link = self._hub.link(CLUSTER, parent=None)
        self._link.listen(self._heard, lambda peer, connected: self._send() if connected else None)
        self._task: asyncio.Task[None] | None = None
        self._assignment: WorkerAssignment | None = None
        self._connection = self.group.create_task(self._link.run())

    def assign(self, *specs: ServiceSpec) -> None:
        """Have one instance of each service run, and let all of them be behind `SERVICE_IP`."""
        before = self._assignment.version.generation if self._assignment else 0
        instances = tuple(
            AssignedInstance(
                key=InstanceKey(spec.id, 0, 1, 1), address=InstanceAddress(v4=f"10.30.1.{number}")
            )
            for number, spec in enumerate(specs, 1)
        )
        subnet = worker_subnet(0)
        backends = tuple(
            Backend(slot=0, address=host_address(subnet, 1 + number), local=True)
            for number, _ in enumerate(specs, 1)
        )
        route = Route(
            service=ServiceId("f" * 24), kind=RouteKind.ROUND_ROBIN, address=SERVICE_IP, backends=backends
        )
        self._assignment = WorkerAssignment(
            version=Version(epoch=1, generation=before + 1),
            services=specs,
            instances=instances,
            subnets=(subnet,),
            routes=(route,),
        )
        self._send()

    def reroute(self, *ends: str) -> None:
        """Have `SERVICE_IP` lead to these addresses elsewhere instead; nothing else changes."""
        assert self._assignment is not None
        (route,) = self._assignment.routes
        backends = tuple(
            Backend(slot=slot, address=InstanceAddress(v4=end), local=False) for slot, end in enumerate(ends)
        )
        self._assignment = replace(
            self._assignment,
            version=replace(self._assignment.version, generation=self._assignment.version.generation + 1),
            routes=(replace(route, backends=backends),),
        )
        self._send()

    @property
    def now(self) -> dict[ServiceId, InstanceStatus]:
        """Return what was last heard of each service's instance."""
        return {status.key.service: status for _, status in self.statuses}

    def start(self) -> None:
        """Start the agent."""
        self._task = self.group.create_task(self._live())

    async def kill(self) -> None:
        """Kill the agent: what it was about to do is not done."""
        assert self._task is not None
        self._hub.remove(WORKER)
        self._task.cancel()
        await asyncio.wait({self._task})
        self.tier = None

    def leave(self) -> None:
        """Take the cluster away."""
        self._connection.cancel()

    async def _live(self) -> None:
        runtime = self.runtime()
        self.tier = Worker(
            self.cell,
            runtime,
            self.network(),
            Box(),
            join=self._join,
            connect=lambda joined: self._hub.link(joined.id, parent=CLUSTER),
            request=JoinWorker(key="key", name="w1", capacity=Capacity(), id=WORKER),
            underlay_v4="192.0.2.1",
            clock=self.clock,
            stop_grace_s=0.5,
            prober=self.prober(runtime),
        )
        with contextlib.suppress(asyncio.CancelledError):
            await self.tier.run()

    async def _join(self, request: JoinWorker) -> WorkerJoined:
        return WorkerJoined(id=request.id, cluster=CLUSTER, cluster_name="east", mqtt_port=1)

    def _send(self) -> None:
        if self._assignment is not None:
            self._link.send(WORKER, Channel.SET, encode(self._assignment))

    def _heard(self, peer: str, channel: Channel, payload: bytes) -> None:
        if channel is not Channel.SET:
            return
        for status in decode(payload, WorkerReport).statuses:
            bare = replace(status, sequence=0)
            if self.now.get(status.key.service) != bare:
                self.statuses.append((self.clock.uptime_s(), bare))


def service(number: int = 1, **keys: Any) -> ServiceSpec:
    """Return a service of which an instance may run."""
    return ServiceSpec(
        **{
            "id": ServiceId(f"{number:024x}"),
            "application_id": ApplicationId("b" * 24),
            "tenant": OrganizationId("d" * 24),
            "name": f"shop.prod.web{number}.front",
            "image": "image",
            **keys,
        }
    )
