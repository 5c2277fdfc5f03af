"""Decide what root takes over from clusters that were told by records it no longer has. Pure.

Root's store was lost, or is an older copy: it has a new epoch. Clusters go on, and claim what they hold by the word of
another epoch. What root does not know is taken over; what it knows better is withdrawn there. Either ends the claim.
What a cluster has by the word of this epoch, and root does not, was withdrawn before the cluster's own store was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oakestra.model.ids import ClusterId
from oakestra.model.instance import Placement, Slot
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.root.observe import Observed
from oakestra.wire.native import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """A cluster holds a slot that these records do not know, or know less of."""

    placed: Placement
    cluster: ClusterId
    address: InstanceAddress
    spec: ServiceSpec
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """A cluster holds what these records have elsewhere, or what was deleted since: it must go there."""

    placed: Placement
    cluster: ClusterId
    reason: str


def claims(observed: Observed) -> Iterator[TakeOver | Decline]:
    """Yield an answer to every claim that is not answered yet: of each slot its latest placement is taken over."""
    found = _claimed(observed)
    latest: dict[Slot, TakeOver] = {}
    for claim in found:
        known = latest.setdefault(claim.placed.slot, claim)
        if claim.placed.placement > known.placed.placement:
            latest[claim.placed.slot] = claim
    for claim in found:
        why = _why_not(observed, claim)
        if not why and latest[claim.placed.slot] is not claim:
            why = "another cluster has a later placement of it"
        if not why:
            yield from _replaced(observed, claim)
            yield claim
        elif claim.placed not in observed.withdrawals:
            yield Decline(placed=claim.placed, cluster=claim.cluster, reason=why)
    yield from _unheard_of(observed)


def _claimed(observed: Observed) -> list[TakeOver]:
    """Return every claim made to this store that its next assignment does not settle by itself."""
    return [
        TakeOver(
            placed=assigned.placed,
            cluster=id,
            address=assigned.address,
            spec=claim.service,
            origin=claim.origin,
        )
        for id, cluster in sorted(observed.clusters.items())
        if cluster.applied.epoch == observed.epoch
        for claim in cluster.claims
        for assigned in claim.slots
        if not _is_held(observed, assigned.placed, id)
    ]


def _unheard_of(observed: Observed) -> Iterator[Decline]:
    for id, cluster in sorted(observed.clusters.items()):
        if cluster.applied.epoch != observed.epoch:
            continue
        claimed = {assigned.placed for claim in cluster.claims for assigned in claim.slots}
        for placed in sorted(cluster.statuses.keys() - claimed - observed.withdrawals.keys()):
            if not _is_held(observed, placed, id):
                yield Decline(placed=placed, cluster=id, reason="root did not ask for it")


def _is_held(observed: Observed, placed: Placement, cluster: ClusterId) -> bool:
    record = observed.slots.get(placed.slot)
    return record is not None and (cluster, placed) in record.rightful


def _replaced(observed: Observed, claim: TakeOver) -> Iterator[Decline]:
    """Yield the end of an earlier placement that an older copy of the records still has somewhere."""
    record = observed.slots.get(claim.placed.slot)
    for cluster, placed in record.rightful if record is not None else ():
        yield Decline(placed=placed, cluster=cluster, reason="a later placement was found")


def _why_not(observed: Observed, claim: TakeOver) -> str:
    service = observed.services.get(claim.placed.service)
    record = observed.slots.get(claim.placed.slot)
    if service is not None and service.deleted:
        return "its service was deleted"
    if record is not None and not record.wanted:
        return "no longer wanted"
    if record is not None and record.last_placement >= claim.placed.placement:
        return "a later placement replaced it"
    return ""
