"""Render root's records as what it sends: one assignment per cluster. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from oakestra.model.address import Peer, worker_subnet
from oakestra.model.ids import ClusterId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceStatus, Placement, Slot, is_done
from oakestra.model.service import InstanceAddress
from oakestra.root.observe import Observed
from oakestra.root.state import ServiceRecord, SlotRecord
from oakestra.scheduling.liveness import Liveness
from oakestra.wire.native import (
    AssignedSlot,
    ClusterAssignment,
    Origin,
    RemoteInstance,
    Version,
    WorkerSummary,
)


@dataclass(frozen=True, slots=True)
class _Present:
    """An attempt that runs somewhere, as others may need it for routes."""

    record: SlotRecord
    cluster: ClusterId
    status: InstanceStatus
    serves: bool
    """Others are led to it."""


def cluster_assignments(observed: Observed) -> dict[ClusterId, ClusterAssignment]:
    """Return what each cluster should have, without versions."""
    held: defaultdict[ClusterId, list[AssignedSlot]] = defaultdict(list)
    for _, record in sorted(observed.slots.items()):
        if record.slot.service in observed.services:
            for cluster, placed in record.rightful:
                held[cluster].append(_assigned(observed, record, placed))
    withdrawn: defaultdict[ClusterId, list[Placement]] = defaultdict(list)
    for placed, withdrawal in sorted(observed.withdrawals.items()):
        withdrawn[withdrawal.cluster].append(placed)
    remote, origins = _Remote(observed), _Origins(observed)
    return {
        id: _assignment(observed, id, held[id], withdrawn[id], remote, origins)
        for id in sorted(observed.clusters)
    }


def _assignment(
    observed: Observed,
    id: ClusterId,
    held: list[AssignedSlot],
    withdrawn: list[Placement],
    remote: _Remote,
    origins: _Origins,
) -> ClusterAssignment:
    services = sorted({assigned.placed.service for assigned in held})
    tenants = {observed.services[service].spec.tenant for service in services}
    elsewhere = remote.present(tenants, besides=id)
    seen = observed.clusters[id].record
    heard_out = seen.heard_epoch == observed.epoch
    return ClusterAssignment(
        version=Version(),
        services=tuple(observed.services[service].spec for service in services),
        slots=tuple(held),
        withdrawn=tuple(withdrawn),
        origins=tuple(origins.of(services)),
        heard_out=heard_out,
        availability=seen.availability.value if heard_out and seen.availability_epoch else "",
        subnet_lease=(seen.subnet_first, seen.subnet_count),
        remote_services=tuple(
            observed.services[service].spec
            for service in sorted({one.record.slot.service for one in elsewhere} - set(services))
        ),
        remotes=tuple(_instance(one) for one in elsewhere),
        peers=tuple(remote.peers(elsewhere)),
        heard=_heard(observed, id),
    )


def _heard(observed: Observed, asker: ClusterId) -> tuple[ClusterId, ...] | None:
    """Return which other clusters these records have heard of, as long as they are new: what the asker needs of them is
    known once it has told itself what it holds."""
    if observed.new_for_s is None:
        return None
    if not observed.clusters[asker].told:
        return ()
    return tuple(id for id, one in sorted(observed.clusters.items()) if one.vouches and id != asker)


def _assigned(observed: Observed, record: SlotRecord, placed: Placement) -> AssignedSlot:
    spec = observed.services[record.slot.service].spec
    seen = record.status if record.status is not None and record.status.key.placed == placed else None
    seen_on = seen.worker if seen is not None and not spec.disconnect.replace else WorkerId("")
    elsewhere = record.aside is not None and placed == record.aside_placed
    turned = elsewhere or (record.turned and placed != record.placed)
    done = record.status if is_done(spec, record.status) else None
    return AssignedSlot(placed=placed, address=record.address, seen_on=seen_on, turned=turned, done=done)


class _Origins:
    """Where services come from, worked out once for all clusters."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._positions: dict[ServiceId, int] = {
            service: position
            for record in observed.applications.values()
            for position, service in enumerate(record.services)
        }

    def of(self, services: Sequence[ServiceId]) -> Iterator[Origin]:
        """Yield the origin of these services, and of every other one of their applications."""
        observed = self._observed
        here = set(services)
        applications = {observed.services[service].spec.application_id for service in services}
        siblings = {
            service
            for application in applications
            for service in observed.applications[application].services
            if service in observed.services and not observed.services[service].deleted
        }
        for service in sorted(here | siblings):
            yield self._origin(observed.services[service], here=service in here)

    def _origin(self, service: ServiceRecord, *, here: bool) -> Origin:
        spec = service.spec
        record = self._observed.applications[spec.application_id]
        return Origin(
            service=spec.id,
            application=record.application,
            organization=self._observed.organizations.get(spec.tenant, ""),
            document=service.document,
            next_slot=service.next_slot,
            removed=service.removed,
            position=self._positions.get(spec.id, 0),
            created_wall_s=record.created_wall_s,
            spec=None if here else spec,
            epoch=self._observed.epoch,
        )


