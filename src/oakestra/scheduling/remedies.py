"""Say what would have to change for something to be placed: the least of it, on the candidate that lacks least. Pure.

Every hard rule has its remedy here; a candidate's remedies are those of all the rules that refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from oakestra.model.service import Resources
from oakestra.scheduling import filters
from oakestra.scheduling.filters import ClusterFilter, WorkerFilter
from oakestra.scheduling.request import ClusterCandidate, Request, WorkerCandidate


class Effort(IntEnum):
    """How much is asked of whom."""

    A_WORD = 1
    """A command, or a line of the SLA."""
    A_CHANGE = 2
    """Something else must make room, or the service must ask for less."""
    A_MACHINE = 3
    """Something must be installed, built, or brought back."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to change."""

    effort: Effort
    lacking: float
    """As a share of what is asked for, 0 to 1."""
    what: str


WorkerRemedy = Callable[[Request, WorkerCandidate], Remedy]
ClusterRemedy = Callable[[Request, ClusterCandidate], Remedy]


def worker_remedy(request: Request, candidates: Sequence[WorkerCandidate]) -> str:
    """Return the least that would let one of these workers take the request; nothing if one would."""
    return _least(
        {
            candidate.name: [
                WORKER_REMEDIES[rule](request, candidate)
                for rule in filters.worker_filters(request)
                if rule(request, candidate)
            ]
            for candidate in candidates
        }
    )


def cluster_remedy(request: Request, candidates: Sequence[ClusterCandidate]) -> str:
    """Return the least that would let one of these clusters take the request; nothing if one would."""
    return _least(
        {
            candidate.name: [
                CLUSTER_REMEDIES[rule](request, candidate)
                for rule in filters.CLUSTER_FILTERS
                if rule(request, candidate)
            ]
            for candidate in candidates
        }
    )


def _least(needed: Mapping[str, list[Remedy]]) -> str:
    def weight(name: str) -> tuple[int, int, float, str]:
        remedies = needed[name]
        effort = sum(remedy.effort for remedy in remedies)
        return len(remedies), effort, sum(remedy.lacking for remedy in remedies), name

    if not needed:
        return ""
    return ", and ".join(remedy.what for remedy in needed[min(needed, key=weight)])


# --- workers -------------------------------------------------------------------------------------------------------------


def _usable(request: Request, candidate: WorkerCandidate) -> Remedy:
    del request
    return _opened("worker", candidate.name, candidate.unusable)


def _opened(what: str, name: str, unusable: str) -> Remedy:
    if unusable in ("cordoned", "draining"):
        return Remedy(Effort.A_WORD, 0.0, f"let {name} take instances again: oak {what} uncordon {name}")
    if unusable == "lost":
        return Remedy(Effort.A_MACHINE, 0.0, f"bring {what} {name} back")
    return Remedy(Effort.A_CHANGE, 0.0, f"wait for {what} {name}, which {unusable}")


def _node(request: Request, candidate: WorkerCandidate) -> Remedy:
    del request
    return Remedy(
        Effort.A_WORD, 0.0, f"name worker {candidate.name} in the `direct` constraint, or leave that out"
    )


def _runtime(request: Request, candidate: WorkerCandidate) -> Remedy:
    return Remedy(
        Effort.A_MACHINE, 0.0, f"give worker {candidate.name} a runtime for {request.virtualization!r}"
    )


def _architecture(request: Request, candidate: WorkerCandidate) -> Remedy:
    del request
    built = candidate.capacity.architecture
    return Remedy(
        Effort.A_MACHINE, 0.0, f"build the image for {built}, too, as worker {candidate.name} has it"
    )


def _resources(request: Request, candidate: WorkerCandidate) -> Remedy:
    return _smaller(request.resources, candidate.free, f"on worker {candidate.name}")


def _smaller(needed: Resources, free: Resources, where: str) -> Remedy:
    """Return by how much less would fit; everything that is short counts."""
    parts, lacking = [], 0.0
    for field, name, unit in filters.KINDS:
        wanted, there = getattr(needed, field), max(getattr(free, field), 0)
        if wanted > there:
            parts.append(f"{wanted - there}{unit} less {name} ({there}{unit} instead of {wanted}{unit})")
            lacking += (wanted - there) / wanted
    return Remedy(Effort.A_CHANGE, lacking, f"ask for {' and '.join(parts)}, or free as much {where}")


