"""Tell what a cluster decided and what it saw, as events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from oakestra.cluster.decisions import (
    Adopt,
    Decision,
    Forget,
    Move,
    Place,
    SetAside,
    TakeBack,
    Unplaceable,
    Withdraw,
)
from oakestra.cluster.observe import Observed
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import kinds

Seen = Mapping[InstanceKey, InstanceStatus]
Names = Mapping[WorkerId, str]
"""What workers are called, and what those were called that were removed a moment ago."""


def decided(decisions: Sequence[Decision], observed: Observed, names: Names) -> Iterator[Event]:
    """Yield what the decisions mean to somebody who follows an instance; `observed` is what they were made on."""
    for decision in decisions:
        match decision:
            case (
                Place(slot=slot, worker=worker, attempt=attempt, reason=reason)
                | Move(slot=slot, worker=worker, attempt=attempt, reason=reason)
            ):
                yield _about(slot, EventKind.PLACED, reason, names.get(worker, worker), attempt)
            case Adopt(slot=slot, worker=worker, attempt=attempt, reason=reason):
                yield _about(slot, EventKind.ADOPTED, reason, names.get(worker, worker), attempt)
            case SetAside(slot=slot, worker=worker, reason=reason):
                attempt = observed.slots[slot].attempt
                yield _about(slot, EventKind.SET_ASIDE, reason, names.get(worker, worker), attempt)
            case TakeBack(slot=slot, worker=worker, attempt=attempt, reason=reason):
                yield _about(slot, EventKind.ADOPTED, reason, names.get(worker, worker), attempt)
            case Unplaceable(slot=slot, reason=reason) if _waits_anew(decision, observed):
                yield _about(slot, EventKind.UNPLACEABLE, reason)
            case Withdraw(key=key, worker=worker, reason=reason):
                yield _about(key.slot, EventKind.WITHDRAWN, reason, names.get(worker, worker), key.attempt)
            case Forget(key=key, worker=worker):
                name = names.get(worker, worker)
                yield _about(key.slot, EventKind.GONE, f"gone from {name}", name, key.attempt)
            case _:
                continue


def seen(before: Seen, after: Seen, observed: Observed, names: Names) -> Iterator[Event]:
    """Yield what changed about instances between two passes; of what is being taken away only what is in the way."""
    for key, status in sorted(after.items()):
        known = before.get(key)
        name = names.get(status.worker, status.worker)
        if (status.worker, key) in observed.withdrawals:
            if known is not None and _is_held_up(known, status):
                yield _about(key.slot, EventKind.PHASE, f"still there: {status.reason}", name, key.attempt)
            continue
        if known is not None and status.restart > known.restart:
            why = known.reason or "its process ended"
            yield _about(key.slot, EventKind.RESTARTED, f"restart {status.restart}: {why}", name, key.attempt)
        if (
            known is None
            or (status.phase, status.restart) != (known.phase, known.restart)
            or (status.reason != known.reason and status.reason)
        ):
            yield _about(key.slot, EventKind.PHASE, _said(status), name, key.attempt)
        if status.ready and (known is None or not known.ready):
            yield _about(key.slot, EventKind.READY, "ready: routed to from now on", name, key.attempt)
        if known is not None and known.ready and not status.ready:
            yield _about(key.slot, EventKind.NOT_READY, "no longer routed to", name, key.attempt)


def liveness(before: Mapping[WorkerId, Liveness], observed: Observed) -> Iterator[Event]:
    """Yield who was lost or came back; who was not there before joined. On a bad link everybody is suspected often."""
    for id, worker in sorted(observed.workers.items()):
        name = worker.record.name
        if id not in before:
            continue
        if before[id] is not worker.liveness and Liveness.LOST in (before[id], worker.liveness):
            yield Event(
                kind=EventKind.LIVENESS, reason=f"worker {name} is {worker.liveness.value}", subject=name
            )


def _about(slot: Slot, kind: EventKind, reason: str, subject: str = "", attempt: int = 0) -> Event:
    return Event(
        kind=kind, reason=reason, service=slot.service, slot=slot.number, subject=subject, attempt=attempt
    )


def _waits_anew(decision: Unplaceable, observed: Observed) -> bool:
    """Tell whether an instance waits for another kind of reason than before: free memory changes all the time."""
    record = observed.slots[decision.slot]
    return kinds(record.reason, record.verdicts) != kinds(decision.reason, decision.verdicts)


def _is_held_up(known: InstanceStatus, status: InstanceStatus) -> bool:
    """Tell whether something new keeps it from going: it comes no further, and its worker says why."""
    return status.phase is known.phase and bool(status.reason) and status.reason != known.reason


def _said(status: InstanceStatus) -> str:
    phase = Phase(status.phase).name
    return f"{phase}: {status.reason}" if status.reason else phase
