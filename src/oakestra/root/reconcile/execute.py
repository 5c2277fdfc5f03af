"""Carry into root's records what becomes of a placement in a lost cluster."""

from __future__ import annotations

from dataclasses import replace

from oakestra.model.instance import InstanceStatus, Placement
from oakestra.root.decisions import SetAside, TakeBack
from oakestra.root.state import Aside, Leaving, RootState, SlotRecord, slot_key


def reconcile(state: RootState, decision: SetAside | TakeBack, *, now_wall_s: float) -> None:
    """Record that a placement is set aside, or is taken back."""
    if isinstance(decision, SetAside):
        _set_aside(state, decision)
    else:
        _take_back(state, decision, now_wall_s)


def _set_aside(state: RootState, decision: SetAside) -> None:
    """Keep a placement for its cluster's return: the slot's own, which has no place then, or one that was to leave."""
    record, cluster = state.slots[slot_key(decision.slot)], state.clusters[decision.cluster]
    seen = _last_seen(state, record, decision)
    aside = Aside(
        cluster=decision.cluster,
        placement=decision.placement,
        since_generation=cluster.generation + 1,
        revision=seen.revision if seen else state.services[decision.slot.service].spec.revision,
        attempt=seen.key.attempt if seen else 0,
        restart=seen.restart if seen else 0,
    )
    # to who was to leave this says nothing new, and its cluster must be heard after its return all the same
    state.clusters.put(decision.cluster, replace(cluster, assignment_digest=""))
    if decision.placement == record.placement:
        kept = replace(record, aside=aside, cluster=None, reason=decision.reason, verdicts=())
    else:
        kept = replace(record, aside=aside, leaving=None)
    if record.status is not None and record.status.key.placement == decision.placement:
        kept = replace(kept, status=None)
    state.slots.put(slot_key(decision.slot), kept)


def _last_seen(state: RootState, record: SlotRecord, decision: SetAside) -> InstanceStatus | None:
    """Return how a placement was when it was heard of last: on record that outlives this process, elsewhere not."""
    placed = Placement(*decision.slot, decision.placement)
    if record.status is not None and record.status.key.placed == placed:
        return record.status
    view = state.views.get(decision.cluster)
    return view.statuses.get(placed) if view is not None else None


def _take_back(state: RootState, decision: TakeBack, now_wall_s: float) -> None:
    """Make an earlier placement the current one; its replacement leaves once everybody knows."""
    record = state.slots[slot_key(decision.slot)]
    was_aside = record.aside is not None and record.aside.placement == decision.placement
    replacement = None
    if record.cluster is not None:
        replacement = Leaving(cluster=record.cluster, placement=record.placement, reason=decision.reason)
    state.slots.put(
        slot_key(decision.slot),
        replace(
            record,
            cluster=decision.cluster,
            placement=decision.placement,
            highest_placement=record.last_placement,
            # to its cluster, what was to leave is what it always was
            since_generation=state.clusters[decision.cluster].generation + was_aside,
            leaving=replacement,
            aside=None if was_aside else record.aside,
            reason=decision.reason,
            verdicts=(),
            status=decision.status,
            status_store=decision.store,
            changed_wall_s=now_wall_s,
        ),
    )
