"""Gather what a cluster wants and sees into one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from oakestra.cluster.state import (
    ClusterState,
    RootRecord,
    SlotRecord,
    WithdrawalRecord,
    WorkerRecord,
    WorkerView,
)
from oakestra.control.settled import look
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Slot, is_done
from oakestra.model.service import ServiceSpec
from oakestra.scheduling.elsewhere import Memory, remember
from oakestra.scheduling.lingering import IN_FLIGHT_S, LINGER_S, since
from oakestra.scheduling.liveness import (
    Liveness,
    Patience,
    benefit_of_doubt_s,
    judge,
    patience_ended,
    silence_s,
)
from oakestra.wire.native import Origin, Version

Withdrawn = tuple[WorkerId, InstanceKey]
"""An attempt that must go, and from where: after a store was lost two workers may hold attempts of one number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker, how alive it is, and what it says runs there."""

    record: WorkerRecord
    liveness: Liveness
    silent_s: float
    """For how long nothing was heard of it."""
    reported: bool
    """It has reported since this process started, so what it runs is known."""
    complete: bool
    """Its last report vouches for what it does not mention."""
    fresh: bool = True
    """Its last report was made, or confirmed, since it was lost last."""
    applied: Version
    trouble: str
    """What it says keeps it from doing what it is told."""
    statuses: Mapping[InstanceKey, InstanceStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a pass looks at."""

    epoch: int
    services: Mapping[ServiceId, ServiceSpec]
    slots: Mapping[Slot, SlotRecord]
    withdrawals: Mapping[Withdrawn, WithdrawalRecord]
    workers: Mapping[WorkerId, WorkerSeen]
    lease: tuple[int, int]
    """First worker subnet index that root leased to this cluster, and how many."""
    root_known: bool
    """Root's assignment was received by this store, so what it does not name is nobody's."""
    root_epoch: int = 0
    """Of the store that root's last assignment came from."""
    origins: Mapping[ServiceId, Origin] = field(default_factory=dict)
    heard_out: bool = True
    """Root has recorded what is known here by the word of others."""
    former_availability: str = ""
    """What other records of root's said of this cluster; empty when its present ones have said it."""
    root_applied: Version = field(default_factory=Version)
    """Root's assignment that these records follow."""
    unproven_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """What is ready, but has not been for as long as its service's update policy asks, and how much is missing."""
    relieved_since_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """Of each attempt that a ready successor relieved, since when it has been."""
    lingering_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """For how much longer those of them stay that somebody may still ask something."""
    memory: Memory = field(default_factory=Memory)
    """Of instances that failed on some worker lately."""
    adopting: bool
    """The store is new: workers that ran instances before may not have reported them yet."""

    def status(self, worker: WorkerId | None, key: InstanceKey) -> InstanceStatus | None:
        """Return what a worker said last of an attempt, by whichever of its names it knows it; None: nothing."""
        seen = self.workers.get(worker) if worker else None
        if seen is None or key in seen.statuses:
            return seen.statuses[key] if seen is not None else None
        record = self.slots.get(key.slot)
        names = record.former_keys(key) if record is not None and record.placed == key.placed else ()
        said = next((seen.statuses[name] for name in reversed(names) if name in seen.statuses), None)
        return replace(said, key=key) if said is not None else None

    def current(self, record: SlotRecord) -> InstanceStatus | None:
        """Return what was said last of a slot's current attempt; None: nothing, or no worker has it."""
        return self.status(record.worker, record.key) if record.worker is not None else None

    def is_done(self, record: SlotRecord) -> bool:
        """Tell whether a one-shot instance has done its work, as its service is now."""
        spec = self.services.get(record.placed.service)
        return spec is not None and is_done(spec, record.done)

    def name_of(self, service: ServiceId) -> str:
        """Return what a service is called; nothing if it is not known here."""
        return self.services[service].name if service in self.services else ""


