"""Gather what root wants and sees into one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from oakestra.control.settled import look
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId
from oakestra.model.instance import InstanceStatus, Placement, Slot
from oakestra.root.state import (
    ApplicationRecord,
    Availability,
    BuriedRecord,
    ClusterRecord,
    LastPass,
    Refused,
    RolloutState,
    Room,
    RootState,
    ServiceRecord,
    SlotRecord,
    Standing,
    WithdrawalRecord,
)
from oakestra.scheduling.elsewhere import Memory, remember
from oakestra.scheduling.lingering import since
from oakestra.scheduling.liveness import Liveness, Patience, judge, patience_ended, silence_s
from oakestra.wire.native import Aggregate, Claim, Version, WorkerSummary

REBUILT_AFTER_S = 60.0
"""Clusters have so long to tell a root whose records are new what they hold: as long as one may be lost before its
instances are placed elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSeen:
    """A cluster, how alive it is, and what it says of itself."""

    record: ClusterRecord
    liveness: Liveness
    silent_s: float
    """For how long nothing was heard of it."""
    reported: bool
    complete: bool
    applied: Version
    store: int
    """Epoch of its store."""
    statuses: Mapping[Placement, InstanceStatus]
    successors: tuple[InstanceStatus, ...]
    refusals: Mapping[Placement, str]
    exhausted: Mapping[Placement, str]
    """What fails there, how, and no other worker there would take."""
    claims: tuple[Claim, ...]
    told: bool
    """It has told these records what it holds: what it claims counts, and it may be given something."""
    former_availability: str
    """What other records said of it, as it claims; empty when these have said something themselves."""
    aggregates: tuple[Aggregate, ...]
    workers: tuple[WorkerSummary, ...]

    @property
    def availability(self) -> Availability:
        """Whether it takes instances: what it claims goes for as long as nothing else was said."""
        former = self.former_availability
        return Availability(former) if former in set(Availability) else self.record.availability

    @property
    def vouches(self) -> bool:
        """Whether it has told of everything that runs there."""
        heard = all(worker.live or worker.liveness == Liveness.LOST.value for worker in self.workers)
        return self.told and self.complete and heard

    @property
    def room(self) -> Room:
        return (self.aggregates, *((worker.id, worker.live, worker.instances) for worker in self.workers))

    def worker_with(self, placed: Placement) -> WorkerSummary | None:
        """Return the worker that has a placement, as far as its cluster said."""
        status = self.statuses.get(placed)
        return next((one for one in self.workers if status is not None and one.id == status.worker), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a pass looks at."""

    epoch: int
    applications: Mapping[ApplicationId, ApplicationRecord]
    services: Mapping[ServiceId, ServiceRecord]
    slots: Mapping[Slot, SlotRecord]
    organizations: Mapping[OrganizationId, str]
    """Their names."""
    withdrawals: Mapping[Placement, WithdrawalRecord]
    buried: Mapping[ServiceId | ApplicationId, BuriedRecord]
    """What was deleted and is gone."""
    clusters: Mapping[ClusterId, ClusterSeen]
    refused: Mapping[tuple[Slot, ClusterId], Refused]
    """Clusters that could not take a slot, as long as nothing changed there: a slot is not sent in circles."""
    memory: Memory
    """Of instances that failed in some cluster lately."""
    turned_since_s: Mapping[Slot, float]
    """Since when a successor in another cluster serves, while its predecessor is still there."""
    standing: Mapping[ServiceId, Standing]
    """Of every update under way, since when it is as it is."""
    quarantined: Mapping[str, float]
    """Wall time at which each released address may be used again."""
    new_for_s: float | None
    """For how long these records have been new; None: for so long that clusters have told what they hold."""
    now_wall_s: float
    now_s: float

    def name_of(self, service: ServiceId) -> str:
        """Return what a service is called; nothing if it is not known."""
        return self.services[service].spec.name if service in self.services else ""

    def quiet_s(self, service: ServiceId) -> float:
        """Return for how long nothing has changed about a service's update."""
        standing = self.standing.get(service)
        return self.now_s - standing.since_s if standing is not None else 0.0


def observe(
    state: RootState,
    *,
    now_s: float,
    now_wall_s: float,
    since_s: float,
    lost_after_s: float,
) -> Observed:
    """Return root's world as it is now. `since_s` is when this process started."""
    slots = state.slots_by_slot()
    clusters = {
        record.id: _seen(state, record, now_s=now_s, since_s=since_s, lost_after_s=lost_after_s)
        for record in state.clusters.values()
    }
    return Observed(
        epoch=state.records.epoch,
        applications=state.applications_by_id(),
        services=state.services_by_id(),
        slots=slots,
        organizations={record.id: record.name for record in state.organizations.values()},
        withdrawals=state.withdrawals_by_placement(),
        buried=state.buried_by_id(),
        clusters=clusters,
        refused=_refused(state.last.refused, slots, clusters),
        memory=remember(
            ((slot, record.placement, record.failed) for slot, record in slots.items() if record.failed),
            state.last.memory,
            now_s,
        ),
        turned_since_s=since(
            (slot for slot, record in slots.items() if record.turned and record.is_ready),
            state.last.turned_since_s,
            now_s,
        ),
        standing=_standing(state, now_s),
        quarantined={key: record.until_wall_s for key, record in state.quarantine.items()},
        new_for_s=None if state.rebuilt else now_s - max(since_s, state.renewed_s),
        now_wall_s=now_wall_s,
        now_s=now_s,
    )


def last_pass(observed: Observed) -> LastPass:
    """Return what of this the next pass, and users, still need."""
    return LastPass(
        standing=observed.standing,
        turned_since_s=observed.turned_since_s,
        memory=observed.memory,
        refused=observed.refused,
        lost=frozenset(id for id, one in observed.clusters.items() if one.liveness is Liveness.LOST),
    )


def _standing(state: RootState, now_s: float) -> Mapping[ServiceId, Standing]:
    found: dict[ServiceId, Standing] = {}
    for record in state.services.values():
        rollout = record.rollout
        if rollout is None or rollout.state is not RolloutState.ROLLING:
            continue
        now = Standing(record.spec.revision, rollout.updated, now_s)
        before = state.last.standing.get(record.spec.id, now)
        same = (before.revision, before.updated) == (now.revision, now.updated)
        found[record.spec.id] = before if same else now
    return found


def _seen(
    state: RootState, record: ClusterRecord, *, now_s: float, since_s: float, lost_after_s: float
) -> ClusterSeen:
    view = state.views.get(record.id)
    report = view.report if view else None
    last_seen_s = view.last_seen_s if view else None
    silent_s = silence_s(last_seen_s, since_s=since_s, now_s=now_s)
    told = report is not None and report.applied.epoch == state.records.epoch
    said = record.availability_epoch == state.records.epoch
    return ClusterSeen(
        record=record,
        liveness=judge(silent_s, Patience(suspect_after_s=lost_after_s * 2 / 3, lost_after_s=lost_after_s)),
        silent_s=silent_s,
        reported=report is not None,
        complete=report is not None and report.complete,
        applied=report.applied if report else Version(),
        store=report.store if report else 0,
        statuses=view.statuses if view else {},
        successors=report.successors if report else (),
        refusals={refusal.placed: refusal.reason for refusal in report.refusals} if report else {},
        exhausted={one.placed: one.reason for one in report.exhausted} if report else {},
        claims=report.claims if report and told else (),
        told=told,
        former_availability=report.availability if report and told and not said else "",
        aggregates=report.aggregates if report else (),
        workers=report.workers if report else (),
    )


def _refused(
    before: Mapping[tuple[Slot, ClusterId], Refused],
    slots: Mapping[Slot, SlotRecord],
    clusters: Mapping[ClusterId, ClusterSeen],
) -> Mapping[tuple[Slot, ClusterId], Refused]:
    """Return the refusals that still hold: those that are new, and those of clusters where nothing changed since."""
    still = {
        (slot, id): refused
        for (slot, id), refused in before.items()
        if slot in slots and id in clusters and clusters[id].room == refused.room
    }
    for slot, record in slots.items():
        cluster = clusters.get(record.cluster) if record.cluster else None
        reason = cluster.refusals.get(Placement(*slot, record.placement)) if cluster else None
        if record.cluster and cluster and reason:
            still[slot, record.cluster] = Refused(reason=reason, room=cluster.room)
    return still


_TIMELY = {"clusters", "memory", "standing", "quarantined", "new_for_s", "now_s", "now_wall_s"}
_timeless = look(one.name for one in fields(Observed) if one.name not in _TIMELY)
_timeless_of_a_cluster = look(one.name for one in fields(ClusterSeen) if one.name != "silent_s")


def only_time_passed(before: Observed, now: Observed, *, grace_s: float) -> bool:
    """Tell whether what is planned now is what was planned before: nothing differs but how long things have lasted,
    and none of that has come to mean more. `grace_s` is how long a cluster may be lost unless an SLA says otherwise."""
    return (
        not now.standing
        and not now.turned_since_s
        and (before.new_for_s is None) == (now.new_for_s is None)
        and (now.new_for_s or 0.0) < REBUILT_AFTER_S
        and _timeless(before) == _timeless(now)
        and before.memory.means(now.memory)
        and before.clusters.keys() == now.clusters.keys()
        and all(
            _timeless_of_a_cluster(before.clusters[id]) == _timeless_of_a_cluster(seen)
            for id, seen in now.clusters.items()
        )
        and before.quarantined.keys() == now.quarantined.keys()
        and not any(until <= now.now_wall_s for until in now.quarantined.values())
        and not _patience_ended(before, now, grace_s)
    )


def _patience_ended(before: Observed, now: Observed, grace_s: float) -> bool:
    """Tell whether a lost cluster's silence has now reached what some service's disconnect policy allows."""
    lost = [id for id, cluster in now.clusters.items() if cluster.liveness is Liveness.LOST]
    policies = [record.spec.disconnect.lost_after_s for record in now.services.values()] if lost else []
    patiences = {grace_s, *(allowed_s for allowed_s in policies if allowed_s is not None)}
    return any(
        patience_ended(before.clusters[id].silent_s, now.clusters[id].silent_s, patiences) for id in lost
    )
