"""Decide which of two placements of one slot stays when a lost cluster returns with the one that was replaced. Pure.

The one that was replaced is set aside, not withdrawn: it may be wanted back while its replacement is not ready. It keeps its slot's address, and
nobody is led to it, until its cluster has said how it is and the service's policy decides. Then it goes, or it goes on
under the number that it has: it serves at once, and its replacement leaves as whatever has a successor does.
What was to leave a drained cluster stays, too, if the cluster is drained no longer before a successor serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from oakestra.model.ids import ClusterId
from oakestra.model.instance import Placement, Slot, is_done
from oakestra.model.service import Reconcile, Resources, ServiceSpec
from oakestra.root.decisions import TakeBack, Withdraw
from oakestra.root.moves import status_within_reach
from oakestra.root.observe import ClusterSeen, Observed
from oakestra.root.state import Aside, Availability, SlotRecord
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice, choose_cluster
from oakestra.scheduling.reconcile import Stays, who_stays
from oakestra.scheduling.request import ClusterCandidate, Pool, Request

Candidates = Callable[[Slot], Sequence[ClusterCandidate]]


def is_set_aside(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether a placement that is given up may be wanted back: a lost cluster has it."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    return (
        record.aside is None
        and record.leaving is None
        and cluster is not None
        and cluster.liveness is Liveness.LOST
    )


def returned(observed: Observed, candidates: Candidates) -> Iterator[TakeBack | Withdraw]:
    """Yield what becomes of every placement that was set aside, once that can be told."""
    for _, record in sorted(observed.slots.items()):
        aside = record.aside
        if aside is None:
            continue
        why = _why_never(observed, record, aside)
        if why:
            yield Withdraw(placed=record.aside_placed, cluster=aside.cluster, reason=why)
        elif record.leaving is None and _is_known(observed, record, aside):
            yield from _decided(observed, candidates, record, aside)


def called_off(observed: Observed) -> Iterator[Withdraw | TakeBack]:
    """Yield what need not leave any more: its cluster is drained no longer, and no successor serves yet."""
    for _, record in sorted(observed.slots.items()):
        cluster = observed.clusters.get(record.leaving.cluster) if record.leaving is not None else None
        if record.leaving is None or cluster is None or not _may_stay(observed, record, cluster):
            continue
        reason = f"cluster {cluster.record.name} is not drained, and no successor is ready"
        if record.cluster is not None:
            yield Withdraw(placed=record.placed, cluster=record.cluster, reason=reason)
        yield TakeBack(
            slot=record.slot,
            cluster=record.leaving.cluster,
            placement=record.leaving.placement,
            status=cluster.statuses[record.leaving_placed],
            store=cluster.store,
            reason=reason,
        )


def _may_stay(observed: Observed, record: SlotRecord, cluster: ClusterSeen) -> bool:
    earlier = cluster.statuses.get(record.leaving_placed)
    service = observed.services.get(record.slot.service)
    successor = status_within_reach(observed, record)
    return (
        earlier is not None
        and earlier.ready
        and not record.turned
        and not (successor is not None and successor.ready)
        and cluster.liveness is Liveness.LIVE
        and cluster.availability is not Availability.DRAINING
        and record.leaving_placed not in cluster.refusals
        and record.wanted
        and service is not None
        and service.spec.covers(earlier.revision)
    )


def _why_never(observed: Observed, record: SlotRecord, aside: Aside) -> str:
    cluster = observed.clusters.get(aside.cluster)
    service = observed.services.get(record.slot.service)
    if cluster is None:
        return "its cluster was removed"
    if not record.wanted or service is None:
        return "no longer wanted"
    if not service.spec.covers(aside.revision):
        return f"updated to revision {service.spec.revision}"
    if is_done(service.spec, record.status):
        return "its replacement has done its work"
    if service.spec.one_shot and _may_be_done(observed, record, aside):
        return ""
    replacement = status_within_reach(observed, record)
    if replacement is None or not replacement.ready:
        return ""
    if service.spec.disconnect.reconcile is Reconcile.KEEP_REPLACEMENT:
        return "its replacement is kept"
    if cluster.availability is Availability.DRAINING:
        return f"cluster {cluster.record.name} is drained"
    return ""


def _may_be_done(observed: Observed, record: SlotRecord, aside: Aside) -> bool:
    """Tell whether a job did all its work while it was away, as its cluster says, or may say yet."""
    original = observed.clusters[aside.cluster].statuses.get(record.aside_placed)
    done = is_done(observed.services[record.slot.service].spec, original)
    return done or not _is_known(observed, record, aside)


def _has_returned(observed: Observed, cluster: ClusterSeen, aside: Aside) -> bool:
    """Tell whether the last report was made after the cluster's return: before it, nobody told it of this."""
    return (
        cluster.liveness is Liveness.LIVE
        and cluster.complete
        and cluster.applied.epoch == observed.epoch
        and cluster.applied.generation >= aside.since_generation
    )


