"""Decide which cluster has which slot, and when what users deleted is really gone. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain

from oakestra.model.ids import ClusterId, ServiceId
from oakestra.model.instance import InstanceStatus, Placement, Slot, is_done, merge, order
from oakestra.model.service import Resources, ServiceSpec, UpdateOrder
from oakestra.root.addresses import around, grown
from oakestra.root.decisions import (
    Decision,
    EndQuarantine,
    Forget,
    ForgetApplication,
    ForgetService,
    ForgetSlot,
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
from oakestra.root.moves import (
    avoided,
    departures,
    drained,
    fails,
    forgiven,
    given_up,
    on_their_way,
    still_held,
    still_serving,
)
from oakestra.root.observe import ClusterSeen, Observed
from oakestra.root.rebuild.plan import TakeOver, claims, rebuilt
from oakestra.root.reconcile.plan import called_off, is_set_aside, returned
from oakestra.root.rollout import rollouts
from oakestra.root.state import Availability, SlotRecord, WithdrawalRecord
from oakestra.scheduling.elsewhere import Failed, stays
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice, choose_cluster, rather
from oakestra.scheduling.remedies import cluster_remedy
from oakestra.scheduling.request import ClusterCandidate, Pool, Request
from oakestra.wire.native import Aggregate

_Change = Note | Withdraw | SetAside | TakeBack | Place | Move | Remember | Unplaceable
"""What becomes of one slot."""


def plan(observed: Observed) -> tuple[Decision, ...]:
    """Return what must change so that every wanted slot has a cluster, and every other nothing.

    What is gone comes first, then withdrawals, then placements; a tombstone goes one pass after the last thing
    it waited for.
    """
    gone = tuple(_gone(observed))
    answered = tuple(claims(observed))
    taken = {decision.holder.placed.slot for decision in answered if isinstance(decision, TakeOver)}
    ledger = _Ledger(observed)
    return (
        *gone,
        *forgiven(observed),
        *answered,
        *(decision for decision in _changes(observed, ledger) if _slot_of(decision) not in taken),
        *rebuilt(observed),
        *_leases(observed),
        *rollouts(observed),
        *_tombstones(observed, {decision.placed for decision in gone}),
        *(
            EndQuarantine(key=key)
            for key, until in sorted(observed.quarantined.items())
            if until <= observed.now_wall_s
        ),
    )


def _changes(observed: Observed, ledger: _Ledger) -> Iterator[_Change]:
    yield from _notes(observed)
    yield from departures(observed)
    yield from _unwanted(observed)
    back = (*returned(observed, ledger.candidates), *called_off(observed))
    yield from back
    besides = {decision.slot for decision in back if isinstance(decision, TakeBack)}
    yield from _placements(observed, ledger, besides=besides)
    yield from _tried_elsewhere(observed, ledger, besides=besides)


def _leases(observed: Observed) -> Iterator[LeaseSubnets]:
    leases = {id: cluster.record.lease for id, cluster in sorted(observed.clusters.items())}
    for id, had in tuple(leases.items()):
        others = [lease for other, lease in leases.items() if other != id]
        workers = observed.clusters[id].workers
        used = {index for worker in workers for index in worker.subnet_indexes}
        needed = sum(max(len(worker.subnet_indexes), 1) for worker in workers)
        leases[id] = grown(around(used, had, others), others, used=needed)
        if leases[id] != had:
            first, count = leases[id]
            yield LeaseSubnets(cluster=id, subnet_first=first, subnet_count=count)


def _slot_of(decision: _Change) -> Slot:
    return decision.placed.slot if isinstance(decision, Withdraw) else decision.slot


def remedies(observed: Observed, slots: Sequence[Slot]) -> Mapping[Slot, str]:
    """Return the least that would have to change for each slot to get a cluster; nothing where nothing has to."""
    ledger = _Ledger(observed)
    return {
        slot: cluster_remedy(
            Request.of(observed.services[slot.service].spec, avoided=avoided(observed, slot)[1]),
            ledger.candidates(slot),
        )
        for slot in slots
        if slot.service in observed.services
    }


def _gone(observed: Observed) -> Iterator[Forget]:
    for placed, withdrawal in sorted(observed.withdrawals.items()):
        cluster = observed.clusters.get(withdrawal.cluster)
        if cluster is None or _shown_gone(cluster, withdrawal, epoch=observed.epoch):
            yield Forget(placed=placed)


def _shown_gone(cluster: ClusterSeen, withdrawal: WithdrawalRecord, *, epoch: int) -> bool:
    return (
        cluster.complete
        and cluster.applied.epoch == epoch
        and cluster.applied.generation >= withdrawal.since_generation
        and withdrawal.placed not in cluster.statuses
    )


def _notes(observed: Observed) -> Iterator[Note]:
    for slot, record in sorted(observed.slots.items()):
        serving = still_serving(observed, record)
        where = (
            record.leaving.cluster if record.leaving is not None and serving is not None else record.cluster
        )
        cluster = observed.clusters.get(where) if where else None
        seen = serving or (cluster.statuses.get(record.placed) if cluster else None)
        if cluster is None or seen is None:
            continue
        truer = _unless_lost(_truer(record, seen, cluster), cluster)
        if truer != record.status:
            yield Note(slot=slot, status=truer, store=cluster.store)


def _truer(record: SlotRecord, seen: InstanceStatus, cluster: ClusterSeen) -> InstanceStatus:
    """Return the truer of the status on record and the one seen now.

    A cluster's new store counts attempts anew, so its word replaces that of the lost one, once it knows what runs.
    """
    if record.status is None:
        return seen
    if record.status_store != cluster.store:
        return seen if cluster.complete else record.status
    if order(seen) == order(record.status):
        return seen  # the same report in other words: what is lost is ready no more, without having moved
    if seen.ready and not (record.status.ready and seen.key == record.status.key):
        return seen  # a successor was lost, or fell, before its predecessor had gone: that one serves
    return merge(record.status, seen)


def _unless_lost(status: InstanceStatus, cluster: ClusterSeen) -> InstanceStatus:
    """Return the status, not ready any more if its worker is lost: a cluster that never heard of it since its own
    restart has nothing newer to say about it."""
    lost = {worker.id: worker.name for worker in cluster.workers if worker.liveness == Liveness.LOST.value}
    if not status.ready or status.worker not in lost:
        return status
    return replace(status, ready=False, reason=f"worker {lost[status.worker]} is lost")


def _unwanted(observed: Observed) -> Iterator[Withdraw]:
    for _, record in sorted(observed.slots.items()):
        if record.cluster is not None and not record.wanted:
            yield Withdraw(placed=record.placed, cluster=record.cluster, reason="no longer wanted")


class _Ledger:
    """Clusters as candidates, kept up to date while placements are decided."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._pending: defaultdict[ClusterId, Resources] = defaultdict(Resources)
        self._services: defaultdict[ClusterId, Counter[ServiceId]] = defaultdict(Counter)
        for slot, record in observed.slots.items():
            service = observed.services.get(slot.service)
            if service is None:
                continue
            for holder, _ in record.placements:
                self._services[holder][slot.service] += 1
            if record.cluster is None:
                continue
            cluster = observed.clusters.get(record.cluster)
            if cluster is not None and not _counted(cluster, record, observed.epoch):
                self._pending[record.cluster] += service.spec.resources

    def give(self, record: SlotRecord, spec: ServiceSpec, choice: Choice, because: str = "") -> Place:
        """Return a slot's next placement, in the cluster that was chosen; what it takes there is not free any more."""
        cluster = ClusterId(choice.id)
        self._pending[cluster] += spec.resources
        self._services[cluster][spec.id] += 1
        return Place(
            slot=record.slot,
            cluster=cluster,
            placement=self.next_placement(record),
            reason=f"{choice.name}: {choice.reason}" + (f" ({because})" if because else ""),
            verdicts=choice.verdicts,
        )

    def next_placement(self, record: SlotRecord) -> int:
        """Return a number that neither these records gave, nor any that are gone, as far as clusters tell of it."""
        return max(record.next_placement, 1 + self._told[record.slot])

    @cached_property
    def _told(self) -> Counter[Slot]:
        """The highest placement of each slot that clusters tell of, or were told to end."""
        told: Counter[Slot] = Counter()
        statuses = (one.statuses for one in self._observed.clusters.values())
        for placed in chain(*statuses, self._observed.withdrawals):
            told[placed.slot] = max(told[placed.slot], placed.placement)
        return told

    def candidates(self, slot: Slot) -> list[ClusterCandidate]:
        return [
            ClusterCandidate(
                id=id,
                name=cluster.record.name,
                unusable=_unusable(cluster),
                pools=tuple(_pool(aggregate, self._pending[id]) for aggregate in cluster.aggregates),
                siblings=self._services[id][slot.service],
                refused=self._refused(slot, id),
            )
            for id, cluster in sorted(self._observed.clusters.items())
        ]

    def _refused(self, slot: Slot, cluster: ClusterId) -> str:
        record = self._observed.slots[slot]
        if record.leaving is not None and record.leaving.cluster == cluster:
            return "its earlier placement is on its way out of there"
        if record.aside is not None and record.aside.cluster == cluster:
            return "has an earlier placement of it, which may be taken back"
        refused = self._observed.refused.get((slot, cluster))
        return refused.reason if refused else ""


