"""Show root's records as the API's documents: the original's, and our own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from oakestra.control.clock import Clock
from oakestra.model.ids import ClusterId, UserId, WorkerId
from oakestra.model.instance import Phase
from oakestra.model.machine import MachineUsage
from oakestra.model.service import Resources
from oakestra.root.api.reach import Reach, workers_of
from oakestra.root.history import POINTS_MAX
from oakestra.root.state import (
    ApplicationRecord,
    ClusterRecord,
    OrganizationRecord,
    RolloutState,
    RootState,
    ServiceRecord,
    SlotRecord,
    UserRecord,
)
from oakestra.scheduling.liveness import Liveness
from oakestra.wire import api, rest
from oakestra.wire.documents import (
    ApplicationDocument,
    ClusterDocument,
    OrganizationDocument,
    ServiceDocument,
    UserDocument,
)
from oakestra.wire.native import WorkerSummary
from oakestra.wire.statuses import SlotSeen, instance_status, service_status

ACTIVE_S = 30.0
"""The original calls a cluster active that was heard of within so long."""


class Views:
    """Looks at the state as it is when asked."""

    def __init__(self, state: RootState, *, clock: Clock, reach: Reach, active_s: float = ACTIVE_S) -> None:
        self._state = state
        self._clock = clock
        self._reach = reach
        self._active_s = active_s

    # --- the original's documents ------------------------------------------------------------------------------

    def application(self, record: ApplicationRecord) -> ApplicationDocument:
        """Return an application."""
        return rest.application_document(
            record.application,
            owner=self._user_name(record.application.owner),
            services=self._visible(record),
            extra=record.extra,
        )

    def services(self, records: Iterable[ServiceRecord]) -> list[ServiceDocument]:
        """Return services with the instances that are wanted; of their histories the newest points only."""
        look = _Look(self._state, self._clock, self._active_s)
        return [rest.service_document(look.service(record)) for record in records]

    def service(self, record: ServiceRecord) -> ServiceDocument:
        """Return a service with the instances that are wanted and their whole histories."""
        look = _Look(self._state, self._clock, self._active_s, history_max=POINTS_MAX)
        return rest.service_document(look.service(record))

    def clusters(self, *, active_only: bool = False) -> list[ClusterDocument]:
        """Return the clusters, or those heard of lately."""
        views = [self._cluster(record) for record in self._state.clusters.values()]
        return [rest.cluster_document(view) for view in views if view.active or not active_only]

    def user(self, record: UserRecord, roles: Sequence[str] | None = None) -> UserDocument:
        """Return a user."""
        return rest.user_document(
            id=record.id, name=record.name, email=record.email, created_at=record.created_at, roles=roles
        )

    def organization(self, record: OrganizationRecord) -> OrganizationDocument:
        """Return an organization."""
        members = [(member.user, member.roles) for member in record.members]
        return rest.organization_document(id=record.id, name=record.name, members=members)

    # --- our own -----------------------------------------------------------------------------------------------

    def own_application(self, record: ApplicationRecord) -> api.Application:
        """Return an application."""
        application = record.application
        return api.Application(
            id=application.id,
            name=application.name,
            namespace=application.namespace,
            description=application.description,
            owner=self._user_name(application.owner),
            owner_id=application.owner,
            organization_id=application.tenant,
            services=tuple(self._visible(record)),
        )

    def own_services(self, records: Iterable[ServiceRecord]) -> list[api.Service]:
        """Return services with every slot, those being withdrawn included."""
        look = _Look(self._state, self._clock, self._active_s)
        return [look.own_service(record) for record in records]

    def own_clusters(self) -> list[api.Cluster]:
        """Return the clusters."""
        placed: defaultdict[ClusterId, int] = defaultdict(int)
        for slot in self._state.slots.values():
            for cluster, _ in slot.placements:
                placed[cluster] += 1
        return [self._own_cluster(record, placed[record.id]) for record in self._state.clusters.values()]

    def own_workers(self) -> list[api.Worker]:
        """Return the workers that clusters reported."""
        return [
            self._own_worker(record, worker)
            for record in self._state.clusters.values()
            for worker in self._workers(record.id)
        ]

    def counts(self) -> dict[str, int]:
        """Return how much there is of everything."""
        state = self._state
        return {
            "applications": sum(not record.application.deleted for record in state.applications.values()),
            "services": sum(not record.deleted for record in state.services.values()),
            "instances": sum(slot.wanted for slot in state.slots.values()),
            "ready": sum(
                1 for slot in state.slots.values() if slot.wanted and slot.status and slot.status.ready
            ),
            "clusters": len(state.clusters),
            "workers": sum(len(workers_of(state, record.id)) for record in state.clusters.values()),
        }

    # --- parts -------------------------------------------------------------------------------------------------

    def _visible(self, record: ApplicationRecord) -> list[Any]:
        services = self._state.services
        return [id for id in record.services if id in services and not services[id].deleted]

    def _user_name(self, id: UserId) -> str:
        user = self._state.users.get(id)
        return user.name if user else id

    def _cluster(self, record: ClusterRecord) -> rest.ClusterView:
        view = self._state.views.get(record.id)
        lost = self._reach.is_lost(record.id)
        return rest.ClusterView(
            id=record.id,
            name=record.name,
            location=record.location,
            host=record.host,
            api_port=record.api_port,
            active=_active(self._state, record.id, self._clock, self._active_s),
            seen_wall_s=view.last_seen_wall_s if view else 0.0,
            cpu_ratio=view.cpu_ratio if view and not lost else 0.0,
            memory_ratio=view.memory_ratio if view and not lost else 0.0,
            workers=self._workers(record.id),
            history=self._state.histories.of(record.id),
        )

    def _own_cluster(self, record: ClusterRecord, instances: int) -> api.Cluster:
        silent_s = self._silent_s(record.id)
        workers = self._workers(record.id)
        live = [worker for worker in workers if worker.live]
        return api.Cluster(
            id=record.id,
            name=record.name,
            location=record.location,
            host=record.host,
            api_port=record.api_port,
            live=silent_s is not None and not self._reach.is_lost(record.id),
            availability=record.availability.value,
            silent_s=silent_s,
            workers=len(workers),
            workers_live=len(live),
            instances=instances,
            total=sum((worker.capacity.resources for worker in live), Resources()),
            free=sum((worker.free for worker in live), Resources()),
            joined_wall_s=record.joined_wall_s,
        )

    def _own_worker(self, record: ClusterRecord, worker: WorkerSummary) -> api.Worker:
        return api.Worker(
            id=worker.id,
            name=worker.name,
            cluster=record.name,
            cluster_id=record.id,
            host=worker.host,
            live=worker.live,
            liveness=worker.liveness,
            silent_s=self._silent_s(record.id),
            instances=worker.instances,
            architecture=worker.capacity.architecture,
            virtualizations=worker.capacity.virtualizations,
            total=worker.capacity.resources,
            free=worker.free if worker.live else None,
            usage=_machine(self._state, record.id, worker.id) if worker.live else None,
            trouble=worker.trouble,
            availability=worker.availability,
        )

    def _workers(self, cluster: ClusterId) -> tuple[WorkerSummary, ...]:
        """Return a cluster's workers; how those are that nobody hears, or whose cluster nobody hears, is unknown."""
        lost = self._reach.is_lost(cluster)
        return tuple(
            replace(worker, live=False, liveness=api.LIVENESS_UNKNOWN)
            if lost or not (worker.live or worker.liveness == Liveness.LOST.value)
            else worker
            for worker in workers_of(self._state, cluster)
        )

    def _silent_s(self, cluster: ClusterId) -> float | None:
        view = self._state.views.get(cluster)
        if view is None or view.last_seen_s is None:
            return None
        return round(self._clock.uptime_s() - view.last_seen_s, 1)


