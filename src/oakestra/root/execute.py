"""Carry decisions into root's records. Writes what the pass decides; users' edits are in `operations.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId
from oakestra.model.instance import Placement
from oakestra.model.service import InstanceAddress
from oakestra.root.decisions import (
    Decision,
    EndQuarantine,
    Forget,
    ForgetApplication,
    ForgetService,
    ForgetSlot,
    Forgive,
    LeaseSubnets,
    Move,
    Note,
    Place,
    Remember,
    SetAside,
    TakeBack,
    Unplaceable,
    Withdraw,
)
from oakestra.root.rebuild.execute import rebuild
from oakestra.root.rebuild.plan import Decline, HeardOut, Insist, Learn, Rebuilt, TakeOver
from oakestra.root.reconcile.execute import reconcile
from oakestra.root.rollout import Fail, Progress
from oakestra.root.state import (
    BuriedRecord,
    Leaving,
    QuarantineRecord,
    Rollout,
    RolloutState,
    RootState,
    ServiceRecord,
    SlotRecord,
    WithdrawalRecord,
    placement_key,
    slot_key,
)
from oakestra.scheduling.elsewhere import added, without
from oakestra.wire.native import Version

BURIED_MAX = 1000
"""So many deleted services and applications are remembered: a cluster has to be away for long, and root to lose its
records meanwhile, for one of them to matter."""

QUARANTINE_S = 600.0
"""A released address rests so long: nobody may still send to it when it is given to another service."""


def apply(state: RootState, decisions: Sequence[Decision], *, now_wall_s: float) -> None:
    """Put every decision into the records; `commit` is the caller's."""
    for decision in decisions:
        _apply(state, decision, now_wall_s)


def _apply(state: RootState, decision: Decision, now_wall_s: float) -> None:  # noqa: C901 - a table of decisions
    match decision:
        case Place() | Move():
            _place(state, decision, now_wall_s)
        case Unplaceable() | Remember() | Forgive():
            record = state.slots[slot_key(decision.slot)]
            state.slots.put(slot_key(decision.slot), _annotated(record, decision))
        case Withdraw():
            _withdraw(state, decision)
        case Note(slot=slot, status=status, store=store):
            record = state.slots[slot_key(slot)]
            noted = replace(record, status=status, status_store=store, changed_wall_s=now_wall_s)
            state.slots.put(slot_key(slot), noted)
        case Forget(placed=placed):
            state.withdrawals.remove(placement_key(placed))
        case ForgetSlot(slot=slot):
            _quarantine_slot(state, state.slots[slot_key(slot)], now_wall_s)
            state.slots.remove(slot_key(slot))
        case ForgetService(service=service):
            _forget_service(state, state.services[service], now_wall_s)
        case ForgetApplication(application=application):
            state.applications.remove(application)
            _bury(state, application, now_wall_s)
        case LeaseSubnets(cluster=cluster, subnet_first=first, subnet_count=count):
            state.clusters.put(
                cluster, replace(state.clusters[cluster], subnet_first=first, subnet_count=count)
            )
        case EndQuarantine(key=key):
            state.quarantine.remove(key)
        case SetAside() | TakeBack():
            reconcile(state, decision, now_wall_s=now_wall_s)
        case Learn() | Insist() | TakeOver() | HeardOut() | Rebuilt():
            rebuild(state, decision, now_wall_s=now_wall_s)
        case Decline(placed=placed, cluster=cluster, reason=reason):
            _end(state, placed, cluster, reason)
        case Progress() | Fail():
            _roll(state, decision, now_wall_s)


def _annotated(record: SlotRecord, decision: Unplaceable | Remember | Forgive) -> SlotRecord:
    """Return the record with what is thought of its slot now, which stays where it is."""
    match decision:
        case Unplaceable(reason=reason, verdicts=verdicts):
            return replace(record, reason=reason, verdicts=verdicts)
        case Remember(failed=failed):
            return replace(record, failed=added(record.failed, failed))
        case Forgive(cluster=cluster, reason=""):
            return replace(record, failed=without(record.failed, cluster))
        case Forgive(cluster=cluster, reason=reason):
            return replace(record, failed=without(record.failed, cluster), reason=reason, verdicts=())


def _place(state: RootState, decision: Place | Move, now_wall_s: float) -> None:
    record = state.slots[slot_key(decision.slot)]
    placed = replace(
        record,
        cluster=decision.cluster,
        placement=decision.placement,
        since_generation=state.clusters[decision.cluster].generation + 1,
        reason=decision.reason,
        verdicts=decision.verdicts,
        changed_wall_s=now_wall_s,
    )
    if isinstance(decision, Move):
        assert record.cluster is not None, "only what has a place moves"
        leaving = Leaving(cluster=record.cluster, placement=record.placement, reason=decision.why)
        placed = replace(placed, leaving=leaving)
    elif record.leaving is None or record.turned:
        placed = replace(placed, status=None)  # nothing serves any more of which that could be said
    state.slots.put(slot_key(decision.slot), placed)


