"""Where a slot is on the machines, or what is wrong with its being there, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from oakestra.cluster.ledger import overcommitted
from oakestra.cluster.state import Availability, ClusterState
from oakestra.cluster.state import SlotRecord as HeldSlot
from oakestra.cluster.state import slot_key as cluster_slot_key
from oakestra.model.instance import InstanceKey, Slot
from oakestra.model.service import Resources, ServiceSpec
from oakestra.root.state import SlotRecord
from oakestra.scheduling.placement import Choice, choose_worker
from oakestra.scheduling.request import Request, WorkerCandidate
from oakestra.simulation.checkers import spec_of
from oakestra.simulation.hosts import ClusterHost, WorkerHost
from oakestra.simulation.world import World

DRAINING = Availability.DRAINING


def whereabouts(world: World, record: SlotRecord) -> tuple[WorkerHost, InstanceKey] | str:
    """Return where a slot is, or what is wrong with its being nowhere: nothing if it fits nowhere."""
    assert world.root.tier is not None, "asked only when root is up"
    spec = world.root.tier.state.services[record.slot.service].spec
    cluster = world.cluster_of(record.cluster) if record.cluster else None
    if cluster is not None and cluster.tier is not None:
        held = cluster.tier.state.slots.get(cluster_slot_key(record.slot))
        if held is None or held.placed.placement != record.placement:
            return f"{cluster.name} does not have {record.slot} as root placed it"
        worker = world.worker_of(held.worker) if held.worker else None
        if worker is not None and worker.alive:
            return worker, held.key
        if worker is not None:
            return _on_the_dead(world, worker, record, spec)
        if (waits := _waits_there(world, cluster.tier.state, held, spec)) is not None:
            return waits
    elif cluster is not None and not spec.disconnect.replace:
        return leaving(world, record) or ""
    return _nowhere(world, record, spec, cluster)


def _nowhere(
    world: World, record: SlotRecord, spec: ServiceSpec, cluster: ClusterHost | None
) -> tuple[WorkerHost, InstanceKey] | str:
    """Return where the earlier attempt of a slot stays that has no worker, or what is wrong with its having none."""
    if not record.reason:
        return f"{record.slot} waits without a reason"
    if not spec.disconnect.replace and _is_withdrawn_from_the_dead(world, record.slot):
        return ""
    stays = leaving(world, record)
    fits = [
        worker.name
        for worker in world.workers.values()
        if worker.reachable
        and is_open(worker)
        and _fits(world, worker, spec)
        # what leaves a worker goes nowhere but to others of its cluster
        and (stays is None or stays[0].cluster is not cluster or worker.cluster is cluster)
    ]
    if not fits and stays is not None:
        return stays
    if fits:
        return f"{record.slot} waits ({record.reason}) although there is room on {', '.join(fits)}"
    return ""


def _is_withdrawn_from_the_dead(world: World, slot: Slot) -> bool:
    """Tell whether only a dead machine could say that an earlier attempt of a slot is gone."""
    assert world.root.tier is not None, "asked only when root is up"
    clusters = [
        world.cluster_of(one.cluster)
        for one in world.root.tier.state.withdrawals.values()
        if one.placed.slot == slot
    ]
    workers = [
        world.worker_of(one.worker)
        for cluster in clusters
        if cluster is not None and cluster.tier is not None
        for one in cluster.tier.state.withdrawals.values()
        if one.key.slot == slot
    ]
    return any(host is not None and not host.alive for host in (*clusters, *workers))


def serves_in(cluster: ClusterHost | None, record: SlotRecord) -> bool:
    """Tell whether an earlier attempt serves in a cluster: its successor is the business of that one alone."""
    tier = cluster.tier if cluster is not None else None
    held = tier.state.slots.get(cluster_slot_key(record.slot)) if tier is not None else None
    return held is not None and held.leaving is not None


def _on_the_dead(
    world: World, worker: WorkerHost, record: SlotRecord, spec: ServiceSpec
) -> tuple[WorkerHost, InstanceKey] | str:
    """Return where a slot is whose attempt is on a dead machine: nowhere else, unless an earlier one serves beside it."""
    if spec.disconnect.replace:
        return f"{record.slot} is on {worker.name}, which is dead"
    return leaving(world, record) or ""


def _waits_there(world: World, state: ClusterState, held: HeldSlot, spec: ServiceSpec) -> str | None:
    """Return what is wrong with a slot that waits in its cluster; None if it may as well be elsewhere."""
    if not held.reason:
        return f"{held.placed} waits in its cluster without a reason"
    holders = [held.seen_on] if held.may_still_run(spec) else []
    if spec.runs_alone:
        holders += [one.worker for one in state.withdrawals.values() if one.key.slot == held.placed.slot]
    workers = (world.worker_of(holder) for holder in holders)
    return "" if any(worker is not None and not worker.alive for worker in workers) else None


def leaving(world: World, record: SlotRecord) -> tuple[WorkerHost, InstanceKey] | None:
    """Return where the earlier attempt of a slot goes on, as its successor fits nowhere."""
    for id, placed in reversed(record.placements):
        cluster = world.cluster_of(id)
        held = (
            cluster.tier.state.slots.get(cluster_slot_key(record.slot)) if cluster and cluster.tier else None
        )
        if held is None or held.placed != placed:
            continue
        for worker_id, key in reversed(held.attempts):
            worker = world.worker_of(worker_id)
            if worker is not None and worker.alive:
                return worker, key
    return None


def _is_leaving(worker: WorkerHost, record: SlotRecord) -> bool:
    """Tell whether a slot has a successor already, wherever that is."""
    cluster = worker.cluster.tier
    held = cluster.state.slots.get(cluster_slot_key(record.slot)) if cluster is not None else None
    return held is not None and held.leaving is not None and held.leaving.worker == worker.id


def is_open(worker: WorkerHost) -> bool:
    """Tell whether a worker and its cluster take instances."""
    return worker.name not in worker.fleet.closed and worker.cluster.name not in worker.fleet.closed


def stays_for_no_reason(world: World, worker: WorkerHost, record: SlotRecord) -> Iterator[str]:
    """What is on a drained worker stays there only while there is room nowhere else."""
    assert world.root.tier is not None, "asked only when root is up"
    drained = world.closed.get(worker.name) == DRAINING or world.closed.get(worker.cluster.name) == DRAINING
    spec = world.root.tier.state.services[record.slot.service].spec
    if drained and (spec.disconnect.replace or not _is_leaving(worker, record)):
        others = worker.cluster.name if world.closed.get(worker.cluster.name) != DRAINING else ""
        for other in world.workers.values():
            near = not others or other.cluster.name == others
            if near and other.reachable and is_open(other) and _fits(world, other, spec):
                yield f"{record.slot} stays on {worker.name}, which is drained, though it fits on {other.name}"
                return


def is_unable(worker: WorkerHost, key: InstanceKey) -> bool:
    """Tell whether an attempt does not run because its machine cannot make a container of its image."""
    for instance in worker.tier.desired.instances if worker.tier is not None else ():
        if instance.key == key and instance.spec.image in worker.kept.containers.unmakeable:
            return instance.outcome is None and instance.number not in worker.kept.containers.containers
    return False


def fails_for_no_reason(world: World, worker: WorkerHost, record: SlotRecord) -> Iterator[str]:
    """What its machine is unable to run stays there only while nobody else could, and nobody else may."""
    assert world.root.tier is not None, "asked only when root is up"
    spec = world.root.tier.state.services[record.slot.service].spec
    serves = serves_in(worker.cluster, record)
    for other in world.workers.values() if spec.disconnect.replace and not serves else ():
        able = spec.image not in other.kept.containers.unmakeable
        near = (
            other.cluster is worker.cluster and other.name not in world.closed
        )  # it moves within a drained cluster
        if able and other.reachable and (near or is_open(other)) and _fits(world, other, spec):
            yield f"{record.slot} fails on {worker.name}, which is unable to run it, though it fits on {other.name}"
            return


def _fits(world: World, worker: WorkerHost, spec: ServiceSpec) -> bool:
    there = [spec_of(seen) for _, seen in sorted(worker.kept.containers.containers.items())]
    if worker.tier is not None:
        there = [instance.spec for instance in worker.tier.desired.instances]
    total = overcommitted(worker.machine.offered.resources, world.vcpu_overcommit)
    candidate = WorkerCandidate(
        id=worker.id,
        name=worker.name,
        capacity=worker.machine.offered,
        free=total - sum((other.resources for other in there), Resources()),
        total=total,
        ports_taken=frozenset(
            (port.protocol.value, port.host_port) for other in there for port in other.ports
        ),
        instances=len(there),
    )
    return isinstance(choose_worker(Request.of(spec), [candidate]), Choice)