class _Look:
    """One look at slots, clusters and workers, shared by all services that are rendered together."""

    def __init__(self, state: RootState, clock: Clock, active_s: float, *, history_max: int = 1) -> None:
        self._state = state
        self._history_max = history_max
        self._slots: defaultdict[str, list[SlotRecord]] = defaultdict(list)
        for slot in state.slots.values():
            self._slots[slot.slot.service].append(slot)
        self._workers = {
            worker.id: worker for record in state.clusters.values() for worker in workers_of(state, record.id)
        }
        self._refused = {
            refusal.placed
            for view in state.views.values()
            if view.report is not None
            for refusal in view.report.refusals
        }
        self._known = [record.name for record in state.clusters.values()]
        self._live = [
            record.name for record in state.clusters.values() if _active(state, record.id, clock, active_s)
        ]

    def service(self, record: ServiceRecord) -> rest.ServiceView:
        slots = [slot for slot in self._numbered(record) if slot.wanted]
        instances = tuple(self._instance(record, slot) for slot in slots)
        status, detail = self._of_all(record, instances)
        return rest.ServiceView(
            spec=record.spec,
            document=record.document,
            next_slot=record.next_slot,
            status=status,
            detail=detail,
            instances=instances,
        )

    def own_service(self, record: ServiceRecord) -> api.Service:
        view = self.service(record)
        return api.Service(
            id=record.spec.id,
            name=record.spec.name,
            application_id=record.spec.application_id,
            status=view.status,
            detail=view.detail,
            next_slot=record.next_slot,
            spec=record.spec,
            rollout=_rollout(record, held_up=self._held_up(record)),
            instances=tuple(self._own_instance(record, slot) for slot in self._numbered(record)),
        )

    def _held_up(self, record: ServiceRecord) -> str:
        """Return how the first successor that has trouble is, and why; nothing if none has any."""
        found = [
            status
            for view in self._state.views.values()
            for status in (view.report.successors if view.report else ())
            if status.key.slot.service == record.spec.id and not status.ready and status.reason
        ]
        first = min(found, key=lambda status: status.key, default=None)
        return f"instance {first.key.number}: {first.phase.name} {first.reason}" if first else ""

    def _numbered(self, record: ServiceRecord) -> list[SlotRecord]:
        return sorted(self._slots[record.spec.id], key=lambda slot: slot.slot.number)

    def _of_all(
        self, record: ServiceRecord, instances: Sequence[rest.InstanceView]
    ) -> tuple[str | None, str]:
        words = [instance.status for instance in instances]
        status = service_status(words, ever_deployed=record.next_slot > 0)
        return status, next((one.detail for one in instances if one.status == status), "")

    def _word(self, record: ServiceRecord, slot: SlotRecord) -> str:
        seen = SlotSeen(
            wanted=slot.wanted,
            placed=slot.serving[0] is not None,
            tried=bool(slot.reason),
            refused=slot.serving[1] in self._refused,
            phase=slot.status.phase if slot.status else Phase.UNKNOWN,
        )
        return instance_status(seen, record.spec, known_clusters=self._known, live_clusters=self._live)

    def _instance(self, record: ServiceRecord, slot: SlotRecord) -> rest.InstanceView:
        cluster_id, _ = slot.serving
        cluster = self._state.clusters.get(cluster_id) if cluster_id else None
        status = slot.status if cluster else None
        worker = self._workers.get(status.worker) if status else None
        return rest.InstanceView(
            number=slot.slot.number,
            status=self._word(record, slot),
            detail=(status.reason if status else "") or slot.reason,
            cluster=cluster_id,
            cluster_location=cluster.location if cluster else "",
            worker=status.worker if status else rest.NO_WORKER,
            host=worker.host if worker else "",
            tunnel_port=worker.tunnel_port if worker else 0,
            address=slot.address,
            usage=self._state.usage.get(status.key) if status else None,
            history=self._state.histories.of(status.key)[-self._history_max :] if status else (),
            changed_wall_s=slot.changed_wall_s,
        )

    def _own_instance(self, record: ServiceRecord, slot: SlotRecord) -> api.Instance:
        shown = self._instance(record, slot)
        cluster_id, placed = slot.serving
        cluster = self._state.clusters.get(cluster_id) if cluster_id else None
        worker = self._workers.get(shown.worker)
        status = slot.status
        return api.Instance(
            number=slot.slot.number,
            wanted=slot.wanted,
            status=shown.status,
            phase=(status.phase if status else _phase_without_report(slot)).name,
            ready=status is not None and status.ready,
            reason=status.reason if status else "",
            placement_reason=slot.reason,
            verdicts=tuple(
                api.Verdict(name=verdict.name, refusal=verdict.refusal, score=verdict.score)
                for verdict in slot.verdicts
            ),
            placement=placed.placement,
            attempt=status.key.attempt if status else 0,
            restart=status.restart if status else 0,
            revision=status.revision if status else 0,
            cluster=cluster.name if cluster else "",
            cluster_id=cluster_id,
            worker=worker.name if worker else "",
            worker_id=shown.worker,
            host=shown.host,
            address=slot.address,
            namespace_address=status.namespace if status else rest.NO_ADDRESS,
            exit_code=status.exit_code if status else None,
            usage=shown.usage,
            requested_wall_s=slot.requested_wall_s,
            changed_wall_s=slot.changed_wall_s,
        )


def _phase_without_report(slot: SlotRecord) -> Phase:
    return Phase.REQUESTED if slot.cluster is None else Phase.CLUSTER_ASSIGNED


def _rollout(record: ServiceRecord, *, held_up: str) -> api.Rollout | None:
    rollout = record.rollout
    if rollout is None:
        return None
    return api.Rollout(
        state=rollout.state.value,
        updated=rollout.updated,
        reason=held_up if rollout.state is RolloutState.ROLLING else rollout.reason,
        began_wall_s=rollout.began_wall_s,
    )


def _machine(state: RootState, cluster: ClusterId, worker: WorkerId) -> MachineUsage | None:
    view = state.views.get(cluster)
    return view.machines.get(worker) if view else None


def _active(state: RootState, cluster: ClusterId, clock: Clock, active_s: float) -> bool:
    view = state.views.get(cluster)
    return (
        view is not None and view.last_seen_s is not None and clock.uptime_s() - view.last_seen_s < active_s
    )
