"""What is free on each worker, kept up to date while a cluster's placements are decided. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

from oakestra.cluster.observe import Observed, Withdrawn, WorkerSeen
from oakestra.cluster.state import Availability, Held
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.service import Resources, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.request import WorkerCandidate


class Ledger:
    """Reserves what every attempt holds, those that must go included, until it is seen gone."""

    def __init__(self, observed: Observed, gone: set[Withdrawn], *, vcpu_overcommit: float) -> None:
        self._observed = observed
        self._held: defaultdict[WorkerId, list[tuple[ServiceId, Held]]] = defaultdict(list)
        self._overcommit = vcpu_overcommit
        self._lists: dict[ServiceId, list[WorkerCandidate]] = {}
        self._places = {id: place for place, id in enumerate(sorted(observed.workers))}
        for worker, service, held in _holdings(observed, gone):
            spec = observed.services.get(service)
            if spec is not None:
                self._held[worker].append((service, held or as_asked(spec)))

    def reserve(self, worker: WorkerId, spec: ServiceSpec) -> None:
        """Count one more instance of a service on a worker."""
        self._held[worker].append((spec.id, as_asked(spec)))
        seen = self._observed.workers.get(worker)
        if seen is not None:
            for service, candidates in self._lists.items():
                candidates[self._places[worker]] = self.candidate(seen, service)

    def candidates(self, service: ServiceId) -> list[WorkerCandidate]:
        """Return every worker as it is now, for an instance of this service; do not change the list."""
        found = self._lists.get(service)
        if found is None:
            workers = self._observed.workers
            found = self._lists[service] = [self.candidate(workers[id], service) for id in sorted(workers)]
        return found

    def instances(self, worker: WorkerId) -> int:
        """Return how many instances hold room on a worker now."""
        return len(self._held[worker])

    def candidate(self, worker: WorkerSeen, service: ServiceId) -> WorkerCandidate:
        """Return a worker as it is now, for an instance of this service."""
        record = worker.record
        held = self._held[record.id]
        total = overcommitted(record.capacity.resources, self._overcommit)
        return WorkerCandidate(
            id=record.id,
            name=record.name,
            unusable=_unusable(self._observed, worker),
            capacity=record.capacity,
            free=total - Resources.total(one.resources for _, one in held),
            total=total,
            ports_taken=frozenset(
                (port.protocol.value, port.host_port) for _, one in held for port in one.ports
            ),
            instances=len(held),
            siblings=sum(other == service for other, _ in held),
        )


def as_asked(spec: ServiceSpec) -> Held:
    """Return what an instance takes that is placed now."""
    return Held(resources=spec.resources, ports=spec.ports)


def _holdings(observed: Observed, gone: set[Withdrawn]) -> Iterator[tuple[WorkerId, ServiceId, Held | None]]:
    """Yield what is taken of every worker; None: as much as the service asks for now."""
    for record in observed.slots.values():
        service = record.placed.service
        if record.worker is not None and not observed.is_done(record):
            yield record.worker, service, record.held
        if record.leaving is not None:
            yield record.leaving.worker, service, record.leaving.held
        if record.aside is not None:
            yield record.aside.worker, service, record.aside.held
    for (id, key), withdrawal in observed.withdrawals.items():
        if (id, key) not in gone:
            yield id, key.service, withdrawal.held
    for id, key in _strays(observed):
        yield id, key.service, None


def _strays(observed: Observed) -> Iterator[Withdrawn]:
    """Yield what workers report beyond what they have and what was withdrawn: it takes room until it is seen gone."""
    for id, worker in observed.workers.items():
        for key in worker.statuses:
            record = observed.slots.get(key.slot)
            current = record is not None and (
                (id, key) in record.attempts or record.renamed(id, key) is not None
            )
            if not current and (id, key) not in observed.withdrawals:
                yield id, key


@lru_cache(maxsize=1024)
def overcommitted(resources: Resources, vcpu_overcommit: float) -> Resources:
    """Return what may be promised of a machine: vCPUs are shared, everything else is given once."""
    return replace(resources, vcpus=int(resources.vcpus * vcpu_overcommit))


def free_of(observed: Observed, *, vcpu_overcommit: float) -> Mapping[WorkerId, WorkerCandidate]:
    """Return every worker with what is unreserved on it, as its summary to root needs it."""
    ledger = Ledger(observed, set(), vcpu_overcommit=vcpu_overcommit)
    return {id: ledger.candidate(worker, ServiceId("")) for id, worker in sorted(observed.workers.items())}


def _unusable(observed: Observed, worker: WorkerSeen) -> str:
    if worker.liveness is Liveness.LOST:
        return "lost"
    if worker.liveness is Liveness.SUSPECT:
        return "has not been heard of for a moment"
    if worker.record.availability is not Availability.ACTIVE:
        return worker.record.availability.value
    if not worker.reported:
        return "has not reported yet"
    if worker.trouble:
        return worker.trouble
    if any(key.service not in observed.services for key in worker.statuses):
        return "still holds an instance of which this cluster does not know what it needs"
    if not worker.record.subnet_indexes:
        return "has no addresses for instances (root has not leased any to this cluster yet)"
    return ""