def observe(
    state: ClusterState,
    *,
    now_s: float,
    since_s: float,
    patience: Callable[[WorkerView], Patience],
    adopt_until_s: float,
) -> Observed:
    """Return the cluster as it is now. `since_s` is when this process started, or came back from a stall."""
    records = state.workers_by_id()
    views = {id: state.view(id) for id in records}
    silences = {
        id: (silence_s(view.last_seen_s, since_s=since_s, now_s=now_s), patience(view))
        for id, view in views.items()
    }
    benefit_s = benefit_of_doubt_s(tuple(silences.values()))
    workers: dict[WorkerId, WorkerSeen] = {}
    for id, record in records.items():
        view = views[id]
        report = view.report
        silent_s, allowed = silences[id]
        if benefit_s:
            allowed = replace(allowed, lost_after_s=allowed.lost_after_s + benefit_s)
        workers[id] = WorkerSeen(
            record=record,
            liveness=judge(silent_s, allowed),
            silent_s=silent_s,
            reported=report is not None,
            complete=report is not None and report.complete,
            fresh=view.fresh,
            applied=report.applied if report else Version(),
            trouble=report.trouble if report else "",
            statuses=view.statuses,
        )
    leaving = (record for record in state.slots.values() if record.leaving and record.leaving.relieved)
    relieved_since_s = since((record.leaving_key for record in leaving), state.relieved_since_s, now_s)
    return Observed(
        epoch=state.records.epoch,
        services=state.services_by_id(),
        slots=state.slots_by_slot(),
        withdrawals=state.withdrawals_by_attempt(),
        workers=workers,
        lease=(state.root.subnet_first, state.root.subnet_count),
        root_known=state.root.applied != Version(),
        root_epoch=state.root.applied.epoch,
        origins=state.origins_by_service(),
        heard_out=state.root.heard_epoch == state.root.applied.epoch,
        former_availability=_former_availability(state.root),
        root_applied=state.root.applied,
        unproven_s=_unproven_s(state, now_s),
        relieved_since_s=relieved_since_s,
        lingering_s=_lingering_s(state, relieved_since_s, now_s),
        memory=remember(
            (
                (record.placed.slot, record.attempt, record.failed)
                for record in state.slots.values()
                if record.failed
            ),
            state.memory,
            now_s,
        ),
        adopting=now_s < adopt_until_s,
    )


def _former_availability(root: RootRecord) -> str:
    return root.availability if root.availability_epoch != root.applied.epoch else ""


def _lingering_s(
    state: ClusterState, relieved_since_s: Mapping[InstanceKey, float], now_s: float
) -> Mapping[InstanceKey, float]:
    tenants = {spec.tenant for spec in state.remote.remote_services} if state.remote else set()
    services = {remote.placed.service for remote in state.remote.remotes} if state.remote else set()
    missing: dict[InstanceKey, float] = {}
    for key, since_s in relieved_since_s.items():
        spec = state.services.get(key.service)
        elsewhere = spec is not None and (spec.tenant in tenants or spec.id in services)
        left_s = (LINGER_S if elsewhere else IN_FLIGHT_S) - (now_s - since_s)
        if left_s > 0:
            missing[key] = left_s
    return missing


def _unproven_s(state: ClusterState, now_s: float) -> Mapping[InstanceKey, float]:
    missing: dict[InstanceKey, float] = {}
    for view in state.views.values():
        for key, (_, since_s) in view.ready_since.items():
            spec = state.services.get(key.service)
            left_s = spec.update.min_ready_s - (now_s - since_s) if spec is not None else 0.0
            if left_s > 0:
                missing[key] = left_s
    return missing


_timeless = look(
    one.name for one in fields(Observed) if one.name not in {"unproven_s", "lingering_s", "memory", "workers"}
)
_timeless_of_a_worker = look(
    one.name for one in fields(WorkerSeen) if one.name not in {"silent_s", "applied"}
)


def only_time_passed(before: Observed, now: Observed) -> bool:
    """Tell whether what is planned now is what was planned before: nothing differs but how long things have lasted,
    and none of that has come to mean more."""
    return (
        _timeless(before) == _timeless(now)
        and before.unproven_s.keys() == now.unproven_s.keys()
        and before.lingering_s.keys() == now.lingering_s.keys()
        and before.memory.means(now.memory)
        and before.workers.keys() == now.workers.keys()
        and all(
            _timeless_of_a_worker(before.workers[id]) == _timeless_of_a_worker(worker)
            for id, worker in now.workers.items()
        )
        and (not _applied_more(before, now) or not waits_for_workers(now))
        and not _patience_ended(before, now)
    )


def waits_for_workers(observed: Observed) -> bool:
    """Tell whether it matters which generation of its assignment a worker has applied."""
    return bool(observed.withdrawals) or any(record.leaving is not None for record in observed.slots.values())


def _applied_more(before: Observed, now: Observed) -> bool:
    return any(before.workers[id].applied != worker.applied for id, worker in now.workers.items())


def _patience_ended(before: Observed, now: Observed) -> bool:
    """Tell whether a lost worker's silence has now reached what some service's disconnect policy allows."""
    lost = [id for id, worker in now.workers.items() if worker.liveness is Liveness.LOST]
    patiences = {spec.disconnect.lost_after_s or 0.0 for spec in now.services.values()} if lost else ()
    return any(
        patience_ended(before.workers[id].silent_s, now.workers[id].silent_s, patiences) for id in lost
    )
