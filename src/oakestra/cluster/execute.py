"""Carry decisions and root's assignment into the records. The only writers of a cluster's records besides joining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oakestra.cluster.decisions import (
    Adopt,
    Decision,
    Finish,
    Forget,
    ForgetOrigin,
    ForgetService,
    Forgive,
    GrantSubnet,
    LetServe,
    Move,
    Place,
    Relieve,
    Remember,
    SetAside,
    TakeBack,
    Unplaceable,
    Withdraw,
)
from oakestra.cluster.ledger import as_asked
from oakestra.cluster.render.former import with_former
from oakestra.cluster.state import (
    Aside,
    ClusterState,
    Held,
    Leaving,
    SlotRecord,
    WithdrawalRecord,
    slot_key,
    withdrawal_key,
)
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, Placement
from oakestra.scheduling.elsewhere import added, without
from oakestra.wire.native import ClusterAssignment, Version, service_of


def accept(state: ClusterState, assignment: ClusterAssignment) -> None:
    """Record what root wants. An older generation of the same epoch is ignored; absence removes nothing."""
    applied = state.root.applied
    if applied.epoch == assignment.version.epoch and assignment.version.generation < applied.generation:
        return
    for spec in assignment.services:
        known = state.services.get(spec.id)
        if known is None or known.revision <= spec.revision:
            state.services.put(spec.id, spec)
    _accept_origins(state, assignment)
    for assigned in assignment.slots:
        fresh = SlotRecord(
            placed=assigned.placed,
            address=assigned.address,
            epoch=assignment.version.epoch,
            seen_on=assigned.seen_on,
            turned=assigned.turned,
            done=assigned.done,
        )
        _accept_slot(state, assigned.placed, fresh)
    for placed in assignment.withdrawn:
        record = state.slots.get(slot_key(placed.slot))
        if record is not None and record.placed.placement <= placed.placement:
            _vacate(state, record, reason="withdrawn by root")
            state.slots.remove(slot_key(placed.slot))
    first, count = assignment.subnet_lease or (state.root.subnet_first, state.root.subnet_count)
    state.root = replace(state.root, applied=assignment.version, subnet_first=first, subnet_count=count)
    if assignment.availability:
        state.root = replace(
            state.root,
            availability=assignment.availability,
            availability_epoch=assignment.version.epoch,
        )
    if assignment.heard_out:
        state.root = replace(state.root, heard_epoch=assignment.version.epoch)
    state.remote = with_former(state.remote, assignment)


def _accept_origins(state: ClusterState, assignment: ClusterAssignment) -> None:
    """Record where services come from; what root's other records said of later revisions is kept, to be claimed.

    What these records of root's told of an application, and no longer do, was deleted.
    """
    specs = service_of(assignment.services)
    for origin in assignment.origins:
        known, told = state.services.get(origin.service), origin.spec or specs.get(origin.service)
        if known is None or told is None or known.revision <= told.revision:
            state.origins.put(origin.service, origin)
    applications = {origin.application.id for origin in assignment.origins}
    services = {origin.service for origin in assignment.origins}
    for origin in tuple(state.origins.values()):
        same = origin.epoch == assignment.version.epoch and origin.application.id in applications
        if same and origin.service not in services:
            state.origins.remove(origin.service)


def _accept_slot(state: ClusterState, placed: Placement, fresh: SlotRecord) -> None:
    record = state.slots.get(slot_key(placed.slot))
    if record is None:
        state.slots.put(slot_key(placed.slot), fresh)
    elif record.placed.placement < placed.placement:
        _vacate(state, record, reason="root placed the slot anew")
        state.slots.put(slot_key(placed.slot), fresh)
    elif record.placed == placed:
        state.slots.put(
            slot_key(placed.slot),
            replace(record, address=fresh.address, epoch=fresh.epoch, turned=fresh.turned),
        )


def _vacate(state: ClusterState, record: SlotRecord, *, reason: str) -> None:
    for worker, key in record.attempts:
        _withdraw(state, key, worker, held=_held(record, key), reason=reason)


def _held(record: SlotRecord | None, key: InstanceKey) -> Held | None:
    if record is not None and record.leaving is not None and record.leaving_key == key:
        return record.leaving.held
    if record is not None and record.aside is not None and record.aside_key == key:
        return record.aside.held
    return record.held if record is not None and record.key == key else None


def _withdraw(
    state: ClusterState, key: InstanceKey, worker: WorkerId, *, held: Held | None, reason: str
) -> None:
    known = state.workers.get(worker)
    if known is None or withdrawal_key(worker, key) in state.withdrawals:
        return
    state.withdrawals.put(
        withdrawal_key(worker, key),
        WithdrawalRecord(
            key=key, worker=worker, since_generation=known.generation + 1, held=held, reason=reason
        ),
    )


def apply(state: ClusterState, decisions: Sequence[Decision]) -> None:
    """Put every decision into the records; `commit` is the caller's."""
    for decision in decisions:
        _apply(state, decision)


