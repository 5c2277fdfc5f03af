"""Decide how a slot moves from one cluster to another while it serves. Pure.

Start before stop, as within a cluster: the earlier placement goes on until its successor is ready, and a little longer,
until everybody is led to that one. A service that wants it the other way round is withdrawn first.

What a cluster cannot get up on any of its workers is tried in another cluster, by the rule that clusters have for their
workers (`scheduling/elsewhere.py`). It does not run, so it goes at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from oakestra.model.ids import ClusterId, ServiceId
from oakestra.model.instance import InstanceStatus, Phase, Placement, Slot
from oakestra.model.service import ServiceSpec, UpdateOrder
from oakestra.root.decisions import Forgive, SetAside, Withdraw
from oakestra.root.observe import ClusterSeen, Observed
from oakestra.root.state import Availability, SlotRecord
from oakestra.scheduling.elsewhere import is_hopeless, is_over
from oakestra.scheduling.lingering import LINGER_S
from oakestra.scheduling.liveness import Liveness

CLUSTER_GRACE_S = 60.0
"""A lost cluster's instances are placed elsewhere after so much silence, unless the SLA says otherwise: they may well go
on there, and the link may come back."""


def given_up(cluster: ClusterSeen, spec: ServiceSpec) -> str:
    """Say that a lost cluster has been silent for longer than a service's instances wait there; nothing before that."""
    policy = spec.disconnect
    grace_s = CLUSTER_GRACE_S if policy.lost_after_s is None else policy.lost_after_s
    if policy.replace and cluster.silent_s >= grace_s:
        return f"cluster {cluster.record.name} is lost, silent for {cluster.silent_s:.0f} s"
    return ""


def departures(observed: Observed) -> Iterator[Withdraw | SetAside]:
    """Yield the end of every earlier placement that is of no use any more, or whose successor has served for long enough."""
    for slot, record in sorted(observed.slots.items()):
        leaving = record.leaving
        if leaving is None:
            continue
        why = _why_end(observed, record)
        lost = "" if why else _given_up(observed, record)
        if lost and record.aside is None:
            yield SetAside(slot=slot, cluster=leaving.cluster, placement=leaving.placement, reason=lost)
        elif why or lost:
            yield Withdraw(placed=record.leaving_placed, cluster=leaving.cluster, reason=why or lost)


def _why_end(observed: Observed, record: SlotRecord) -> str:
    assert record.leaving is not None, "asked only while something leaves"
    cluster = observed.clusters.get(record.leaving.cluster)
    if cluster is None:
        return "its cluster was removed"
    if not record.wanted:
        return "no longer wanted"
    if record.slot.service not in observed.services:
        return "its service is gone"
    if cluster.liveness is Liveness.LOST:
        return "its successor is ready" if _succeeded(observed, record) else ""
    if record.leaving_placed in cluster.refusals:
        return cluster.refusals[record.leaving_placed]
    lingered_s = observed.now_s - observed.turned_since_s.get(record.slot, observed.now_s)
    proven = lingered_s >= _must_linger_s(observed, record.slot)
    if proven and _succeeded(observed, record) and _knows(observed, record):
        return f"its successor is ready: {record.leaving.reason}"
    return ""


