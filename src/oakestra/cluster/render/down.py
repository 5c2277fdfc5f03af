"""Render what each worker should have: its instances, and the routes and peers they need. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.render.routes import Led, Routes
from oakestra.model.address import Peer, worker_subnet
from oakestra.model.ids import OrganizationId, WorkerId
from oakestra.model.instance import InstanceKey
from oakestra.model.service import ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.wire.native import AssignedInstance, ClusterAssignment, Version, WorkerAssignment
from oakestra.wire.sequence import digest

Rendered = tuple[WorkerAssignment, str]
"""An assignment without a version, and the digest of its content."""


class Rendering:
    """Renders assignments, and remembers them: most of what happens concerns nobody, and the rest few workers."""

    def __init__(self) -> None:
        self._led: dict[OrganizationId, tuple[object, tuple[Led, ...]]] = {}
        self._last: dict[WorkerId, tuple[_Content, Rendered]] = {}
        self._basis: tuple[object, ...] = ()
        self._led_to: dict[WorkerId, tuple[object, tuple[object, ...]]] = {}
        """What of each worker's word others may be led to, and the word it is from."""

    def worker_assignments(
        self, observed: Observed, remote: ClusterAssignment | None
    ) -> dict[WorkerId, Rendered]:
        """Return what each worker should have, without versions."""
        basis = self._basis_of(observed, remote)
        if basis != self._basis:
            self._render(observed, remote)
            self._basis = basis
        return {id: rendered for id, (_, rendered) in self._last.items()}

    def _basis_of(self, observed: Observed, remote: ClusterAssignment | None) -> tuple[object, ...]:
        """Return all that assignments follow from: how far an instance is on its way to be ready is not part of it."""
        self._led_to = {id: self._word(id, worker) for id, worker in observed.workers.items()}
        workers = [
            (worker.record, worker.reported, worker.liveness is Liveness.LOST, self._led_to[id][1])
            for id, worker in observed.workers.items()
        ]
        unproven = observed.unproven_s.keys()
        return (observed.slots, observed.services, observed.withdrawals, unproven, workers, remote)

    def _word(self, id: WorkerId, worker: WorkerSeen) -> tuple[object, tuple[object, ...]]:
        known = self._led_to.get(id)
        if known is not None and known[0] is worker.statuses:
            return known
        return worker.statuses, tuple(
            (key, status.namespace, status.ready) for key, status in worker.statuses.items()
        )

    def _render(self, observed: Observed, remote: ClusterAssignment | None) -> None:
        routes = Routes(observed, remote, self._led)
        held: defaultdict[WorkerId, list[AssignedInstance]] = defaultdict(list)
        for _, record in sorted(observed.slots.items()):
            if observed.is_done(record):
                continue  # absence removes nothing, and a worker that forgot it must not begin it again
            for worker_id, key in record.attempts:
                former = record.former_keys(key)
                held[worker_id].append(AssignedInstance(key=key, address=record.address, former=former))
        withdrawn: defaultdict[WorkerId, list[InstanceKey]] = defaultdict(list)
        for id, key in sorted(observed.withdrawals):
            withdrawn[id].append(key)
        before, self._last = self._last, {}
        for id, worker in sorted(observed.workers.items()):
            content = _content(observed, worker, held[id], withdrawn[id], routes)
            last = before.get(id)
            if last is None or last[0] != content:
                assignment = _assignment(id, content)
                last = (content, (assignment, digest(assignment)))
            self._last[id] = last
        self._led = routes.led


class _Content(NamedTuple):
    """Everything that an assignment is rendered from, quick to compare."""

    services: tuple[ServiceSpec, ...]
    held: tuple[AssignedInstance, ...]
    withdrawn: tuple[InstanceKey, ...]
    subnet_indexes: tuple[int, ...]
    routes: tuple[tuple[Led, ...], ...]
    peers: tuple[Peer, ...]


def _content(
    observed: Observed,
    worker: WorkerSeen,
    held: list[AssignedInstance],
    withdrawn: list[InstanceKey],
    routes: Routes,
) -> _Content:
    services = sorted({instance.key.service for instance in held} & observed.services.keys())
    present = {*services, *(key.service for key in (*withdrawn, *worker.statuses))} & observed.services.keys()
    tenants = sorted({observed.services[service].tenant for service in present})
    return _Content(
        services=tuple(observed.services[service] for service in services),
        held=tuple(held),
        withdrawn=tuple(withdrawn),
        subnet_indexes=worker.record.subnet_indexes,
        routes=tuple(routes.of(tenant) for tenant in tenants),
        peers=tuple(routes.peers(tenants, worker.record.id)),
    )


def _assignment(id: WorkerId, content: _Content) -> WorkerAssignment:
    indexes = content.subnet_indexes
    return WorkerAssignment(
        version=Version(),
        services=content.services,
        instances=content.held,
        withdrawn=content.withdrawn,
        subnets=tuple(worker_subnet(index) for index in indexes),
        subnet_index=indexes[0] if indexes else 0,
        routes=tuple(led.on(id) for leds in content.routes for led in leds),
        peers=content.peers,
    )
