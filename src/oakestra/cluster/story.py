"""Tell what a cluster decided and what it saw, as events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from oakestra.cluster.decisions import (
    Adopt,
    Decision,
    Forget,
    LetServe,
    Move,
    Place,
    SetAside,
    TakeBack,
    Unplaceable,
    Withdraw,
)
from oakestra.cluster.observe import Observed, Withdrawn
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import kinds

Seen = Mapping[InstanceKey, InstanceStatus]
Names = Mapping[WorkerId, str]
"""What workers are called, and what those were called that were removed a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a pass found, so that the next one tells only what is new."""

    liveness: Mapping[WorkerId, Liveness] = field(default_factory=dict)
    statuses: Seen = field(default_factory=dict)
    names: Names = field(default_factory=dict)
    held_up: frozenset[Withdrawn] | None = None
    """What cannot be taken away, and was told; None before the first pass."""


def told(known: Known, decisions: Sequence[Decision], observed: Observed) -> tuple[tuple[Event, ...], Known]:
    """Return what a pass saw and decided that was not known yet, and what is known from now on."""
    statuses = {
        key: status for worker in observed.workers.values() for key, status in worker.statuses.items()
    }
    now = {id: worker.record.name for id, worker in observed.workers.items()}
    names = {**known.names, **now}
    held = out_of_reach(observed)
    events = (
        *liveness(known.liveness, observed),
        *seen(known.statuses, statuses, observed, names),
        *held_up(held - (held if known.held_up is None else known.held_up), names),
        *decided(decisions, observed, names),
    )
    ended = {(one.worker, one.key) for one in decisions if isinstance(one, Withdraw)}
    return events, Known(
        liveness={id: worker.liveness for id, worker in observed.workers.items()},
        statuses=statuses,
        names=now,
        held_up=held | ended,  # of those just ended it was told when they will go
    )


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
            case SetAside(slot=slot, worker=worker, attempt=attempt, reason=reason):
                yield _about(slot, EventKind.SET_ASIDE, reason, names.get(worker, worker), attempt)
            case TakeBack(slot=slot, worker=worker, attempt=attempt, reason=reason):
                yield _about(slot, EventKind.ADOPTED, reason, names.get(worker, worker), attempt)
            case LetServe(slot=slot, reason=reason):
                aside = observed.slots[slot].aside
                assert aside is not None, "decided only of what was set aside"
                name = names.get(aside.worker, aside.worker)
                yield _about(slot, EventKind.ADOPTED, reason, name, aside.attempt)
            case Unplaceable(slot=slot, reason=reason) if _waits_anew(decision, observed):
                yield _about(slot, EventKind.UNPLACEABLE, reason)
            case Withdraw(key=key, worker=worker, reason=reason):
                name = names.get(worker, worker)
                lost = worker in observed.workers and observed.workers[worker].liveness is Liveness.LOST
                said = f"{reason}; {_when_back(name)}" if lost else reason
                yield _about(key.slot, EventKind.WITHDRAWN, said, name, key.attempt)
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


def out_of_reach(observed: Observed) -> frozenset[Withdrawn]:
    """Return what cannot be taken away for now, because its worker is lost."""
    return frozenset(
        (id, key)
        for id, key in observed.withdrawals
        if id in observed.workers and observed.workers[id].liveness is Liveness.LOST
    )


def held_up(found: Iterable[Withdrawn], names: Names) -> Iterator[Event]:
    """Yield what cannot be taken away for now, as was found just now."""
    for id, key in sorted(found):
        name = names.get(id, id)
        reason = f"still there: worker {name} is lost; {_when_back(name)}"
        yield _about(key.slot, EventKind.PHASE, reason, name, key.attempt)


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


def _when_back(name: str) -> str:
    return f"it goes when {name} is back, or is removed for good (oak worker rm {name})"


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