def _succeeded(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether everybody is led to the successor, and it is ready still."""
    successor = status_within_reach(observed, record)
    return record.turned and record.is_ready and successor is not None and successor.ready


def _must_linger_s(observed: Observed, slot: Slot) -> float:
    """Return for how long a successor must have been ready until what it follows goes."""
    return max(LINGER_S, observed.services[slot.service].spec.update.min_ready_s)


def lingers_s(observed: Observed) -> Iterator[float]:
    """Yield for how much longer each earlier placement lingers; who has lingered for long enough waits for news, not for
    a time."""
    for slot, at_s in observed.turned_since_s.items():
        if slot.service in observed.services:
            left_s = at_s + _must_linger_s(observed, slot) - observed.now_s
            if left_s > 0:
                yield left_s


def _given_up(observed: Observed, record: SlotRecord) -> str:
    """Say that what was to leave a cluster is out of reach for good, before its successor serves; nothing otherwise."""
    assert record.leaving is not None, "asked only while something leaves"
    cluster = observed.clusters[record.leaving.cluster]
    if cluster.liveness is not Liveness.LOST:
        return ""
    return given_up(cluster, observed.services[record.slot.service].spec)


def _knows(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether the cluster of what follows knows that it does: one that takes something back may not, yet."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    return (
        cluster is not None
        and cluster.applied.epoch == observed.epoch
        and cluster.applied.generation >= record.since_generation
    )


def still_serving(observed: Observed, record: SlotRecord) -> InstanceStatus | None:
    """Return what is to be said of a slot whose earlier placement goes on serving; None while its successor does, or
    while neither does and the successor did last."""
    if record.leaving is None:
        return None
    successor = status_within_reach(observed, record)
    if successor is not None and successor.ready:
        return None
    cluster = observed.clusters.get(record.leaving.cluster)
    earlier = cluster.statuses.get(record.leaving_placed) if cluster else None
    serves = (
        earlier is not None and earlier.ready and cluster is not None and cluster.liveness is Liveness.LIVE
    )
    if record.turned and not serves:
        return None
    if earlier is None:
        return record.status
    return replace(earlier, reason=f"is being moved, {record.leaving.reason}: {_how_far(observed, record)}")


def still_held(observed: Observed) -> Mapping[Slot, str]:
    """Return the slots without a place of which a cluster still holds a placement that must go, and may be seen to go;
    and, of those that wait for somebody who is lost, for whom, and what to do about it."""
    held: dict[Slot, str] = {}
    for placed, withdrawal in sorted(observed.withdrawals.items()):
        record, cluster = observed.slots.get(placed.slot), observed.clusters.get(withdrawal.cluster)
        if record is None or record.cluster is not None or cluster is None:
            continue
        if not _is_given_up(observed, placed, cluster):
            held[placed.slot] = held.get(placed.slot) or _may_still_run(observed, placed, cluster)
    return held


def _may_still_run(observed: Observed, placed: Placement, cluster: ClusterSeen) -> str:
    """Say who would have to return to end what must never run twice; nothing if it is out of nobody's reach."""
    worker = cluster.worker_with(placed)
    if _may_be_replaced(observed, placed.slot):
        return ""
    if cluster.liveness is Liveness.LOST:
        kind, name = "cluster", cluster.record.name
    elif worker is not None and _is_on_lost_worker(cluster, placed):
        kind, name = "worker", worker.name
    else:
        return ""
    return (
        f"may still run {'in' if kind == 'cluster' else 'on'} {kind} {name}, which is lost and has not said that it ended "
        f"it, and must not run twice (disconnect.replace); if that is gone for good: oak {kind} rm {name}"
    )


def _is_given_up(observed: Observed, placed: Placement, cluster: ClusterSeen) -> bool:
    """Tell whether nobody waits to see a placement gone: what has it is lost, and may be replaced."""
    service = observed.services.get(placed.service)
    if cluster.liveness is Liveness.LOST:
        return service is None or bool(given_up(cluster, service.spec))
    return _may_be_replaced(observed, placed.slot) and _is_on_lost_worker(cluster, placed)


def _may_be_replaced(observed: Observed, slot: Slot) -> bool:
    service = observed.services.get(slot.service)
    return service is not None and service.spec.disconnect.replace


def _is_on_lost_worker(cluster: ClusterSeen, placed: Placement) -> bool:
    worker = cluster.worker_with(placed)
    return worker is not None and worker.liveness == Liveness.LOST.value


def on_their_way(observed: Observed, withdrawn: Mapping[Slot, str]) -> Counter[ServiceId]:
    """Count what of each service moves, or was taken away to move: so much its update policy limits.

    `withdrawn` are the slots still held somewhere, and who is waited for that is lost. Who starts first takes nothing away, so what does not get ready
    for other reasons keeps nothing from moving.
    """
    counted: Counter[ServiceId] = Counter()
    for slot, record in observed.slots.items():
        service = observed.services.get(slot.service)
        if service is None or not record.wanted:
            continue
        stops_first = service.spec.update.order is UpdateOrder.STOP_FIRST
        # with verdicts it only waits for room, or it waits for somebody who is lost: counting that would let nothing else
        # of its service ever move
        waits = record.cluster is None and bool(withdrawn.get(slot, record.verdicts))
        away = not waits if record.cluster is None else _starts(observed, record)
        if _leaves(observed, record) or (stops_first and away):
            counted[slot.service] += 1
    return counted


def drained(observed: Observed, record: SlotRecord) -> str:
    """Say that a slot must leave its cluster because that is drained; nothing otherwise, or while it leaves another, or
    cannot be seen to leave and must never run twice."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    draining = cluster is not None and cluster.availability is Availability.DRAINING
    if cluster is None or not draining or record.turned:
        return ""
    lost = cluster.liveness is Liveness.LOST or _is_on_lost_worker(cluster, record.placed)
    if lost and not _may_be_replaced(observed, record.slot):
        return ""
    return f"cluster {cluster.record.name} is drained"


def _leaves(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether a slot is on its way out of a cluster; out of one that is lost, it waits rather than moves."""
    cluster = observed.clusters.get(record.leaving.cluster) if record.leaving is not None else None
    return cluster is not None and cluster.liveness is not Liveness.LOST


def fails(observed: Observed, record: SlotRecord) -> str:
    """Say how an instance fails on every worker of its cluster that would take it; nothing otherwise."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    if cluster is None or cluster.liveness is not Liveness.LIVE or not record.wanted:
        return ""
    return cluster.exhausted.get(record.placed, "")


def avoided(observed: Observed, slot: Slot) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the clusters where this instance would fail, by id, and how: where it failed, or another one of its
    service fails now; and those of them that are out of the question."""
    record, service = observed.slots[slot], observed.services[slot.service]
    others = {
        str(id): f"with instance {placed.number}: {why}"
        for id, cluster in sorted(observed.clusters.items())
        for placed, why in cluster.exhausted.items()
        if placed.service == slot.service and placed.number != slot.number
    }
    own = {one.place: one.why for one in record.failed if service.spec.covers(one.revision)}
    lately = {id: why for id, why in own.items() if (slot, id) in observed.memory.avoided_s}
    return {**others, **own}, {**others, **lately}


def forgiven(observed: Observed) -> Iterator[Forgive]:
    """Yield every failing that does not count any more."""
    for slot, record in observed.slots.items():
        if not record.failed:
            continue
        service = observed.services.get(slot.service)
        up = record.status is not None and record.is_ready and not is_hopeless(record.status)
        for one in record.failed:
            here, cluster = one.place == record.cluster, observed.clusters.get(ClusterId(one.place))
            if here and up and cluster is not None:
                reason = f"{cluster.record.name}: got up there after all"
                yield Forgive(slot=slot, cluster=cluster.record.id, reason=reason)
            elif (
                cluster is None
                or service is None
                or not service.spec.covers(one.revision)
                or ((slot, one.place) not in observed.memory.remembered_s and up)
            ):
                yield Forgive(slot=slot, cluster=ClusterId(one.place))


def _starts(observed: Observed, record: SlotRecord) -> bool:
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    here = cluster is not None and cluster.liveness is Liveness.LIVE and record.placed not in cluster.refusals
    over = record.status is not None and is_over(record.status)  # nobody knows whether it becomes ready
    return here and not record.is_ready and not over


def _how_far(observed: Observed, record: SlotRecord) -> str:
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    if cluster is None:
        return f"no cluster takes its successor yet ({record.reason})"
    if cluster.liveness is Liveness.LOST:
        return f"cluster {cluster.record.name}, which has its successor, is lost"
    successor = cluster.statuses.get(record.placed)
    far = f"{Phase(successor.phase).name} {successor.reason}".strip() if successor else "not heard of yet"
    return f"its successor in {cluster.record.name} is {far}"


def status_within_reach(observed: Observed, record: SlotRecord) -> InstanceStatus | None:
    """Return how the current placement is; None where its cluster or worker is lost: it is of no use to anybody."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    if cluster is None or cluster.liveness is Liveness.LOST or _is_on_lost_worker(cluster, record.placed):
        return None
    return cluster.statuses.get(record.placed)