def _is_known(observed: Observed, record: SlotRecord, aside: Aside) -> bool:
    """Tell whether it is known how a placement is: its cluster returned, and has heard from the worker that has it."""
    cluster = observed.clusters[aside.cluster]
    if not _has_returned(observed, cluster, aside):
        return False
    worker = cluster.worker_with(record.aside_placed)
    return worker is None or worker.live or worker.liveness == Liveness.LOST.value


def _decided(
    observed: Observed, candidates: Candidates, record: SlotRecord, aside: Aside
) -> Iterator[TakeBack | Withdraw]:
    cluster, spec = observed.clusters[aside.cluster], observed.services[record.slot.service].spec
    original = cluster.statuses.get(record.aside_placed)
    stays, why = who_stays(
        spec.disconnect.reconcile,
        original,
        status_within_reach(observed, record),
        undisturbed=original is not None
        and (original.key.attempt, original.restart) == (aside.attempt, aside.restart),
        scores_better=lambda: _scores_better(observed, candidates(record.slot), record, spec),
        done=(done := is_done(spec, original)),
    )
    if stays is Stays.ORIGINAL and original is not None:
        reason = f"{cluster.record.name} is back: {why}"
        if done and record.cluster is not None:
            yield Withdraw(placed=record.placed, cluster=record.cluster, reason=reason)
        yield TakeBack(
            slot=record.slot,
            cluster=aside.cluster,
            placement=aside.placement,
            status=original,
            store=cluster.store,
            reason=reason,
        )
    else:
        yield Withdraw(placed=record.aside_placed, cluster=aside.cluster, reason=why)


def _scores_better(
    observed: Observed, candidates: Sequence[ClusterCandidate], record: SlotRecord, spec: ServiceSpec
) -> bool:
    """Tell whether the original's cluster would be chosen, if neither of the two were there."""
    assert record.aside is not None, "asked only of what was set aside"
    there = dict(record.rightful)
    freed = [
        replace(
            candidate,
            pools=_freed(observed.clusters[holder], candidate.pools, there[holder], spec.resources),
            siblings=candidate.siblings - (holder == record.cluster),
            refused="",
        )
        for candidate in candidates
        if (holder := ClusterId(candidate.id)) in there
    ]
    verdict = choose_cluster(Request.of(spec), freed)
    return isinstance(verdict, Choice) and verdict.id == record.aside.cluster


def _freed(
    cluster: ClusterSeen, pools: Sequence[Pool], placed: Placement, taken: Resources
) -> tuple[Pool, ...]:
    """Return what a cluster offers once an instance that is there is gone."""
    worker = cluster.worker_with(placed)
    if worker is None:
        return tuple(pools)
    return tuple(
        replace(
            pool,
            free=pool.free + taken,
            largest_free=Resources.largest((pool.largest_free, worker.free + taken)),
        )
        if pool.architecture == worker.capacity.architecture
        and pool.virtualization in worker.capacity.virtualizations
        else pool
        for pool in pools
    )
