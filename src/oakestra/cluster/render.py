"""Render a cluster's records as what it sends: an assignment per worker, and its report to root. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from oakestra.cluster.claims import claims
from oakestra.cluster.ledger import free_of
from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.state import SlotRecord
from oakestra.model.address import Backend, Peer, Route, RouteKind, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.service import InstanceAddress, Resources, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.request import WorkerCandidate
from oakestra.wire.native import (
    Aggregate,
    AssignedInstance,
    ClusterAssignment,
    ClusterReport,
    Refusal,
    Version,
    WorkerAssignment,
    WorkerSummary,
)

UNVERSIONED = Version()


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
            held[worker_id].append(AssignedInstance(key=key, address=record.address))
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
        version=UNVERSIONED,
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


Attempt = tuple[WorkerId | None, InstanceKey]


def serving(observed: Observed, record: SlotRecord) -> tuple[Attempt, InstanceStatus | None]:
    """Return which attempt a slot's traffic goes to, and what was seen of it: the current one, if it is proven or alone.

    An earlier one of which nothing was heard since this process started may well serve: it is not given up for that.
    """
    current = _status(observed, record.worker, record.key)
    proven = current is not None and current.ready and record.key not in observed.unproven_s
    if record.leaving is None or proven:
        return (record.worker, record.key), current
    holder = observed.workers.get(record.leaving.worker)
    earlier = _status(observed, record.leaving.worker, record.leaving_key)
    unheard = holder is not None and not holder.reported and holder.liveness is not Liveness.LOST
    if unheard or (earlier is not None and earlier.ready):
        reason = _replacing(observed, record, current)
        told = replace(earlier, reason=reason) if earlier is not None else None
        return (record.leaving.worker, record.leaving_key), told
    return (record.worker, record.key), current


def _status(observed: Observed, worker: WorkerId | None, key: InstanceKey) -> InstanceStatus | None:
    """Return what was last seen of an attempt; on a lost worker nothing is ready, whatever it said before."""
    seen = observed.workers.get(worker) if worker else None
    status = seen.statuses.get(key) if seen else None
    if seen is None or status is None or seen.liveness is not Liveness.LOST:
        return status
    return replace(
        status, ready=False, reason=f"worker {seen.record.name} is lost: {status.reason or 'no news'}"
    )


def _replacing(observed: Observed, record: SlotRecord, successor: InstanceStatus | None) -> str:
    worker = observed.workers.get(record.worker) if record.worker else None
    if worker is None:
        return f"is being replaced; no worker takes its successor yet: {record.reason}"
    far = f"{Phase(successor.phase).name} {successor.reason}".strip() if successor else "not seen yet"
    return f"is being replaced by an attempt on {worker.record.name}: {far}"


def cluster_report(observed: Observed, *, applied: Version, vcpu_overcommit: float) -> ClusterReport:
    """Return what root should know, without a version."""
    candidates = free_of(observed, vcpu_overcommit=vcpu_overcommit)
    return ClusterReport(
        version=UNVERSIONED,
        applied=applied,
        complete=not observed.adopting,
        store=observed.epoch,
        statuses=tuple(_statuses(observed)),
        successors=tuple(_successors(observed)),
        refusals=tuple(_refusals(observed)),
        claims=tuple(claims(observed)),
        aggregates=tuple(_aggregates(candidates)),
        workers=tuple(_summary(observed.workers[id], candidates[id]) for id in sorted(candidates)),
    )


def _refusals(observed: Observed) -> Iterator[Refusal]:
    """Yield what no worker here can take, once all workers that seem to be there have said what they hold."""
    if observed.adopting or any(
        worker.liveness is not Liveness.LOST and not worker.reported for worker in observed.workers.values()
    ):
        return
    for _, record in sorted(observed.slots.items()):
        spec = observed.services.get(record.placed.service)
        stays = spec is not None and record.may_still_run(spec)
        if record.worker is None and record.leaving is None and record.reason and not stays:
            yield Refusal(placed=record.placed, reason=record.reason)


def _statuses(observed: Observed) -> Iterator[InstanceStatus]:
    for _, record in sorted(observed.slots.items()):
        (worker, key), status = serving(observed, record)
        if status is not None:
            yield replace(status, worker=worker or WorkerId(""))
        elif worker is not None:
            yield InstanceStatus(
                key=key,
                phase=Phase.WORKER_ASSIGNED,
                reason=_not_begun(observed, record, worker),
                worker=worker,
            )
        else:
            yield InstanceStatus(key=record.key, phase=Phase.CLUSTER_ASSIGNED, reason=record.reason)
    for (id, key), withdrawal in sorted(observed.withdrawals.items()):
        record_now = observed.slots.get(key.slot)
        if record_now is not None and record_now.placed == key.placed:
            continue  # the placement lives on; its earlier attempts are this cluster's own business
        holder = observed.workers.get(id)
        seen = holder.statuses.get(key) if holder else None
        phase = Phase.WORKER_ASSIGNED if seen is None else seen.phase
        status = seen or InstanceStatus(key=key, phase=phase)
        yield replace(status, worker=id, ready=False, reason=withdrawal.reason)


def _successors(observed: Observed) -> Iterator[InstanceStatus]:
    """Yield the attempts that are to replace one which still serves."""
    for _, record in sorted(observed.slots.items()):
        (worker, _), _ = serving(observed, record)
        status = _status(observed, record.worker, record.key)
        if record.leaving is not None and worker == record.leaving.worker and status is not None:
            yield status


def _not_begun(observed: Observed, record: SlotRecord, id: WorkerId) -> str:
    """Say why an instance was not seen on its worker: what the worker complains of, or why it was chosen."""
    worker = observed.workers.get(id)
    return f"{worker.record.name}: {worker.trouble}" if worker and worker.trouble else record.reason


def _aggregates(candidates: Mapping[WorkerId, WorkerCandidate]) -> Iterator[Aggregate]:
    groups: defaultdict[tuple[str, str], list[WorkerCandidate]] = defaultdict(list)
    for candidate in candidates.values():
        if not candidate.unusable:
            for virtualization in candidate.capacity.virtualizations:
                groups[candidate.capacity.architecture, virtualization].append(candidate)
    for (architecture, virtualization), members in sorted(groups.items()):
        yield Aggregate(
            architecture=architecture,
            virtualization=virtualization,
            workers=len(members),
            total=sum((member.total for member in members), Resources()),
            free=sum((member.free for member in members), Resources()),
            largest_free=_largest([member.free for member in members]),
        )


def _largest(pieces: list[Resources]) -> Resources:
    return Resources(
        memory_mib=max(piece.memory_mib for piece in pieces),
        vcpus=max(piece.vcpus for piece in pieces),
        vgpus=max(piece.vgpus for piece in pieces),
        vtpus=max(piece.vtpus for piece in pieces),
        storage_mib=max(piece.storage_mib for piece in pieces),
    )


def _summary(worker: WorkerSeen, candidate: WorkerCandidate) -> WorkerSummary:
    return WorkerSummary(
        id=worker.record.id,
        name=worker.record.name,
        host=worker.record.host,
        live=worker.liveness is not Liveness.LOST and worker.reported,
        liveness=worker.liveness.value,
        instances=candidate.instances,
        capacity=worker.record.capacity,
        free=candidate.free,
        tunnel_port=worker.record.tunnel_port,
        subnet_indexes=worker.record.subnet_indexes,
        trouble=worker.trouble,
        availability=worker.record.availability.value,
    )