def _counted(cluster: ClusterSeen, record: SlotRecord, epoch: int) -> bool:
    """Tell whether the cluster's report already has this slot in what it calls free."""
    return cluster.applied.epoch == epoch and cluster.applied.generation >= record.since_generation


def _pool(aggregate: Aggregate, pending: Resources) -> Pool:
    return Pool(
        architecture=aggregate.architecture,
        virtualization=aggregate.virtualization,
        free=aggregate.free - pending,
        total=aggregate.total,
        largest_free=_limited(aggregate.largest_free, aggregate.free - pending),
    )


def _limited(piece: Resources, free: Resources) -> Resources:
    """Return the largest free piece, which cannot be larger than all that is free together."""
    return Resources(
        memory_mib=min(piece.memory_mib, free.memory_mib),
        vcpus=min(piece.vcpus, free.vcpus),
        vgpus=min(piece.vgpus, free.vgpus),
        vtpus=min(piece.vtpus, free.vtpus),
        storage_mib=min(piece.storage_mib, free.storage_mib),
    )


def _unusable(cluster: ClusterSeen) -> str:
    if cluster.liveness is Liveness.LOST:
        return "lost"
    if cluster.liveness is Liveness.SUSPECT:
        return "has not been heard of for a while"
    if cluster.availability is not Availability.ACTIVE:
        return cluster.availability.value
    if not cluster.told:
        return "has not reported yet"
    return ""


