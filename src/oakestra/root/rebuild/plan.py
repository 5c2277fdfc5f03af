"""Decide what root takes over from clusters that were told by records it no longer has. Pure.

Root's store was lost, or is an older copy: it has a new epoch. Clusters go on, and claim what they know by the word of
another epoch. What root does not know is taken over; what it knows better is withdrawn there. Either ends the claim.
What a cluster has by the word of this epoch, and root does not, was withdrawn before the cluster's own store was lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from oakestra.model.ids import ClusterId, ServiceId
from oakestra.model.instance import InstanceStatus, Placement, Slot
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.root.observe import REBUILT_AFTER_S, ClusterSeen, Observed
from oakestra.root.rebuild.numbers import holds, joined, without
from oakestra.root.state import Availability
from oakestra.wire.native import Claim, NumberRange, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """A cluster knows of a service what these records do not."""

    spec: ServiceSpec
    origin: Origin
    removed: tuple[NumberRange, ...]
    """Numbers that were taken away of it, those aside that these records have all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insist:
    """What somebody asked of a service in these records goes before another revision that a cluster knows from others."""

    service: ServiceId
    revision: int
    """What it becomes: later than whatever clusters know, so that all of them carry it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A cluster that holds a placement of a slot."""

    placed: Placement
    cluster: ClusterId
    address: InstanceAddress
    status: InstanceStatus | None
    store: int
    """Epoch of the cluster's store."""

    @property
    def serves(self) -> bool:
        return self.status is not None and self.status.ready


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """A cluster holds a slot that these records do not know, or know less of."""

    holder: Holder
    earlier: Holder | None
    """Where it serves until it does so there: it was on its way from one cluster to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """A cluster holds what these records have elsewhere, or what was deleted since: it must go there."""

    placed: Placement
    cluster: ClusterId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardOut:
    """A cluster has told these records all that it holds by the word of others."""

    cluster: ClusterId
    availability: Availability | None
    """Whether it takes instances, as others said: so it remains. None: nobody said, or these records did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """Whoever has not told yet what it holds does not count any more."""

    epoch: int


Answer = Learn | Insist | TakeOver | Decline | HeardOut


def claims(observed: Observed) -> Iterator[Answer]:
    """Yield an answer to every claim that is not answered yet: of each slot its latest placement is taken over."""
    insisted = {decision.service: decision for decision in _insisted(observed)}
    yield from insisted.values()
    yield from _learnt(observed, insisted.keys())
    claimed: defaultdict[Slot, list[Holder]] = defaultdict(list)
    for holder, why in _claimed(observed):
        if not why:
            claimed[holder.placed.slot].append(holder)
        elif holder.placed not in observed.withdrawals:
            yield Decline(placed=holder.placed, cluster=holder.cluster, reason=why)
    for slot, holders in sorted(claimed.items()):
        yield from _chosen(observed, slot, holders)
    yield from _unheard_of(observed)
    for id, cluster in sorted(observed.clusters.items()):
        if cluster.told and cluster.record.heard_epoch != observed.epoch:
            former = cluster.availability if cluster.former_availability else None
            yield HeardOut(cluster=id, availability=former)


def _chosen(observed: Observed, slot: Slot, claimed: Sequence[Holder]) -> Iterator[TakeOver | Decline]:
    """Yield that the latest placement of a slot is taken over, with an earlier one that serves, and the end of others.

    What these records have of it stays as it is, where no claim goes before it or serves instead of it.
    """
    known = _known(observed, slot)
    latest, *others = sorted((*known, *claimed), key=lambda one: -_rank(observed, one))
    turned = latest in known and latest.serves
    earlier = next(
        (
            one
            for one in others
            if one.placed.placement < latest.placed.placement
            and ((latest in known and one in known) or (one.serves and not turned))
        ),
        None,
    )
    news = latest not in known or (earlier is not None and earlier not in known)
    if news:
        yield TakeOver(holder=latest, earlier=earlier)
    for one in others:
        stays = one is earlier or (one in known and not news)
        if not stays and one.placed not in observed.withdrawals:
            yield Decline(placed=one.placed, cluster=one.cluster, reason="a later placement was found")


def _rank(observed: Observed, holder: Holder) -> int:
    """Return the number that a placement counts as: what was taken back goes before all that had replaced it."""
    record = observed.slots.get(holder.placed.slot)
    if record is not None and (record.cluster, record.placed) == (holder.cluster, holder.placed):
        return record.last_placement
    return holder.placed.placement


def _known(observed: Observed, slot: Slot) -> tuple[Holder, ...]:
    """Return where these records have a slot."""
    record = observed.slots.get(slot)
    found: list[Holder] = []
    for id, placed in record.rightful if record is not None else ():
        cluster = observed.clusters.get(id)
        status = cluster.statuses.get(placed) if cluster is not None else None
        store = cluster.store if cluster is not None else 0
        assert record is not None, "only what is on record has placements"
        found.append(Holder(placed=placed, cluster=id, address=record.address, status=status, store=store))
    return tuple(found)