def _ports(request: Request, candidate: WorkerCandidate) -> Remedy:
    taken = [
        str(port.host_port)
        for port in request.ports
        if (port.protocol.value, port.host_port) in candidate.ports_taken
    ]
    return Remedy(
        Effort.A_CHANGE,
        0.0,
        f"publish another port than {', '.join(taken)}, or remove what publishes it on worker {candidate.name}",
    )


def _csi_drivers(request: Request, candidate: WorkerCandidate) -> Remedy:
    missing = [name for name in request.csi_drivers if name not in candidate.capacity.csi_drivers]
    return Remedy(Effort.A_MACHINE, 0.0, f"give worker {candidate.name} the CSI driver {', '.join(missing)}")


def _addons(request: Request, candidate: WorkerCandidate) -> Remedy:
    why = filters.addons(request, candidate).removeprefix("no addon ")
    return Remedy(Effort.A_MACHINE, 0.0, f"give worker {candidate.name} the addon {why}")


def _room(request: Request, candidate: WorkerCandidate) -> Remedy:
    del request
    return Remedy(
        Effort.A_CHANGE, 0.0, f"remove an instance from worker {candidate.name}, which has its maximum"
    )


def _failed_on(request: Request, candidate: WorkerCandidate) -> Remedy:
    return _failed(request, candidate.id, f"worker {candidate.name}")


def _failed(request: Request, id: str, where: str) -> Remedy:
    return Remedy(Effort.A_CHANGE, 0.0, f"make {where} able to run it, where it failed {request.avoided[id]}")


WORKER_REMEDIES: Mapping[WorkerFilter, WorkerRemedy] = {
    filters.usable: _usable,
    filters.node: _node,
    filters.runtime: _runtime,
    filters.architecture: _architecture,
    filters.resources: _resources,
    filters.ports: _ports,
    filters.csi_drivers: _csi_drivers,
    filters.addons: _addons,
    filters.room: _room,
    filters.not_failed: _failed_on,
}


# --- clusters ------------------------------------------------------------------------------------------------------------


def _connected(request: Request, candidate: ClusterCandidate) -> Remedy:
    del request
    return _opened("cluster", candidate.name, candidate.unusable)


def _allowed_cluster(request: Request, candidate: ClusterCandidate) -> Remedy:
    del request
    return Remedy(Effort.A_WORD, 0.0, f"name cluster {candidate.name} in the constraint, or leave that out")


def _pools(request: Request, candidate: ClusterCandidate) -> Remedy:
    name = candidate.name
    if not candidate.pools:
        return Remedy(Effort.A_MACHINE, 0.0, f"have a worker join cluster {name}")
    alike = [pool for pool in candidate.pools if pool.virtualization == request.virtualization]
    if not alike:
        return Remedy(
            Effort.A_MACHINE, 0.0, f"give a worker of cluster {name} a runtime for {request.virtualization!r}"
        )
    built = [
        pool for pool in alike if not request.architectures or pool.architecture in request.architectures
    ]
    if not built:
        return Remedy(
            Effort.A_MACHINE,
            0.0,
            f"build the image for {alike[0].architecture}, too, as cluster {name} has it",
        )
    smaller = [
        _smaller(request.resources, pool.largest_free, f"on one worker of cluster {name}") for pool in built
    ]
    return min(smaller, key=lambda remedy: remedy.lacking)


def _not_refused(request: Request, candidate: ClusterCandidate) -> Remedy:
    del request
    return Remedy(Effort.A_CHANGE, 0.0, f"in cluster {candidate.name}: {candidate.refused}")


def _failed_in(request: Request, candidate: ClusterCandidate) -> Remedy:
    return _failed(request, candidate.id, f"cluster {candidate.name}")


CLUSTER_REMEDIES: Mapping[ClusterFilter, ClusterRemedy] = {
    filters.connected: _connected,
    filters.allowed_cluster: _allowed_cluster,
    filters.pools: _pools,
    filters.not_refused: _not_refused,
    filters.not_failed: _failed_in,
}
