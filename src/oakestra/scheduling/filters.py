"""Hard rules: each says nothing, or why not, in a sentence that completes "<candidate>: …"."""

from __future__ import annotations

from collections.abc import Callable

from oakestra.model.service import ConstraintKind, Resources
from oakestra.scheduling.request import ClusterCandidate, Pool, Request, WorkerCandidate

WorkerFilter = Callable[[Request, WorkerCandidate], str]
WorkerApplies = Callable[[Request], bool]
ClusterFilter = Callable[[Request, ClusterCandidate], str]

KINDS = (
    ("memory_mib", "memory", " MiB"),
    ("vcpus", "vCPUs", ""),
    ("vgpus", "GPUs", ""),
    ("vtpus", "TPUs", ""),
    ("storage_mib", "storage", " MiB"),
)
"""Of resources: the field, its name for people, and its unit."""


def usable(request: Request, candidate: WorkerCandidate) -> str:
    """The worker is alive and takes work."""
    del request
    return candidate.unusable


def runtime(request: Request, candidate: WorkerCandidate) -> str:
    """The worker can run this kind of instance."""
    offered = candidate.capacity.virtualizations
    if request.virtualization in offered:
        return ""
    return f"no runtime for {request.virtualization!r} (has {', '.join(offered) or 'none'})"


def architecture(request: Request, candidate: WorkerCandidate) -> str:
    """The instance's image exists for the worker's processor."""
    if not request.architectures or candidate.capacity.architecture in request.architectures:
        return ""
    return f"architecture {candidate.capacity.architecture}, needs {' or '.join(request.architectures)}"


def resources(request: Request, candidate: WorkerCandidate) -> str:
    """Everything asked for is unreserved there."""
    return shortage(request.resources, candidate.free)


def csi_drivers(request: Request, candidate: WorkerCandidate) -> str:
    """The worker has every storage driver that the volumes name."""
    missing = [name for name in request.csi_drivers if name not in candidate.capacity.csi_drivers]
    return f"no CSI driver {', '.join(missing)}" if missing else ""


def addons(request: Request, candidate: WorkerCandidate) -> str:
    """The worker has every addon asked for."""
    needed = [
        name for rule in request.constraints if rule.kind is ConstraintKind.ADDONS for name in rule.needs
    ]
    missing = [name for name in needed if name not in candidate.capacity.addons]
    return f"no addon {', '.join(missing)}" if missing else ""


def ports(request: Request, candidate: WorkerCandidate) -> str:
    """No other instance there publishes the same port."""
    taken = [
        f"{port.host_port}/{port.protocol}"
        for port in request.ports
        if (port.protocol.value, port.host_port) in candidate.ports_taken
    ]
    return f"port {', '.join(taken)} is published by another instance" if taken else ""


def node(request: Request, candidate: WorkerCandidate) -> str:
    """The worker is one of those a `direct` constraint names."""
    for rule in request.constraints:
        if rule.kind is ConstraintKind.DIRECT and rule.nodes and candidate.name not in rule.nodes:
            return f"not the node asked for ({' or '.join(rule.nodes)})"
    return ""


def room(request: Request, candidate: WorkerCandidate) -> str:
    """The worker has not reached its number of instances."""
    del request
    if candidate.instances < candidate.capacity.instances_max:
        return ""
    return f"runs its maximum of {candidate.capacity.instances_max} instances"


def not_failed(request: Request, candidate: WorkerCandidate | ClusterCandidate) -> str:
    """The instance did not fail there lately."""
    why = request.avoided.get(candidate.id, "")
    return f"failed {why}" if why else ""


_ALWAYS: WorkerApplies = bool  # a request is always true
WORKER_FILTERS: tuple[tuple[WorkerFilter, WorkerApplies], ...] = (
    (usable, _ALWAYS),
    (node, lambda request: bool(request.constraints)),
    (runtime, _ALWAYS),
    (architecture, lambda request: bool(request.architectures)),
    (resources, _ALWAYS),
    (ports, lambda request: bool(request.ports)),
    (csi_drivers, lambda request: bool(request.csi_drivers)),
    (addons, lambda request: bool(request.constraints)),
    (room, _ALWAYS),
    (not_failed, lambda request: bool(request.avoided)),
)
"""Every rule, and when it has anything to say; the order is that in which reasons are given."""


def worker_filters(request: Request) -> tuple[WorkerFilter, ...]:
    """Return the rules that may refuse a worker this request."""
    return tuple(rule for rule, applies in WORKER_FILTERS if applies(request))


def connected(request: Request, candidate: ClusterCandidate) -> str:
    """The cluster is there and takes work."""
    del request
    return candidate.unusable


def allowed_cluster(request: Request, candidate: ClusterCandidate) -> str:
    """No constraint names other clusters only."""
    for rule in request.constraints:
        if rule.kind is ConstraintKind.DIRECT and rule.cluster and candidate.name != rule.cluster:
            return f"not the cluster asked for ({rule.cluster})"
        if rule.kind is ConstraintKind.CLUSTERS and rule.allowed and candidate.name not in rule.allowed:
            return f"not one of the clusters allowed ({', '.join(rule.allowed)})"
    return ""


def not_refused(request: Request, candidate: ClusterCandidate) -> str:
    """The cluster did not refuse this slot a moment ago."""
    del request
    return candidate.refused


def pools(request: Request, candidate: ClusterCandidate) -> str:
    """Some group of alike workers has the runtime, the architecture and a large enough free piece."""
    if not candidate.pools:
        return "no worker there takes instances now"
    alike = [pool for pool in candidate.pools if pool.virtualization == request.virtualization]
    if not alike:
        return f"no runtime for {request.virtualization!r}"
    alike = [
        pool for pool in alike if not request.architectures or pool.architecture in request.architectures
    ]
    if not alike:
        return f"no worker of architecture {' or '.join(request.architectures)}"
    shortages = [shortage(request.resources, pool.largest_free) for pool in alike]
    return "" if "" in shortages else shortages[0]


def fitting_pool(request: Request, candidate: ClusterCandidate) -> Pool | None:
    """Return the first group of workers that could take the request."""
    for pool in candidate.pools:
        alike = pool.virtualization == request.virtualization
        suits = not request.architectures or pool.architecture in request.architectures
        if alike and suits and not shortage(request.resources, pool.largest_free):
            return pool
    return None


CLUSTER_FILTERS: tuple[ClusterFilter, ...] = (
    connected,
    allowed_cluster,
    pools,
    not_refused,
    not_failed,
)


def shortage(needed: Resources, free: Resources) -> str:
    """Say what of `needed` is more than `free`; nothing if it fits. What is not asked for is never short."""
    if (
        needed.memory_mib <= free.memory_mib
        and needed.vcpus <= free.vcpus
        and needed.vgpus <= free.vgpus
        and needed.vtpus <= free.vtpus
        and needed.storage_mib <= free.storage_mib
    ):
        return ""  # nearly always: no need to look closer
    for field, name, unit in KINDS:
        wanted, there = getattr(needed, field), getattr(free, field)
        if wanted > 0 and wanted > there:
            return f"not enough {name}: needs {wanted}{unit}, {max(there, 0)}{unit} free"
    return ""
