"""Where semantic addresses lead, and which machines speak to each other for it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from oakestra.cluster.observe import Observed
from oakestra.cluster.render.serving import serving
from oakestra.model.address import Backend, Peer, Route, RouteKind, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import Slot
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.wire.native import ClusterAssignment


class Ready(NamedTuple):
    """A ready instance, wherever it is."""

    number: int
    instance: InstanceAddress
    namespace: InstanceAddress
    worker: WorkerId | None
    """None: in another cluster."""

    def backend(self, worker: WorkerId | None) -> Backend:
        """Return it as instances on this worker are led to it."""
        local = worker is not None and self.worker == worker
        return Backend(slot=self.number, address=self.namespace, local=local)


class Routes:
    """Semantic addresses of every tenant's services, worked out once for all workers."""

    def __init__(
        self,
        observed: Observed,
        remote: ClusterAssignment | None,
        before: Mapping[OrganizationId, tuple[object, tuple[Led, ...]]],
    ) -> None:
        self.led: dict[OrganizationId, tuple[object, tuple[Led, ...]]] = {}
        """What of each tenant's routes follows from, and the routes."""
        self._before = before
        self._observed = observed
        self._remote_peers = remote.peers if remote else ()
        self._ready: defaultdict[ServiceId, list[Ready]] = defaultdict(list)
        self._slots: defaultdict[ServiceId, dict[int, InstanceAddress]] = defaultdict(dict)
        self._senders = _senders(observed)
        self._present: dict[OrganizationId, frozenset[WorkerId]] = {}
        self._peers: dict[WorkerId, Peer] = {
            id: _peer(seen.record.subnet_indexes, seen.record.host, seen.record.tunnel_port)
            for id, seen in observed.workers.items()
            if seen.record.host and seen.record.subnet_indexes
        }
        self._tenants: defaultdict[OrganizationId, list[ServiceSpec]] = defaultdict(list)
        elsewhere = {spec.id: spec for spec in remote.remote_services} if remote else {}
        for _, spec in sorted((elsewhere | dict(observed.services)).items()):
            self._tenants[spec.tenant].append(spec)
        for slot, record in sorted(observed.slots.items()):
            self._slots[slot.service][slot.number] = record.address
            (worker, _), status = serving(observed, record)
            if status is not None and status.ready and worker is not None and not record.turned:
                ready = Ready(slot.number, record.address, status.namespace, worker)
                self._ready[slot.service].append(ready)
        for other in remote.remotes if remote else ():
            self._slots[other.placed.service].setdefault(other.placed.number, other.instance)
            self._senders[other.placed.slot].append(other.namespace)
            if other.ready:
                self._ready[other.placed.service].append(
                    Ready(other.placed.number, other.instance, other.namespace, None)
                )

    def of(self, tenant: OrganizationId) -> tuple[Led, ...]:
        """Return every route that instances of the tenant may use."""
        if tenant not in self.led:
            facts = [self._facts(spec) for spec in self._tenants[tenant]]
            known, led = self._before.get(tenant, (None, ()))
            self.led[tenant] = (facts, led if known == facts else tuple(self._lead(tenant)))
        return self.led[tenant][1]

    def _facts(self, spec: ServiceSpec) -> tuple[object, ...]:
        """Return all that the routes of a service follow from."""
        slots = self._slots[spec.id]
        senders = [self._senders[Slot(spec.id, number)] for number in slots]
        return (spec, self._ready[spec.id], slots, senders)

    def _lead(self, tenant: OrganizationId) -> Iterator[Led]:
        """Yield every route of a tenant, as it is on workers that run none of what it leads to."""
        for spec in self._tenants[tenant]:
            ready = tuple(self._ready[spec.id])
            backends = tuple(one.backend(None) for one in ready)
            holders = frozenset(one.worker for one in ready)
            for route in _service_routes(spec, backends):
                yield Led(route, ready, holders)
            by_slot = {one.number: one for one in ready}
            for number, address in sorted(self._slots[spec.id].items()):
                mine = (by_slot[number],) if number in by_slot else ()
                route = Route(
                    service=spec.id,
                    kind=RouteKind.INSTANCE,
                    address=address,
                    backends=tuple(one.backend(None) for one in mine),
                    tenant=tenant,
                    senders=tuple(self._senders[Slot(spec.id, number)]),
                )
                yield Led(route, mine, frozenset(one.worker for one in mine))

    def peers(self, tenants: list[OrganizationId], worker: WorkerId) -> Iterator[Peer]:
        """Yield every other worker that runs instances of these tenants."""
        others = {id for tenant in tenants for id in self._holders(tenant)} - {worker}
        yield from (self._peers[id] for id in sorted(others & self._peers.keys()))
        yield from self._remote_peers if tenants else ()

    def _holders(self, tenant: OrganizationId) -> frozenset[WorkerId]:
        """Return the workers that have, or still report, instances of a tenant."""
        if tenant not in self._present:
            services = {spec.id for spec in self._tenants[tenant]}
            mine = [record for slot, record in self._observed.slots.items() if slot.service in services]
            reporting = [
                id
                for id, seen in self._observed.workers.items()
                if any(key.service in services for key in seen.statuses)
            ]
            self._present[tenant] = frozenset(
                (*reporting, *(holder for record in mine for holder, _ in record.attempts))
            )
        return self._present[tenant]


class Led(NamedTuple):
    """A route, what it leads to, and the workers that run some of that."""

    route: Route
    ready: tuple[Ready, ...]
    workers: frozenset[WorkerId | None]

    def on(self, worker: WorkerId) -> Route:
        """Return the route as it is on a worker."""
        route = self.route
        if worker not in self.workers:
            return route
        return Route(
            service=route.service,
            kind=route.kind,
            address=route.address,
            backends=tuple([one.backend(worker) for one in self.ready]),
            tenant=route.tenant,
            senders=route.senders,
        )


def _service_routes(spec: ServiceSpec, backends: tuple[Backend, ...]) -> Iterator[Route]:
    addresses = spec.addresses
    for kind, address in (
        (RouteKind.ROUND_ROBIN, addresses.round_robin),
        (RouteKind.CLOSEST, addresses.closest),
    ):
        if address != InstanceAddress():
            yield Route(service=spec.id, kind=kind, address=address, backends=backends, tenant=spec.tenant)


def _senders(observed: Observed) -> defaultdict[Slot, list[InstanceAddress]]:
    """Return where something runs for each slot: attempts that start, serve, or are on their way out."""
    found: defaultdict[Slot, list[InstanceAddress]] = defaultdict(list)
    for _, worker in sorted(observed.workers.items()):
        for key, status in sorted(worker.statuses.items()):
            if status.namespace != InstanceAddress():
                found[key.slot].append(status.namespace)
    return found


@lru_cache(maxsize=4096)
def _peer(subnet_indexes: tuple[int, ...], host: str, port: int) -> Peer:
    return Peer(
        subnet_index=subnet_indexes[0],
        subnets=tuple(worker_subnet(index) for index in subnet_indexes),
        host=host,
        port=port,
    )
