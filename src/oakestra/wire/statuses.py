"""The original's words for how far instances and services have come. Only these words may ever be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oakestra.model.instance import Phase
from oakestra.model.service import ConstraintKind, ServiceSpec

REQUESTED = "REQUESTED"
CLUSTER_SCHEDULED = "CLUSTER_SCHEDULED"
NODE_SCHEDULED = "NODE_SCHEDULED"
CREATING = "CREATING"
CREATED = "CREATED"
RUNNING = "RUNNING"
DEAD = "DEAD"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
UNDEPLOYED = "UNDEPLOYED"
TARGET_CLUSTER_NOT_FOUND = "TargetClusterNotFound"
TARGET_CLUSTER_NOT_ACTIVE = "TargetClusterNotActive"
TARGET_CLUSTER_NO_CAPACITY = "TargetClusterNoCapacity"
NO_ACTIVE_CLUSTER_WITH_CAPACITY = "NoActiveClusterWithCapacity"
NO_WORKER_CAPACITY = "NO_WORKER_CAPACITY"

_OF_PHASE = {
    Phase.UNKNOWN: CLUSTER_SCHEDULED,
    Phase.REQUESTED: REQUESTED,
    Phase.CLUSTER_ASSIGNED: CLUSTER_SCHEDULED,
    Phase.WORKER_ASSIGNED: NODE_SCHEDULED,
    Phase.PULLING: CREATING,
    Phase.ATTACHED: CREATING,
    Phase.CREATED: CREATED,
    Phase.RUNNING: RUNNING,
    Phase.STOPPED: DEAD,
    Phase.COMPLETED: COMPLETED,
    Phase.FAILED: FAILED,
}

_WORST_FIRST = (
    FAILED,
    DEAD,
    NO_WORKER_CAPACITY,
    TARGET_CLUSTER_NOT_FOUND,
    TARGET_CLUSTER_NOT_ACTIVE,
    TARGET_CLUSTER_NO_CAPACITY,
    NO_ACTIVE_CLUSTER_WITH_CAPACITY,
    REQUESTED,
    CLUSTER_SCHEDULED,
    NODE_SCHEDULED,
    CREATING,
    CREATED,
    RUNNING,
    COMPLETED,
    UNDEPLOYED,
)
"""A service is as bad as the worst of its instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSeen:
    """What decides a slot's word."""

    wanted: bool = True
    placed: bool = False
    """A cluster has it."""
    tried: bool = False
    """Root looked for a cluster."""
    refused: bool = False
    """Its cluster says that it has no place for it."""
    phase: Phase = Phase.UNKNOWN


def instance_status(
    slot: SlotSeen, spec: ServiceSpec, *, known_clusters: Sequence[str], live_clusters: Sequence[str]
) -> str:
    """Return the word for a slot; the clusters, by name, tell apart why one was not placed."""
    if not slot.wanted:
        return UNDEPLOYED
    if slot.placed:
        starting = slot.phase < Phase.CREATED
        return NO_WORKER_CAPACITY if slot.refused and starting else _OF_PHASE[slot.phase]
    if not slot.tried:
        return REQUESTED
    return _why_nowhere(_named_clusters(spec), known_clusters, live_clusters)


def service_status(instances: Sequence[str], *, ever_deployed: bool) -> str | None:
    """Return the word for a service whose instances have these; None before the first was asked for."""
    if instances:
        return min(instances, key=_WORST_FIRST.index)
    return UNDEPLOYED if ever_deployed else None


def _named_clusters(spec: ServiceSpec) -> tuple[str, ...]:
    named: list[str] = []
    for rule in spec.constraints:
        if rule.kind is ConstraintKind.DIRECT and rule.cluster:
            named.append(rule.cluster)
        elif rule.kind is ConstraintKind.CLUSTERS:
            named.extend(rule.allowed)
    return tuple(named)


def _why_nowhere(named: Sequence[str], known: Sequence[str], live: Sequence[str]) -> str:
    if named and not any(name in known for name in named):
        return TARGET_CLUSTER_NOT_FOUND
    if not any(name in live for name in named or live):
        return TARGET_CLUSTER_NOT_ACTIVE
    return TARGET_CLUSTER_NO_CAPACITY if named else NO_ACTIVE_CLUSTER_WITH_CAPACITY