def rebuilt(observed: Observed) -> Iterator[Rebuilt]:
    """Yield the end of the time that clusters have to tell what they hold."""
    if observed.new_for_s is not None and observed.new_for_s >= REBUILT_AFTER_S:
        yield Rebuilt(epoch=observed.epoch)


def _claims(observed: Observed) -> Iterator[tuple[ClusterId, ClusterSeen, Claim]]:
    for id, cluster in sorted(observed.clusters.items()):
        yield from ((id, cluster, claim) for claim in cluster.claims)


def _insisted(observed: Observed) -> Iterator[Insist]:
    """Yield the services that somebody updated in these records, of which a cluster claims a later or another update."""
    found: defaultdict[ServiceId, int] = defaultdict(int)
    for _, _, claim in _claims(observed):
        known, revision = observed.services.get(claim.service.id), claim.service.revision
        if (
            known is not None
            and known.revised_epoch == observed.epoch
            and revision >= known.spec.revision
            and not _is_same(known.spec, claim.service)
            and not _is_deleted(observed, claim)
        ):
            found[claim.service.id] = max(found[claim.service.id], revision + 1)
    for id, revision in sorted(found.items()):
        yield Insist(service=id, revision=revision)


def _is_same(known: ServiceSpec, claimed: ServiceSpec) -> bool:
    """Tell whether two revisions ask for the same; names and addresses are what these records say."""
    ours = replace(known, same_as=())
    theirs = replace(claimed, revision=known.revision, same_as=(), name=known.name, addresses=known.addresses)
    return ours == theirs


def _learnt(observed: Observed, insisted: Container[ServiceId]) -> Iterator[Learn]:
    """Yield what clusters know of services, those of an application in its order; some remain as they are."""
    wanted: defaultdict[ServiceId, list[int]] = defaultdict(list)
    for slot, record in observed.slots.items():
        if record.wanted:
            wanted[slot.service].append(slot.number)
    for _, _, claim in sorted(_claims(observed), key=lambda one: one[2].origin.position):
        known = observed.services.get(claim.service.id)
        origin = claim.origin
        own = known.removed if known is not None else ()
        removed = without(joined(own, origin.removed), wanted[claim.service.id])
        spec = known.spec if known is not None and known.spec.id in insisted else claim.service
        news = known is None or (
            known.spec.revision < spec.revision
            or known.next_slot < origin.next_slot
            or known.removed != removed
        )
        if news and not _is_deleted(observed, claim):
            yield Learn(spec=spec, origin=origin, removed=removed)


def _is_deleted(observed: Observed, claim: Claim) -> bool:
    service = observed.services.get(claim.service.id)
    application = observed.applications.get(claim.service.application_id)
    return (
        (service is not None and service.deleted)
        or (application is not None and application.application.deleted)
        or claim.service.id in observed.buried
        or claim.service.application_id in observed.buried
    )


def _claimed(observed: Observed) -> Iterator[tuple[Holder, str]]:
    """Yield every slot that a cluster claims and its next assignment does not settle by itself, and why it cannot stay."""
    for id, cluster, claim in _claims(observed):
        held = [assigned for assigned in claim.slots if not _is_held(observed, assigned.placed, id)]
        deleted = _is_deleted(observed, claim)
        removed = _removed(observed, claim) if held and not deleted else ()
        for assigned in held:
            holder = Holder(
                placed=assigned.placed,
                cluster=id,
                address=assigned.address,
                status=cluster.statuses.get(assigned.placed),
                store=cluster.store,
            )
            why = "its service was deleted" if deleted else _why_not(observed, holder.placed, removed)
            yield holder, why


def _removed(observed: Observed, claimed: Claim) -> tuple[NumberRange, ...]:
    """Return which numbers of a claimed service were taken away, as these records know, and whoever was told of it by
    records that are not older than those which the claim comes from."""
    known = observed.services.get(claimed.service.id)
    others = (
        claim.origin.removed
        for _, _, claim in _claims(observed)
        if claim.service.id == claimed.service.id and claim.origin.epoch >= claimed.origin.epoch
    )
    return joined(known.removed if known is not None else (), *others)


def _unheard_of(observed: Observed) -> Iterator[Decline]:
    for id, cluster in sorted(observed.clusters.items()):
        if not cluster.told:
            continue
        claimed = {assigned.placed for claim in cluster.claims for assigned in claim.slots}
        for placed in sorted(cluster.statuses.keys() - claimed - observed.withdrawals.keys()):
            if not _is_held(observed, placed, id):
                yield Decline(placed=placed, cluster=id, reason="root did not ask for it")


def _is_held(observed: Observed, placed: Placement, cluster: ClusterId) -> bool:
    record = observed.slots.get(placed.slot)
    return record is not None and (cluster, placed) in record.rightful


def _why_not(observed: Observed, placed: Placement, removed: tuple[NumberRange, ...]) -> str:
    record = observed.slots.get(placed.slot)
    if record is None:
        return "no longer wanted" if holds(removed, placed.number) else ""
    if not record.wanted:
        return "no longer wanted"
    if record.cluster is None and record.last_placement >= placed.placement:
        return "a later placement replaced it"
    return ""
