"""Gather what a cluster wants and sees into one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from oakestra.cluster.state import ClusterState, SlotRecord, WithdrawalRecord, WorkerRecord, WorkerView
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Slot
from oakestra.model.service import ServiceSpec
from oakestra.scheduling.lingering import IN_FLIGHT_S, LINGER_S, since
from oakestra.scheduling.liveness import Liveness, Patience, benefit_of_doubt_s, judge, silence_s
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
    unproven_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """What is ready, but has not been for as long as its service's update policy asks, and how much is missing."""
    relieved_since_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """Of each attempt that a ready successor relieved, since when it has been."""
    lingering_s: Mapping[InstanceKey, float] = field(default_factory=dict)
    """For how much longer those of them stay that somebody may still ask something."""
    adopting: bool
    """The store is new: workers that ran instances before may not have reported them yet."""


def observe(
    state: ClusterState,
    *,
    now_s: float,
    since_s: float,
    patience: Callable[[WorkerView], Patience],
    adopt_until_s: float,
) -> Observed:
    """Return the cluster as it is now. `since_s` is when this process started, or came back from a stall."""
    views = {id: state.view(record.id) for id, record in state.workers.items()}
    silences = {
        id: (silence_s(view.last_seen_s, since_s=since_s, now_s=now_s), patience(view))
        for id, view in views.items()
    }
    benefit_s = benefit_of_doubt_s(tuple(silences.values()))
    workers: dict[WorkerId, WorkerSeen] = {}
    for id, record in state.workers.items():
        report = views[id].report
        silent_s, allowed = silences[id]
        workers[record.id] = WorkerSeen(
            record=record,
            liveness=judge(silent_s, replace(allowed, lost_after_s=allowed.lost_after_s + benefit_s)),
            silent_s=silent_s,
            reported=report is not None,
            complete=report is not None and report.complete,
            applied=report.applied if report else Version(),
            trouble=report.trouble if report else "",
            statuses={status.key: status for status in report.statuses} if report else {},
        )
    leaving = (record for record in state.slots.values() if record.leaving and record.leaving.relieved)
    relieved_since_s = since((record.leaving_key for record in leaving), state.relieved_since_s, now_s)
    return Observed(
        epoch=state.records.epoch,
        services={spec.id: spec for spec in state.services.values()},
        slots={record.placed.slot: record for record in state.slots.values()},
        withdrawals={(record.worker, record.key): record for record in state.withdrawals.values()},
        workers=workers,
        lease=(state.root.subnet_first, state.root.subnet_count),
        root_known=state.root.applied != Version(),
        root_epoch=state.root.applied.epoch,
        origins={origin.service: origin for origin in state.origins.values()},
        unproven_s=_unproven_s(state, now_s),
        relieved_since_s=relieved_since_s,
        lingering_s=_lingering_s(state, relieved_since_s, now_s),
        adopting=now_s < adopt_until_s,
    )


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
