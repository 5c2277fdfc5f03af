"""What must hold once everything had time to heal: each checker yields sentences about what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from oakestra.cluster.state import Availability
from oakestra.model.container import ContainerState
from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey, Phase, Placement, Slot, is_done
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.root.state import SlotRecord, slot_key
from oakestra.simulation.checkers import key_of, short, subnets_of_two
from oakestra.simulation.hosts import ClusterHost, WorkerHost
from oakestra.simulation.losing import Kept
from oakestra.simulation.placing import (
    fails_for_no_reason,
    is_open,
    is_unable,
    leaving,
    serves_in,
    stays_for_no_reason,
    whereabouts,
)
from oakestra.simulation.world import World

ACTIVE = Availability.ACTIVE


def unsettled(world: World, *, resting: bool = False) -> Iterator[str]:
    """Yield what is not yet as it should be on the machines that are alive.

    `resting`: what fails where it is may rest there for its time before it is tried elsewhere.
    """
    root = world.root.tier
    if root is None:
        yield "root is not up"
        return
    yield from _not_known_again(world)
    yield from _tombstones(world)
    yield from subnets_of_two([worker for worker in world.workers.values() if worker.reachable])
    rightful: dict[str, set[InstanceKey]] = {n: set() for n, w in world.workers.items() if w.reachable}
    for slot in sorted(world.user.wanted()):
        record = root.state.slots.get(slot_key(slot))
        if record is None:
            yield f"root forgot {slot}"
            continue
        yield from _of_slot(world, record, rightful, may_rest=resting)
    for name, keys in rightful.items():
        yield from _nothing_else(world.workers[name], keys)
        yield from _routes(world, world.workers[name])


def _not_known_again(world: World) -> Iterator[str]:
    """What clusters have written down, root knows again, and whether they take instances."""
    root = world.root.tier
    assert root is not None, "asked only when root is up"
    for name, cluster in world.clusters.items():
        if not cluster.alive:
            continue
        record = root.state.clusters.get(cluster.id)
        if record is None or not world.has_told(cluster):
            yield f"{name} has not told root what it holds"
            continue
        said, wanted = record.availability, world.closed.get(name, ACTIVE)
        if said != wanted:
            yield f"root believes that {name} is {said}, it was told {wanted}"
        missing = world.user.missing(world.root.owed.get(name, Kept()))
        yield from (f"root forgot {named.name}" for named in missing.services.values())
        yield from (f"root forgot {slot}" for slot in sorted(missing.slots))


def _rests(world: World, slot: Slot) -> bool:
    root = world.root.tier
    memories = [cluster.tier.state.memory for cluster in world.clusters.values() if cluster.tier is not None]
    memories += [root.state.last.memory] if root is not None else []
    return any(slot in memory.rests_s for memory in memories)


def _of_slot(
    world: World, record: SlotRecord, rightful: Mapping[str, set[InstanceKey]], *, may_rest: bool
) -> Iterator[str]:
    """Yield what is wrong with a slot; note which of its attempts have a right to be on each worker."""
    assert world.root.tier is not None, "asked only when root is up"
    if is_done(world.root.tier.state.services[record.slot.service].spec, record.status):
        _let_ended_be(world, record, rightful)
        return
    place = whereabouts(world, record)
    if isinstance(place, str):
        if place:
            yield place
        return
    worker, key = place
    rightful[worker.name].add(key)
    if is_unable(worker, key):
        serves = record.leaving is not None or serves_in(worker.cluster, record)
        earlier = leaving(world, record) if serves else None
        if earlier is not None and earlier[0].name in rightful:
            rightful[earlier[0].name].add(earlier[1])
        if not (may_rest and _rests(world, record.slot)):
            yield from fails_for_no_reason(world, worker, record)
        return
    yield from _runs(worker, key, record)
    yield from _outdated(world, worker, key)
    yield from stays_for_no_reason(world, worker, record)


def _let_ended_be(world: World, record: SlotRecord, rightful: Mapping[str, set[InstanceKey]]) -> None:
    """What has done its work stays ended wherever it is, and nothing of it runs."""
    for name, keys in rightful.items():
        tier = world.workers[name].tier
        instances = tier.desired.instances if tier is not None else ()
        keys |= {one.key for one in instances if one.key.slot == record.slot and one.outcome is not None}


def _runs(worker: WorkerHost, key: InstanceKey, record: SlotRecord) -> Iterator[str]:
    instance = next(
        (one for one in (worker.tier.desired.instances if worker.tier else ()) if one.key == key), None
    )
    if instance is None:
        yield f"{worker.name} was not told of {short(key)}"
        return
    status = record.status
    if instance.outcome is not None:
        if status is None or status.phase is not instance.outcome.phase:
            yield f"root says {status.phase.name if status else 'nothing'} of {short(key)}, it is over"
        return
    seen = worker.kept.containers.containers.get(instance.number)
    if seen is None or seen.state is not ContainerState.RUNNING or not _may_be(key_of(seen), key):
        yield f"{short(key)} does not run on {worker.name}: {seen.state.value if seen else 'nothing there'}"
        return
    if status is None or status.key != key or status.phase is not Phase.RUNNING or not status.ready:
        yield f"root says of {short(key)}, which runs: {status}"
    elif status.worker != worker.id or status.namespace != _attached(worker, instance.number):
        yield f"root says that {short(key)} is elsewhere: {status}"


def _may_be(made: InstanceKey, key: InstanceKey) -> bool:
    """Tell whether what was made as one attempt may go on as that one: it keeps its label when it is taken back."""
    return made.placed == key.placed and made.attempt <= key.attempt


def _outdated(world: World, worker: WorkerHost, key: InstanceKey) -> Iterator[str]:
    """Every instance is of its service's latest revision, unless its worker takes nothing new.

    An instance that is away and must not be replaced counts as the one that may be away, so others wait for it; so they
    do for one whose successor its machine is unable to run.
    """
    assert world.root.tier is not None, "asked only when root is up"
    spec = world.root.tier.state.services[key.service].spec
    for instance in worker.tier.desired.instances if worker.tier is not None else ():
        outdated = instance.key == key and not spec.covers(instance.spec.revision)
        away = not spec.disconnect.replace and _is_any_away(world, worker.cluster, spec)
        waits = away or _is_an_update_stuck(world, worker.cluster, key.service)
        if outdated and is_open(worker) and not waits:
            yield f"{short(key)} is of revision {instance.spec.revision}, {spec.name} has {spec.revision}"


def _is_any_away(world: World, cluster: ClusterHost, spec: ServiceSpec) -> bool:
    """Tell whether a dead machine of a cluster has, or may still run, some instance of a service."""
    if cluster.tier is None:
        return True
    slots = [held for held in cluster.tier.state.slots.values() if held.placed.service == spec.id]
    holders = [holder for held in slots for holder, _ in held.attempts]
    holders += [held.seen_on for held in slots if held.may_still_run(spec)]
    holders += [one.worker for one in cluster.tier.state.withdrawals.values() if one.key.service == spec.id]
    workers = (world.worker_of(holder) for holder in holders)
    return any(worker is not None and not worker.alive for worker in workers)


def _is_an_update_stuck(world: World, cluster: ClusterHost, service: ServiceId) -> bool:
    """Tell whether some instance of a service has a successor that its machine is unable to run."""
    slots = cluster.tier.state.slots.values() if cluster.tier is not None else ()
    stuck = (held for held in slots if held.placed.service == service and held.leaving is not None)
    workers = ((world.worker_of(held.worker) if held.worker else None, held.key) for held in stuck)
    return any(worker is not None and is_unable(worker, key) for worker, key in workers)


def _attached(worker: WorkerHost, number: int) -> InstanceAddress | None:
    endpoint = worker.kept.kernel.attached.get(number)
    return endpoint.namespace if endpoint else None


def _nothing_else(worker: WorkerHost, rightful: set[InstanceKey]) -> Iterator[str]:
    if worker.tier is None:
        yield f"{worker.name} is not up"
        return
    desired = worker.tier.desired
    yield from (
        f"{worker.name} still keeps {short(instance.key)}"
        for instance in desired.instances
        if instance.key not in rightful
    )
    numbers = {instance.number for instance in desired.instances if instance.outcome is None}
    containers = worker.kept.containers
    for number, seen in sorted(containers.containers.items()):
        if number not in numbers:
            yield f"{worker.name} has a container nobody wants: {short(key_of(seen))}"
    for number in sorted(worker.kept.kernel.attached.keys() - numbers):
        yield f"{worker.name} has a namespace nobody wants: {number}"
    for number in sorted(containers.logs.keys() - desired.by_number.keys()) if not worker.forgot else ():
        yield f"{worker.name} has a log nobody wants: {number}"


def _routes(world: World, worker: WorkerHost) -> Iterator[str]:
    """Every service address leads to all the ready instances that are alive, one per slot, and to nothing else but what
    clusters had that a new root has not heard of."""
    root = world.root.tier
    if root is None or worker.tier is None or not worker.tier.desired.instances:
        return
    ready: defaultdict[str, dict[int, InstanceAddress]] = defaultdict(dict)
    for record in root.state.slots.values():
        status = record.status
        serving, _ = record.serving
        cluster = world.cluster_of(serving) if serving else None
        reachable = cluster is not None and cluster.alive
        if reachable and status is not None and status.ready and record.wanted:
            ready[record.slot.service][record.slot.number] = status.namespace
    unheard = _had_by_the_unheard(world, worker)
    for route in worker.kept.kernel.overlay.routes:
        wanted = set(ready[route.service].values())
        if route.kind.value == "instance":
            continue
        leads_to = [backend.address for backend in route.backends]
        if len(leads_to) != len(set(leads_to)) or set(leads_to) - unheard != wanted - unheard:
            yield (
                f"on {worker.name} {route.address.v4} leads to {[address.v4 for address in leads_to]}, "
                f"ready are {sorted(address.v4 for address in wanted)}"
            )


def _had_by_the_unheard(world: World, worker: WorkerHost) -> set[InstanceAddress]:
    """Return where clusters have instances, as this one knows, that have told a root whose records are new nothing yet."""
    told = worker.cluster.tier.state.remote if worker.cluster.tier is not None else None
    if told is None or told.heard is None:
        return set()
    unheard = {cluster.id for cluster in world.clusters.values() if not world.has_told(cluster)}
    return {one.namespace for one in told.remotes if one.cluster in unheard}


def _tombstones(world: World) -> Iterator[str]:
    """What nobody wants is forgotten everywhere, unless only a dead machine could say that it is gone."""
    held: set[Placement] = set()
    for cluster in world.clusters.values():
        if cluster.tier is None:
            continue
        for withdrawal in cluster.tier.state.withdrawals.values():
            worker = world.worker_of(withdrawal.worker)
            if worker is not None and not worker.alive:
                held.add(withdrawal.key.placed)
            else:
                yield f"{cluster.name} still withdraws {short(withdrawal.key)}"
    yield from _roots_tombstones(world, held)


def _roots_tombstones(world: World, held: set[Placement]) -> Iterator[str]:
    root = world.root.tier
    assert root is not None, "asked only when root is up"
    for gone in root.state.withdrawals.values():
        host = world.cluster_of(gone.cluster)
        if gone.placed not in held and host is not None and host.alive:
            yield f"root still withdraws {gone.placed} from {host.name}"
    waiting = {gone.placed.slot for gone in root.state.withdrawals.values()}
    for record in root.state.slots.values():
        if not record.wanted and record.slot not in waiting:
            yield f"root keeps the tombstone of {record.slot}"
    kept = {record.slot.service for record in root.state.slots.values()}
    for service in root.state.services.values():
        if service.deleted and service.spec.id not in kept:
            yield f"root keeps the tombstone of {service.spec.name}"
