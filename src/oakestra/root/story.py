"""Tell what root decided, as events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ClusterId
from oakestra.model.instance import Placement, Slot
from oakestra.root.decisions import (
    Decision,
    Forget,
    ForgetSlot,
    Move,
    Place,
    SetAside,
    TakeBack,
    Unplaceable,
    Withdraw,
)
from oakestra.root.observe import Observed
from oakestra.root.rebuild.plan import Decline, Insist, Learn, TakeOver
from oakestra.root.rollout import Fail, Progress
from oakestra.root.state import RolloutState, ServiceRecord
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import kinds

Names = Mapping[ClusterId, str]
"""What clusters are called, and what those were called that were removed a moment ago."""


def decided(decisions: Sequence[Decision], observed: Observed, names: Names) -> Iterator[Event]:
    """Yield what the decisions mean to somebody who follows an instance; `observed` is what they were made on."""
    yield from _revised(decisions, observed)
    for decision in decisions:
        match decision:
            case (
                Place(slot=slot, cluster=cluster, placement=placement, reason=reason)
                | Move(slot=slot, cluster=cluster, placement=placement, reason=reason)
            ):
                yield from _requested(slot, observed)
                yield _about(slot, EventKind.PLACED, reason, names.get(cluster, cluster), placement)
            case Unplaceable(slot=slot, reason=reason) if _waits_anew(decision, observed):
                yield from _requested(slot, observed)
                yield _about(slot, EventKind.UNPLACEABLE, reason)
            case SetAside() | TakeBack() | TakeOver():
                yield _of_what_runs(decision, names)
            case Withdraw() | Decline():
                placed, cluster, reason = decision.placed, decision.cluster, decision.reason
                name = names.get(cluster, cluster)
                said = f"{reason}{_and_when(observed, cluster, name)}"
                yield _about(placed.slot, EventKind.WITHDRAWN, said, name, placed.placement)
            case Fail(service=service, reason=reason):
                yield Event(
                    kind=EventKind.UPDATED,
                    reason=_failed(observed.services[service], reason),
                    service=service,
                )
            case Progress(service=service, rollout=rollout) if rollout.state is RolloutState.DONE:
                yield Event(kind=EventKind.UPDATED, reason=rollout.reason, service=service)
            case Forget(placed=placed):
                yield _gone(placed, observed, names)
            case ForgetSlot(slot=slot):
                yield _about(slot, EventKind.GONE, "gone for good; its address rests")
            case _:
                continue


def liveness(before: Mapping[ClusterId, Liveness], observed: Observed) -> Iterator[Event]:
    """Yield whose liveness is another than before."""
    for id, cluster in sorted(observed.clusters.items()):
        name = cluster.record.name
        if id in before and before[id] is not cluster.liveness:
            reason = f"cluster {name} is {cluster.liveness.value}"
            yield Event(kind=EventKind.LIVENESS, reason=reason, subject=name)


def _failed(service: ServiceRecord, reason: str) -> str:
    """Say which update failed and what became of the service: it goes back if that can be and is wanted."""
    now, earlier = service.spec.revision, service.earlier
    failed = f"update to revision {now} failed: {reason}"
    if earlier is None or not service.spec.update.rollback:
        return f"{failed}; it stays as it is, as its update policy says"
    return f"{failed}; went back to revision {earlier.spec.revision}, which is revision {now + 1} now"


def _revised(decisions: Sequence[Decision], observed: Observed) -> Iterator[Event]:
    """Yield which of two updates of a service goes on, if one of them is from records that root lost."""
    known = {id: service.spec.revision for id, service in observed.services.items()}
    learnt = {one.spec.id: one.spec.revision for one in decisions if isinstance(one, Learn)}
    for id, revision in learnt.items():
        if id in known and known[id] < revision:
            reason = f"revision {revision}, which a cluster knows from records that root lost, follows revision {known[id]}"
            yield Event(kind=EventKind.UPDATED, reason=reason, service=id)
    for decision in decisions:
        if isinstance(decision, Insist):
            reason = (
                f"revision {known[decision.service]} is revision {decision.revision} now: it goes before revision "
                f"{decision.revision - 1}, which a cluster knows from records that root lost"
            )
            yield Event(kind=EventKind.UPDATED, reason=reason, service=decision.service)


def _requested(slot: Slot, observed: Observed) -> Iterator[Event]:
    """Yield when an instance was asked for, at the first thing that happens to it."""
    record = observed.slots[slot]
    if record.placement == 0 and not record.reason:
        yield Event(
            kind=EventKind.REQUESTED,
            reason=f"instance {slot.number} was asked for",
            wall_s=record.requested_wall_s,
            service=slot.service,
            slot=slot.number,
        )


def _and_when(observed: Observed, cluster: ClusterId, name: str) -> str:
    """Say when it will go, if that may take long."""
    known = observed.clusters.get(cluster)
    lost = known is not None and known.liveness is Liveness.LOST
    return f"; it goes when cluster {name} is back" if lost else ""


def _waits_anew(decision: Unplaceable, observed: Observed) -> bool:
    """Tell whether an instance waits for another kind of reason than before: free memory changes all the time."""
    record = observed.slots[decision.slot]
    return kinds(record.reason, record.verdicts) != kinds(decision.reason, decision.verdicts)


def _of_what_runs(decision: SetAside | TakeBack | TakeOver, names: Names) -> Event:
    """Return what is told of a placement that goes on, or may, although root's records had or have it elsewhere."""
    match decision:
        case SetAside(slot=slot, cluster=cluster, placement=placement, reason=reason):
            return _about(slot, EventKind.SET_ASIDE, reason, names.get(cluster, cluster), placement)
        case TakeBack(slot=slot, cluster=cluster, status=status, reason=reason):
            return _about(slot, EventKind.ADOPTED, reason, names.get(cluster, cluster), status.key.placement)
        case TakeOver(holder=holder):
            reason = "taken over: root lost the records that put it there"
            placed, name = holder.placed, names.get(holder.cluster, holder.cluster)
            return _about(placed.slot, EventKind.ADOPTED, reason, name, placed.placement)


def _gone(placed: Placement, observed: Observed, names: Names) -> Event:
    cluster = observed.withdrawals[placed].cluster
    name = names.get(cluster, cluster)
    return _about(placed.slot, EventKind.GONE, f"gone from cluster {name}", name, placed.placement)


def _about(slot: Slot, kind: EventKind, reason: str, subject: str = "", placement: int = 0) -> Event:
    return Event(
        kind=kind, reason=reason, service=slot.service, slot=slot.number, subject=subject, placement=placement
    )