def _apply(state: ClusterState, decision: Decision) -> None:  # noqa: C901 - a table of decisions
    match decision:
        case Place(slot=slot, worker=worker, attempt=attempt, reason=reason, verdicts=verdicts):
            record = state.slots[slot_key(slot)]
            spec = state.services[slot.service]
            placed = replace(
                record,
                worker=worker,
                attempt=attempt,
                revision=spec.revision,
                held=as_asked(spec),
                former=(),
                reason=reason,
                verdicts=verdicts,
            )
            state.slots.put(slot_key(slot), placed)
        case Move():
            _move(state, decision)
        case Relieve(slot=slot, routes=routes):
            record = state.slots[slot_key(slot)]
            assert record.leaving is not None, "only what leaves is relieved"
            state.slots.put(slot_key(slot), replace(record, leaving=replace(record.leaving, relieved=routes)))
        case Adopt():
            _adopt(state, decision)
        case SetAside():
            _set_aside(state, decision)
        case TakeBack():
            _take_back(state, decision)
        case LetServe():
            _let_serve(state, decision)
        case Forgive():
            _forgive(state, decision)
        case Unplaceable() | Remember() | Finish():
            record = state.slots[slot_key(decision.slot)]
            state.slots.put(slot_key(decision.slot), _annotated(record, decision))
        case Withdraw(key=key, worker=worker, reason=reason):
            current = state.slots.get(slot_key(key.slot))
            _withdraw(state, key, worker, held=_held(current, key), reason=reason)
            if current is not None and (worker, key) in current.attempts:
                state.slots.put(slot_key(key.slot), _without(current, key, reason))
        case Forget(worker=worker, key=key):
            state.withdrawals.remove(withdrawal_key(worker, key))
        case ForgetService() | ForgetOrigin():
            _forget_service(state, decision)
        case GrantSubnet(worker=worker, index=index):
            known = state.workers[worker]
            granted = (*known.subnet_indexes, index)
            state.workers.put(worker, replace(known, subnet_indexes=granted))


def _forgive(state: ClusterState, decision: Forgive) -> None:
    record = state.slots[slot_key(decision.slot)]
    forgiven = replace(record, failed=without(record.failed, decision.worker))
    if decision.reason:
        forgiven = replace(forgiven, reason=decision.reason, verdicts=())
    state.slots.put(slot_key(decision.slot), forgiven)


def _annotated(record: SlotRecord, decision: Unplaceable | Remember | Finish) -> SlotRecord:
    """Return the record with what is known of its slot now, which stays where it is."""
    match decision:
        case Unplaceable(reason=reason, verdicts=verdicts):
            return replace(record, reason=reason, verdicts=verdicts)
        case Remember(failed=failed):
            return replace(record, failed=added(record.failed, failed))
        case Finish(status=status):
            return replace(record, done=status)


def _forget_service(state: ClusterState, decision: ForgetService | ForgetOrigin) -> None:
    """Forget a service that has no instance here any more; as one of its application it may go on being known."""
    service = decision.service
    if isinstance(decision, ForgetOrigin):
        state.origins.remove(service)
        return
    origin = state.origins.get(service)
    if origin is not None and origin.spec is None:
        state.origins.put(service, replace(origin, spec=state.services[service]))
    state.services.remove(service)