class _Remote:
    """What runs of every tenant, by cluster, worked out once for all clusters."""

    def __init__(self, observed: Observed) -> None:
        self._present: defaultdict[OrganizationId, list[_Present]] = defaultdict(list)
        successors = _successors(observed)
        for slot, record in sorted(observed.slots.items()):
            service = observed.services.get(slot.service)
            if service is not None:
                self._present[service.spec.tenant] += _present(observed, record, successors[slot])
        self._workers: dict[WorkerId, WorkerSummary] = {
            worker.id: worker for cluster in observed.clusters.values() for worker in cluster.workers
        }

    def present(self, tenants: set[OrganizationId], *, besides: ClusterId) -> list[_Present]:
        return [one for tenant in sorted(tenants) for one in self._present[tenant] if one.cluster != besides]

    def peers(self, present: list[_Present]) -> Iterator[Peer]:
        for id in sorted({one.status.worker for one in present}):
            worker = self._workers.get(id)
            if worker is not None and worker.host and worker.subnet_indexes:
                yield Peer(
                    subnet_index=worker.subnet_indexes[0],
                    subnets=tuple(worker_subnet(index) for index in worker.subnet_indexes),
                    host=worker.host,
                    port=worker.tunnel_port,
                )


def _successors(observed: Observed) -> Mapping[Slot, list[tuple[ClusterId, InstanceStatus]]]:
    """Return the attempts that are to replace one which still serves in the same cluster."""
    found: defaultdict[Slot, list[tuple[ClusterId, InstanceStatus]]] = defaultdict(list)
    for id, cluster in sorted(observed.clusters.items()):
        for status in cluster.successors:
            found[status.key.slot].append((id, status))
    return found


def _present(
    observed: Observed, record: SlotRecord, successors: Sequence[tuple[ClusterId, InstanceStatus]]
) -> Iterator[_Present]:
    """Yield what runs of a slot: what serves, and whatever is to follow or to go, which may speak with others, too."""
    cluster, serving = record.serving
    if cluster is not None and record.status is not None:
        yield from _placed(record, cluster, record.status, serves=_serves(observed, record, cluster))
    for holder, placed in record.rightful:
        seen = observed.clusters.get(holder)
        status = seen.statuses.get(placed) if seen is not None else None
        if placed != serving and status is not None:
            yield from _placed(record, holder, status, serves=False)
    for holder, status in successors:
        if (holder, status.key.placed) in record.rightful:
            yield from _placed(record, holder, status, serves=False)


def _placed(
    record: SlotRecord, cluster: ClusterId, status: InstanceStatus, *, serves: bool
) -> Iterator[_Present]:
    if status.namespace != InstanceAddress():
        yield _Present(record, cluster, status, serves)


def _serves(observed: Observed, record: SlotRecord, id: ClusterId) -> bool:
    """Tell whether others may be led to an instance: nobody is led into a cluster that is lost."""
    cluster = observed.clusters.get(id)
    reachable = cluster is not None and cluster.liveness is not Liveness.LOST
    return reachable and record.wanted and record.is_ready


def _instance(present: _Present) -> RemoteInstance:
    return RemoteInstance(
        placed=present.status.key.placed,
        instance=present.record.address,
        namespace=present.status.namespace,
        ready=present.serves,
        cluster=present.cluster,
    )