def _placements(
    observed: Observed, ledger: _Ledger, *, besides: set[Slot]
) -> Iterator[Place | Move | Unplaceable | Withdraw | SetAside]:
    withdrawn = still_held(observed)
    moving = on_their_way(observed, withdrawn)
    for slot, record in sorted(observed.slots.items()):
        service = observed.services.get(slot.service)
        if service is None or not record.wanted or slot in besides or is_done(service.spec, record.status):
            continue
        why = _why_move(observed, record, service.spec)
        asked = "" if why else drained(observed, record)
        serves = bool(asked) and record.is_ready and record.leaving is None
        full = moving[slot.service] >= service.spec.update.parallel
        if (record.cluster is not None and not why and not asked) or (serves and full):
            continue
        stops_first = service.spec.update.order is UpdateOrder.STOP_FIRST
        if record.cluster is None and stops_first and slot in withdrawn:
            yield from _waits(slot, withdrawn[slot])
            continue  # the earlier placement must be gone before there is another
        choose = partial(choose_cluster, candidates=ledger.candidates(slot))
        tries = [each for each in avoided(observed, slot) if each]
        verdict = rather(choose, Request.of(service.spec), (*tries, {}))
        if not isinstance(verdict, Choice):
            yield Unplaceable(slot=slot, reason=verdict.reason, verdicts=verdict.verdicts)
            continue
        moving[slot.service] += serves
        if stops_first and (asked or _refuses(observed, record)):
            yield Withdraw(placed=record.placed, cluster=_home(record), reason=asked or why)
            continue  # a refusal may be old by now: perhaps room was found since
        given = ledger.give(record, service.spec, verdict, because=asked if serves else "")
        if serves:
            yield _moved(given, asked)
            continue
        if record.cluster is not None and is_set_aside(observed, record):
            yield SetAside(slot=slot, cluster=record.cluster, placement=record.placement, reason=why)
        elif record.cluster is not None:
            yield Withdraw(placed=record.placed, cluster=record.cluster, reason=why or asked)
        yield given