def _move(state: ClusterState, move: Move) -> None:
    record = state.slots[slot_key(move.slot)]
    assert record.worker is not None, "only what has a place moves"
    leaving = record.leaving or Leaving(
        worker=record.worker,
        attempt=record.attempt,
        former=record.former,
        held=record.held,
        reason=move.reason,
    )
    spec = state.services[move.slot.service]
    moved = replace(
        record,
        worker=move.worker,
        attempt=move.attempt,
        revision=spec.revision,
        held=as_asked(spec),
        former=(),
        leaving=leaving,
        reason=move.reason,
        verdicts=move.verdicts,
    )
    state.slots.put(slot_key(move.slot), moved)


def _set_aside(state: ClusterState, decision: SetAside) -> None:
    """Keep an attempt for its worker's return: the slot's own, which has no place then, or one that was to leave."""
    record = state.slots[slot_key(decision.slot)]
    leaving = record.leaving
    given_up = leaving if leaving is not None and leaving.attempt == decision.attempt else record
    aside = Aside(
        worker=decision.worker,
        attempt=decision.attempt,
        former=given_up.former,
        revision=decision.revision,
        restart=decision.restart,
        held=given_up.held,
    )
    rest = replace(record, worker=None, former=()) if given_up is record else replace(record, leaving=None)
    state.slots.put(slot_key(decision.slot), replace(rest, aside=aside))


def _take_back(state: ClusterState, decision: TakeBack) -> None:
    """Make an earlier attempt the current one; its replacement, if there is one, serves until it is proven."""
    record = state.slots[slot_key(decision.slot)]
    aside = record.aside if record.aside is not None and record.aside.attempt == decision.continues else None
    earlier = aside or record.leaving
    assert earlier is not None, "only what was set aside, or was to leave, is taken back"
    replacement = None
    if record.worker is not None:
        replacement = Leaving(
            worker=record.worker,
            attempt=record.attempt,
            former=record.former,
            held=record.held,
            reason=decision.reason,
        )
    taken = replace(
        record,
        worker=decision.worker,
        attempt=decision.attempt,
        former=decision.former,
        revision=decision.revision,
        held=_held(record, InstanceKey(*record.placed, decision.continues)),
        leaving=replacement,
        aside=None if aside is not None else record.aside,
        reason=decision.reason,
        verdicts=(),
    )
    state.slots.put(slot_key(decision.slot), taken)


def _let_serve(state: ClusterState, decision: LetServe) -> None:
    record = state.slots[slot_key(decision.slot)]
    aside = record.aside
    assert aside is not None, "only what was set aside serves again"
    leaving = Leaving(
        worker=aside.worker,
        attempt=aside.attempt,
        former=aside.former,
        held=aside.held,
        reason=decision.reason,
    )
    state.slots.put(slot_key(decision.slot), replace(record, leaving=leaving, aside=None))


def _adopt(state: ClusterState, adoption: Adopt) -> None:
    record = state.slots[slot_key(adoption.slot)]
    _vacate(state, record, reason="a later attempt was found running")
    adopted = replace(
        record,
        worker=adoption.worker,
        attempt=adoption.attempt,
        revision=adoption.revision,
        held=None,
        former=adoption.former,
        leaving=None,
        aside=None,
        reason=adoption.reason,
    )
    state.slots.put(slot_key(adoption.slot), adopted)


def _without(record: SlotRecord, key: InstanceKey, reason: str) -> SlotRecord:
    """Return the record without one of its attempts."""
    if record.leaving is not None and record.leaving_key == key:
        return replace(record, leaving=None)
    if record.aside is not None and record.aside_key == key:
        return replace(record, aside=None)
    return replace(record, worker=None, former=(), reason=reason)


def stamp(state: ClusterState, worker: WorkerId, digest: str) -> tuple[Version, bool]:
    """Return the version of the worker's assignment and whether it is new, given a digest of its content."""
    record = state.workers[worker]
    changed = record.assignment_digest != digest
    if changed:
        record = replace(record, generation=record.generation + 1, assignment_digest=digest)
        state.workers.put(worker, record)
    return Version(epoch=state.records.epoch, generation=record.generation), changed
