"""Render what each worker should have: its instances, and the routes and peers they need. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.render.serving import serving
from oakestra.model.address import Backend, Peer, Route, RouteKind, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, Slot
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.wire.native import AssignedInstance, ClusterAssignment, Version, WorkerAssignment


@dataclass(frozen=True, slots=True)
class _Ready:
    """A ready instance, wherever it is."""

    number: int
    instance: InstanceAddress
    namespace: InstanceAddress
    worker: WorkerId | None
    """None: in another cluster."""


def worker_assignments(
    observed: Observed, remote: ClusterAssignment | None
) -> dict[WorkerId, WorkerAssignment]:
    """Return what each worker should have, without versions."""
    routes = _Routes(observed, remote)
    held: defaultdict[WorkerId, list[AssignedInstance]] = defaultdict(list)
    for _, record in sorted(observed.slots.items()):
        for worker_id, key in record.attempts:
            continues = record.continued_key if key == record.key else None
            held[worker_id].append(AssignedInstance(key=key, address=record.address, continues=continues))
    withdrawn: defaultdict[WorkerId, list[InstanceKey]] = defaultdict(list)
    for id, key in sorted(observed.withdrawals):
        withdrawn[id].append(key)
    return {
        id: _assignment(observed, worker, held[id], withdrawn[id], routes)
        for id, worker in sorted(observed.workers.items())
    }


def _assignment(
    observed: Observed,
    worker: WorkerSeen,
    held: list[AssignedInstance],
    withdrawn: list[InstanceKey],
    routes: _Routes,
) -> WorkerAssignment:
    services = sorted({instance.key.service for instance in held} & observed.services.keys())
    present = {*services, *(key.service for key in (*withdrawn, *worker.statuses))} & observed.services.keys()
    tenants = sorted({observed.services[service].tenant for service in present})
    indexes = worker.record.subnet_indexes
    return WorkerAssignment(
        version=Version(),
        services=tuple(observed.services[service] for service in services),
        instances=tuple(held),
        withdrawn=tuple(withdrawn),
        subnets=tuple(worker_subnet(index) for index in indexes),
        subnet_index=indexes[0] if indexes else 0,
        routes=tuple(route for tenant in tenants for route in routes.of(tenant, worker.record.id)),
        peers=tuple(routes.peers(tenants, worker.record.id)),
    )


class _Routes:
    """Semantic addresses of every tenant's services, worked out once for all workers."""

    def __init__(self, observed: Observed, remote: ClusterAssignment | None) -> None:
        self._observed = observed
        self._remote_peers = remote.peers if remote else ()
        self._ready: defaultdict[ServiceId, list[_Ready]] = defaultdict(list)
        self._slots: defaultdict[ServiceId, dict[int, InstanceAddress]] = defaultdict(dict)
        self._senders = _senders(observed)
        self._tenants: defaultdict[OrganizationId, list[ServiceSpec]] = defaultdict(list)
        elsewhere = {spec.id: spec for spec in remote.remote_services} if remote else {}
        for _, spec in sorted((elsewhere | dict(observed.services)).items()):
            self._tenants[spec.tenant].append(spec)
        for slot, record in sorted(observed.slots.items()):
            self._slots[slot.service][slot.number] = record.address
            (worker, _), status = serving(observed, record)
            if status is not None and status.ready and worker is not None and not record.turned:
                ready = _Ready(slot.number, record.address, status.namespace, worker)
                self._ready[slot.service].append(ready)
        for other in remote.remotes if remote else ():
            self._slots[other.placed.service].setdefault(other.placed.number, other.instance)
            self._senders[other.placed.slot].append(other.namespace)
            if other.ready:
                self._ready[other.placed.service].append(
                    _Ready(other.placed.number, other.instance, other.namespace, None)
                )

    def of(self, tenant: OrganizationId, worker: WorkerId) -> Iterator[Route]:
        """Yield every route that instances of the tenant on this worker may use."""
        for spec in self._tenants[tenant]:
            backends = tuple(
                Backend(slot=ready.number, address=ready.namespace, local=ready.worker == worker)
                for ready in self._ready[spec.id]
            )
            yield from _service_routes(spec, backends)
            by_slot = {backend.slot: backend for backend in backends}
            for number, address in sorted(self._slots[spec.id].items()):
                mine = (by_slot[number],) if number in by_slot else ()
                yield Route(
                    service=spec.id,
                    kind=RouteKind.INSTANCE,
                    address=address,
                    backends=mine,
                    tenant=tenant,
                    senders=tuple(self._senders[Slot(spec.id, number)]),
                )

    def peers(self, tenants: list[OrganizationId], worker: WorkerId) -> Iterator[Peer]:
        """Yield every other worker that runs instances of these tenants."""
        services = {spec.id for tenant in tenants for spec in self._tenants[tenant]}
        others = {
            holder
            for slot, record in self._observed.slots.items()
            for holder, _ in record.attempts
            if slot.service in services and holder != worker
        }
        others |= {
            id
            for id, seen in self._observed.workers.items()
            if id != worker and any(key.service in services for key in seen.statuses)
        }
        for id in sorted(others):
            seen = self._observed.workers.get(id)
            if seen is not None and seen.record.host and seen.record.subnet_indexes:
                yield _peer(seen)
        yield from self._remote_peers if tenants else ()


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


def _peer(worker: WorkerSeen) -> Peer:
    record = worker.record
    return Peer(
        subnet_index=record.subnet_indexes[0],
        subnets=tuple(worker_subnet(index) for index in record.subnet_indexes),
        host=record.host,
        port=record.tunnel_port,
    )