def _waits(slot: Slot, why: str) -> Iterator[Unplaceable]:
    """Say for whom a slot waits, if nobody knows whether that ends."""
    if why:
        yield Unplaceable(slot=slot, reason=why)


def _moved(given: Place, why: str) -> Move:
    return Move(
        slot=given.slot,
        cluster=given.cluster,
        placement=given.placement,
        reason=given.reason,
        why=why,
        verdicts=given.verdicts,
    )


def _tried_elsewhere(
    observed: Observed, ledger: _Ledger, *, besides: set[Slot]
) -> Iterator[Remember | Withdraw | Place | Unplaceable]:
    """Yield the next move of every instance that its cluster cannot get up on any of its workers."""
    for slot, record in sorted(observed.slots.items()):
        why, service = fails(observed, record), observed.services.get(slot.service)
        if not why or service is None or slot in besides or drained(observed, record):
            continue
        home = _home(record)
        name = observed.clusters[home].record.name
        choose = partial(choose_cluster, candidates=ledger.candidates(slot))
        tries = [{**each, home: why} for each in avoided(observed, slot)]
        choice = rather(choose, Request.of(service.spec), tries)
        if isinstance(choice, Choice) and slot in observed.memory.rests_s:
            continue
        failed = Failed(place=home, why=why, revision=service.spec.revision)
        if not isinstance(choice, Choice):
            if not stays(record.failed, home):
                yield Remember(slot=slot, failed=failed)
            reason = f"stays in {name}: {choice.reason}"
            yield Unplaceable(slot=slot, reason=reason, verdicts=choice.verdicts)
            continue
        yield Remember(slot=slot, failed=replace(failed, followed_by=ledger.next_placement(record)))
        yield Withdraw(placed=record.placed, cluster=home, reason=f"failed {why}")
        if service.spec.update.order is UpdateOrder.STOP_FIRST:
            continue  # it must be gone before the next one may start
        yield ledger.give(record, service.spec, choice, because=f"it failed in {name}")


def _home(record: SlotRecord) -> ClusterId:
    assert record.cluster is not None, "only what has a place leaves it"
    return record.cluster


def _why_move(observed: Observed, record: SlotRecord, spec: ServiceSpec) -> str:
    """Say why a slot cannot stay in its cluster: it refuses, is gone, or out of reach for longer than the SLA allows."""
    if record.cluster is None:
        return ""
    cluster = observed.clusters.get(record.cluster)
    if cluster is None:
        return "its cluster was removed"
    if cluster.liveness is not Liveness.LOST:
        return cluster.refusals.get(record.placed, "")
    return given_up(cluster, spec)


def _refuses(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether the cluster that has a slot, and may be told to give it up, has no room for it."""
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    return cluster is not None and cluster.liveness is not Liveness.LOST and record.placed in cluster.refusals


def _tombstones(
    observed: Observed, gone: set[Placement]
) -> Iterator[ForgetSlot | ForgetService | ForgetApplication]:
    waiting = {placed.slot for placed in observed.withdrawals if placed not in gone}
    finished = {
        slot
        for slot, record in observed.slots.items()
        if not record.wanted and not record.rightful and slot not in waiting
    }
    for slot in sorted(finished):
        yield ForgetSlot(slot=slot)
    used_services = {slot.service for slot in observed.slots if slot not in finished}
    for id, service in sorted(observed.services.items()):
        if service.deleted and id not in used_services:
            yield ForgetService(service=id)
    used_applications = {service.spec.application_id for service in observed.services.values()}
    for application_id, record in sorted(observed.applications.items()):
        if record.application.deleted and application_id not in used_applications:
            yield ForgetApplication(application=application_id)
