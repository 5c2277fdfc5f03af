"""Decide how far the update of a service has come, and whether it has failed. Pure.

Clusters replace instances by themselves, a few at a time; root only watches. An update is done when every instance
has been ready on the new revision for a while, and fails when a successor keeps crashing or nothing moves any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceStatus, Phase, Slot
from oakestra.root.observe import Observed
from oakestra.root.state import Rollout, RolloutState, ServiceRecord, SlotRecord

CRASHES_MAX = 3
"""A successor that was started again so often without becoming ready is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An update came further, or is done."""

    service: ServiceId
    rollout: Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """An update has failed; it is rolled back if its policy says so and there is something to go back to."""

    service: ServiceId
    reason: str


def rollouts(observed: Observed) -> Iterator[Progress | Fail]:
    """Yield what changed about every update under way."""
    for id, service in sorted(observed.services.items()):
        rollout = service.rollout
        if rollout is None or rollout.state is not RolloutState.ROLLING or service.deleted:
            continue
        slots = {
            slot: record for slot, record in observed.slots.items() if slot.service == id and record.wanted
        }
        failure = _failure(observed, service, rollout, slots)
        if failure:
            yield Fail(service=id, reason=failure)
            continue
        further = _further(observed, service, rollout, slots)
        if further != rollout:
            yield Progress(service=id, rollout=further)


def next_deadline_s(observed: Observed) -> float | None:
    """Return in how many seconds an update is done or has failed if nothing happens; None if none is under way."""
    policies = {id: observed.services[id].spec.update for id in observed.standing}
    due = [
        at_s - observed.quiet_s(id)
        for id, policy in policies.items()
        for at_s in (policy.monitor_s, policy.progress_deadline_s)
    ]
    return min((wait_s for wait_s in due if wait_s > 0), default=None)


def _further(
    observed: Observed, service: ServiceRecord, rollout: Rollout, slots: dict[Slot, SlotRecord]
) -> Rollout:
    updated = sum(_is_updated(record.status, service) for record in slots.values())
    if updated != rollout.updated:
        return replace(rollout, updated=updated, moved_wall_s=observed.now_wall_s)
    if updated == len(slots) and observed.quiet_s(service.spec.id) >= service.spec.update.monitor_s:
        return replace(
            rollout, state=RolloutState.DONE, reason=f"all {updated} instances are updated and ready"
        )
    return rollout


def _is_updated(status: InstanceStatus | None, service: ServiceRecord) -> bool:
    fits = status is not None and service.spec.covers(status.revision)
    return fits and status is not None and (status.ready or status.phase is Phase.COMPLETED)


def _failure(
    observed: Observed, service: ServiceRecord, rollout: Rollout, slots: dict[Slot, SlotRecord]
) -> str:
    """Say why the update has failed; nothing while it may still succeed."""
    for slot in sorted(slots):
        for status in _attempts(observed, slots[slot]):
            why = _broken(status) if status.revision == service.spec.revision else ""
            if why:
                return f"instance {slot.number} of revision {service.spec.revision} {why}"
    quiet_s = observed.quiet_s(service.spec.id)
    if rollout.updated < len(slots) and quiet_s >= service.spec.update.progress_deadline_s:
        return (
            f"no further instance became ready within {quiet_s:.0f} s; {rollout.updated} of {len(slots)} did"
        )
    return ""


def _broken(status: InstanceStatus) -> str:
    if status.phase is Phase.FAILED:
        return f"has failed: {status.reason}"
    if status.restart >= CRASHES_MAX and not status.ready:
        return f"was started {status.restart} times again and is not ready: {status.reason}"
    return ""


def _attempts(observed: Observed, record: SlotRecord) -> Iterator[InstanceStatus]:
    """Yield what is known of a slot's attempts: the one that serves, and its successor."""
    if record.status is not None:
        yield record.status
    cluster = observed.clusters.get(record.cluster) if record.cluster else None
    for status in cluster.successors if cluster else ():
        if status.key.slot == record.slot and status.key.placement == record.placement:
            yield status
    moved = cluster.statuses.get(record.placed) if cluster and record.leaving is not None else None
    if moved is not None:
        yield moved
