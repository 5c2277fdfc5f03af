"""Render root's records as what it sends: one assignment per cluster. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from oakestra.model.address import Peer, worker_subnet
from oakestra.model.ids import ClusterId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import Placement
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


def cluster_assignments(observed: Observed) -> dict[ClusterId, ClusterAssignment]:
    """Return what each cluster should have, without versions."""
    held: defaultdict[ClusterId, list[SlotRecord]] = defaultdict(list)
    for _, record in sorted(observed.slots.items()):
        if record.cluster is not None and record.slot.service in observed.services:
            held[record.cluster].append(record)
    withdrawn: defaultdict[ClusterId, list[Placement]] = defaultdict(list)
    for placed, withdrawal in sorted(observed.withdrawals.items()):
        withdrawn[withdrawal.cluster].append(placed)
    remote = _Remote(observed, held)
    return {
        id: _assignment(observed, id, held[id], withdrawn[id], remote) for id in sorted(observed.clusters)
    }


def _assignment(
    observed: Observed,
    id: ClusterId,
    held: list[SlotRecord],
    withdrawn: list[Placement],
    remote: _Remote,
) -> ClusterAssignment:
    services = sorted({record.slot.service for record in held})
    tenants = {observed.services[service].spec.tenant for service in services}
    elsewhere = remote.present(tenants, besides=id)
    seen = observed.clusters[id].record
    return ClusterAssignment(
        version=Version(),
        services=tuple(observed.services[service].spec for service in services),
        slots=tuple(_assigned(observed, record) for record in held),
        withdrawn=tuple(withdrawn),
        origins=tuple(_origin(observed, observed.services[service]) for service in services),
        subnet_lease=(seen.subnet_first, seen.subnet_count),
        remote_services=tuple(
            observed.services[service].spec
            for service in sorted({record.slot.service for record in elsewhere} - set(services))
        ),
        remotes=tuple(_instance(record, ready=_serves(observed, record)) for record in elsewhere),
        peers=tuple(remote.peers(elsewhere)),
    )


def _assigned(observed: Observed, record: SlotRecord) -> AssignedSlot:
    once = not observed.services[record.slot.service].spec.disconnect.replace
    seen_on = record.status.worker if once and record.status is not None else WorkerId("")
    return AssignedSlot(placed=_placed(record), address=record.address, seen_on=seen_on)


def _origin(observed: Observed, service: ServiceRecord) -> Origin:
    spec = service.spec
    return Origin(
        service=spec.id,
        application=observed.applications[spec.application_id].application,
        organization=observed.organizations.get(spec.tenant, ""),
        document=service.document,
        next_slot=service.next_slot,
    )


class _Remote:
    """Instances of every tenant that have a place, by cluster, worked out once for all clusters."""

    def __init__(self, observed: Observed, held: dict[ClusterId, list[SlotRecord]]) -> None:
        self._present: defaultdict[OrganizationId, list[SlotRecord]] = defaultdict(list)
        for _, records in sorted(held.items()):
            for record in records:
                if record.status is not None and record.status.namespace != InstanceAddress():
                    self._present[_tenant(observed, record.slot.service)].append(record)
        self._workers: dict[WorkerId, WorkerSummary] = {
            worker.id: worker for cluster in observed.clusters.values() for worker in cluster.workers
        }

    def present(self, tenants: set[OrganizationId], *, besides: ClusterId) -> list[SlotRecord]:
        return [
            record
            for tenant in sorted(tenants)
            for record in self._present[tenant]
            if record.cluster != besides
        ]

    def peers(self, records: list[SlotRecord]) -> Iterator[Peer]:
        for id in sorted({record.status.worker for record in records if record.status}):
            worker = self._workers.get(id)
            if worker is not None and worker.host and worker.subnet_indexes:
                yield Peer(
                    subnet_index=worker.subnet_indexes[0],
                    subnets=tuple(worker_subnet(index) for index in worker.subnet_indexes),
                    host=worker.host,
                    port=worker.tunnel_port,
                )


def _tenant(observed: Observed, service: ServiceId) -> OrganizationId:
    return observed.services[service].spec.tenant


def _serves(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether others may be led to an instance: nobody is led into a cluster that is lost."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    reachable = cluster is not None and cluster.liveness is not Liveness.LOST
    return reachable and record.wanted and record.status is not None and record.status.ready


def _instance(record: SlotRecord, *, ready: bool) -> RemoteInstance:
    assert record.status is not None, "only what has a place is remote"
    return RemoteInstance(
        placed=_placed(record),
        instance=record.address,
        namespace=record.status.namespace,
        ready=ready,
    )


def _placed(record: SlotRecord) -> Placement:
    return Placement(record.slot.service, record.slot.number, record.placement)