def _withdraw(state: RootState, decision: Withdraw) -> None:
    record = state.slots[slot_key(decision.placed.slot)]
    state.slots.put(slot_key(decision.placed.slot), _without(record, decision))
    _end(state, decision.placed, decision.cluster, decision.reason)


def _without(record: SlotRecord, decision: Withdraw) -> SlotRecord:
    """Return the record without one of its placements, and without what was said of it alone."""
    about_it = record.status is not None and record.status.key.placed == decision.placed
    status = None if about_it and record.wanted else record.status
    if record.leaving is not None and record.leaving_placed == decision.placed:
        return replace(record, leaving=None, status=status)
    if record.aside is not None and record.aside_placed == decision.placed:
        return replace(record, aside=None)
    if record.placement == decision.placed.placement:
        return replace(record, cluster=None, status=status, reason=decision.reason, verdicts=())
    return record


def _end(state: RootState, placed: Placement, id: ClusterId, reason: str) -> None:
    """Have a placement gone from a cluster."""
    cluster = state.clusters.get(id)
    if cluster is not None:
        state.withdrawals.put(
            placement_key(placed),
            WithdrawalRecord(
                placed=placed, cluster=id, since_generation=cluster.generation + 1, reason=reason
            ),
        )


def _roll(state: RootState, decision: Progress | Fail, now_wall_s: float) -> None:
    service = state.services[decision.service]
    if isinstance(decision, Fail):
        rolled = _failed(service, decision.reason, now_wall_s)
    else:
        rolled = replace(service, rollout=decision.rollout)
    state.services.put(decision.service, rolled)


def _failed(service: ServiceRecord, reason: str, now_wall_s: float) -> ServiceRecord:
    """Return a service whose update failed: rolled back if that can be."""
    assert service.rollout is not None, "only what is under way fails"
    if service.spec.update.rollback and service.earlier is not None:
        return rolled_back(service, f"rolled back: {reason}", now_wall_s)
    return replace(service, rollout=replace(service.rollout, state=RolloutState.FAILED, reason=reason))


def rolled_back(service: ServiceRecord, reason: str, now_wall_s: float) -> ServiceRecord:
    """Return the service with its earlier spec as a new revision; there is no way further back."""
    assert service.earlier is not None, "only what was updated is rolled back"
    return replace(
        service,
        spec=replace(
            service.earlier.spec,
            revision=service.spec.revision + 1,
            same_as=(*service.earlier.spec.same_as, service.earlier.spec.revision),
        ),
        document=service.earlier.document,
        earlier=None,
        rollout=Rollout(
            state=RolloutState.ROLLED_BACK, began_wall_s=now_wall_s, moved_wall_s=now_wall_s, reason=reason
        ),
    )


def _forget_service(state: RootState, service: ServiceRecord, now_wall_s: float) -> None:
    for address in service.spec.addresses.both:
        _quarantine(state, address, service.spec.tenant, now_wall_s)
    application = state.applications.get(service.spec.application_id)
    if application is not None and service.spec.id in application.services:
        left = tuple(id for id in application.services if id != service.spec.id)
        state.applications.put(application.application.id, replace(application, services=left))
    state.services.remove(service.spec.id)
    _bury(state, service.spec.id, now_wall_s)


def _bury(state: RootState, id: ServiceId | ApplicationId, now_wall_s: float) -> None:
    """Remember what is gone, so that a cluster that knows of it from other records does not bring it back."""
    state.buried.put(id, BuriedRecord(id=id, since_wall_s=now_wall_s))
    if len(state.buried) > BURIED_MAX:
        state.buried.remove(min(state.buried, key=lambda key: state.buried[key].since_wall_s))


def _quarantine_slot(state: RootState, slot: SlotRecord, now_wall_s: float) -> None:
    service = state.services.get(slot.slot.service)
    tenant = service.spec.tenant if service else OrganizationId("")
    _quarantine(state, slot.address, tenant, now_wall_s)


def _quarantine(
    state: RootState, address: InstanceAddress, tenant: OrganizationId, now_wall_s: float
) -> None:
    key = address.v4 or address.v6
    if key:
        until_wall_s = now_wall_s + QUARANTINE_S
        state.quarantine.put(key, QuarantineRecord(address=address, until_wall_s=until_wall_s, tenant=tenant))


def stamp(state: RootState, cluster: ClusterId, digest: str) -> tuple[Version, bool]:
    """Return the version of the cluster's assignment and whether it is new, given a digest of its content."""
    record = state.clusters[cluster]
    changed = record.assignment_digest != digest
    if changed:
        record = replace(record, generation=record.generation + 1, assignment_digest=digest)
        state.clusters.put(cluster, record)
    return Version(epoch=state.records.epoch, generation=record.generation), changed
