"""Preferences among candidates that would all do: greater is better, each between 0 and 1."""

from __future__ import annotations

from oakestra.model.service import Resources
from oakestra.scheduling.filters import fitting_pool
from oakestra.scheduling.request import ClusterCandidate, Request, WorkerCandidate

SPREAD_WEIGHT = 2.0
"""Copies of one service on different machines survive more than any saving of fragments is worth."""


def worker_score(request: Request, candidate: WorkerCandidate) -> float:
    """Prefer workers without a copy of the service, then those with the larger free share left."""
    spread = 1.0 / (1 + candidate.siblings)
    return SPREAD_WEIGHT * spread + free_share(candidate.free, request.resources, candidate.total)


def cluster_score(request: Request, candidate: ClusterCandidate) -> float:
    """Prefer clusters with the larger free share in the group of workers that would take it."""
    pool = fitting_pool(request, candidate)
    if pool is None:
        return 0.0
    spread = 1.0 / (1 + candidate.siblings)
    return spread + free_share(pool.free, request.resources, pool.total)


def free_share(free: Resources, taken: Resources, total: Resources) -> float:
    """Return the mean share of CPU and memory that is free once `taken` is taken, 0 to 1."""
    memory = (free.memory_mib - taken.memory_mib) / total.memory_mib if total.memory_mib else 0.0
    vcpus = (free.vcpus - taken.vcpus) / total.vcpus if total.vcpus else 0.0
    return (min(max(memory, 0.0), 1.0) + min(max(vcpus, 0.0), 1.0)) / 2
