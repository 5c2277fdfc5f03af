"""What must hold, looked at from outside: what is on the machines, against what root acknowledged.

`unsafe` holds at every moment, `unsettled` once everything had time to heal. Each yields sentences about what is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache

import msgspec

from oakestra.cluster.ledger import overcommitted
from oakestra.cluster.state import Availability
from oakestra.cluster.state import SlotRecord as HeldSlot
from oakestra.cluster.state import slot_key as cluster_slot_key
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.instance import InstanceKey, Phase, Placement, Slot, is_done, order
from oakestra.model.service import InstanceAddress, Resources, ServiceSpec
from oakestra.root.state import ServiceRecord, SlotRecord, slot_key
from oakestra.scheduling.placement import Choice, choose_worker
from oakestra.scheduling.request import Request, WorkerCandidate
from oakestra.simulation.hosts import ClusterHost, WorkerHost
from oakestra.simulation.losing import Kept, kept_by_cluster
from oakestra.simulation.world import World
from oakestra.worker.execute import ADDRESS_LABEL, KEY_LABEL, SPEC_LABEL

ACTIVE, DRAINING = Availability.ACTIVE, Availability.DRAINING


def key_of(seen: ContainerSeen) -> InstanceKey:
    """Return whose container this is."""
    return _key(seen.labels[KEY_LABEL])


def spec_of(seen: ContainerSeen) -> ServiceSpec:
    """Return what the container was made from."""
    return _spec(seen.labels[SPEC_LABEL])


@lru_cache(maxsize=4096)
def _key(label: str) -> InstanceKey:
    return msgspec.json.decode(label, type=InstanceKey)


@lru_cache(maxsize=4096)
def _spec(label: str) -> ServiceSpec:
    return msgspec.json.decode(label, type=ServiceSpec)


@lru_cache(maxsize=4096)
def _address(label: str) -> InstanceAddress:
    return msgspec.json.decode(label, type=InstanceAddress)


@lru_cache(maxsize=4096)
def _service_record(body: bytes) -> ServiceRecord:
    return msgspec.json.decode(body, type=ServiceRecord)


@lru_cache(maxsize=4096)
def _slot_record(body: bytes) -> SlotRecord:
    return msgspec.json.decode(body, type=SlotRecord)


# --- at every moment -------------------------------------------------------------------------------------------


def unsafe(world: World) -> Iterator[str]:
    """Yield what must never be, however bad the world is."""
    yield from _over_capacity(world)
    yield from _addresses_of_two(world)
    steady = [worker for worker in world.workers.values() if not worker.cluster.forgot]
    yield from _subnets_of_two(steady)
    if not world.user.waiting:
        yield from _unlike_what_was_said(world)


def _unlike_what_was_said(world: World) -> Iterator[str]:
    """What root acknowledged is on its disk; once that was lost, nothing comes back that nobody had written down."""
    yield from world.user.check(*durable(world))
    for name, kept in world.root.owed.items():
        cluster = world.clusters[name]
        if not world.has_told(cluster):
            world.root.owed[name] = kept.both(kept_by_cluster(cluster.disk))


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


def _over_capacity(world: World) -> Iterator[str]:
    used: defaultdict[str, Resources] = defaultdict(Resources)
    for worker, seen in world.containers():
        used[worker.name] += spec_of(seen).resources
    for name, resources in used.items():
        has = overcommitted(world.workers[name].machine.offered.resources, world.vcpu_overcommit)
        if resources.memory_mib > has.memory_mib or resources.vcpus > has.vcpus:
            yield f"{name} has {has.memory_mib} MiB and {has.vcpus} vCPUs to give, and holds {resources}"


def _addresses_of_two(world: World) -> Iterator[str]:
    owners: dict[InstanceAddress, Slot] = {}
    for worker, seen in world.containers():
        address = _address(seen.labels[ADDRESS_LABEL])
        slot = key_of(seen).slot
        if owners.setdefault(address, slot) != slot:
            yield f"{address.v4} is the address of {owners[address]} and, on {worker.name}, of {slot}"
    if world.root.tier is not None:
        given = Counter(
            address
            for address in [record.address.v4 for record in world.root.tier.state.slots.values()]
            + [
                text
                for service in world.root.tier.state.services.values()
                for text in (service.spec.addresses.round_robin_v4, service.spec.addresses.closest_v4)
            ]
        )
        yield from (
            f"root gave {address} away {count} times" for address, count in given.items() if count > 1
        )


def _subnets_of_two(workers: list[WorkerHost]) -> Iterator[str]:
    namespaces: dict[InstanceAddress, str] = {}
    for worker in workers:
        for number, endpoint in sorted(worker.kept.kernel.attached.items()):
            owner = f"{worker.name}/{number}"
            if namespaces.setdefault(endpoint.namespace, owner) != owner:
                yield f"{endpoint.namespace.v4} is attached to {namespaces[endpoint.namespace]} and {owner}"
    owners: dict[str, str] = {}
    for worker in workers:
        for subnet in worker.tier.desired.subnets if worker.tier is not None else ():
            if owners.setdefault(subnet.v4, worker.name) != worker.name:
                yield f"{subnet.v4} belongs to {owners[subnet.v4]} and {worker.name}"


def durable(world: World) -> tuple[list[ServiceRecord], list[SlotRecord]]:
    """Return the services and slots on root's disk, whether root is up or not."""
    tables = world.root.disk.tables
    return (
        [_service_record(body) for body in tables["services"].values()],
        [_slot_record(body) for body in tables["slots"].values()],
    )


class Watch:
    """Sees what only a look at two moments can tell: that nothing went backwards."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._orders: dict[Slot, tuple[int, ...]] = {}
        self._store = self._roots_store()
        self._seen: dict[tuple[str, int], str] = {}

    def look(self) -> Iterator[str]:
        """Yield what is wrong now; put what changed on the machines into the story."""
        yield from unsafe(self._world)
        yield from self._backwards()
        self._tell()

    def _backwards(self) -> Iterator[str]:
        if self._store != self._roots_store():
            self._store = self._roots_store()
            self._orders.clear()
        for record in durable(self._world)[1]:
            before = self._orders.get(record.slot, ())
            if before and record.placement < before[0] <= record.last_placement:
                before = ()  # an earlier placement was taken back
            if record.status is None:
                if record.cluster is not None and before[:2] == (record.placement, record.placement):
                    yield f"root forgot how {record.slot} is"
                continue
            at = record.status.key.placement
            now = (record.placement, at, record.status_store, *order(record.status))
            if now < before and not record.status.ready:  # what is ready serves, whatever came after it
                yield f"the status of {record.slot} went back from {before} to {now}"
            self._orders[record.slot] = now
            if record.status is not None and record.status.ready and record.status.phase is not Phase.RUNNING:
                yield f"{record.slot} is called ready, and is {record.status.phase.name}"

    def _roots_store(self) -> tuple[int, int]:
        return self._world.root.stores, self._world.root.disk.epoch

    def _tell(self) -> None:
        now = {
            (worker.name, seen.number): f"{_short(key_of(seen))} {seen.state.value} {seen.pid}"
            for worker, seen in self._world.containers()
        }
        for (name, number), text in now.items():
            if self._seen.get((name, number)) != text:
                self._world.say(f"{name}/{number} {text}")
        for name, number in sorted(self._seen.keys() - now.keys()):
            self._world.say(f"{name}/{number} is gone")
        self._seen = now


def _short(key: InstanceKey) -> str:
    return f"{key.service[:6]}.{key.number} p{key.placement} a{key.attempt}"


# --- once all had time to heal ----------------------------------------------------------------------------------


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
    yield from _subnets_of_two([worker for worker in world.workers.values() if worker.reachable])
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


def _rests(world: World, slot: Slot) -> bool:
    tiers = (world.root.tier, *(cluster.tier for cluster in world.clusters.values()))
    return any(tier is not None and slot in tier.state.memory.rests_s for tier in tiers)


def _of_slot(
    world: World, record: SlotRecord, rightful: Mapping[str, set[InstanceKey]], *, may_rest: bool
) -> Iterator[str]:
    """Yield what is wrong with a slot; note which of its attempts have a right to be on each worker."""
    assert world.root.tier is not None, "asked only when root is up"
    if is_done(world.root.tier.state.services[record.slot.service].spec, record.status):
        _let_ended_be(world, record, rightful)
        return
    place = _place(world, record)
    if isinstance(place, str):
        if place:
            yield place
        return
    worker, key = place
    rightful[worker.name].add(key)
    if _is_unable(worker, key):
        earlier = _leaving(world, record) if _serves_in(worker.cluster, record) else None
        if earlier is not None and earlier[0].name in rightful:
            rightful[earlier[0].name].add(earlier[1])
        if not (may_rest and _rests(world, record.slot)):
            yield from _fails_for_no_reason(world, worker, record)
        return
    yield from _runs(worker, key, record)
    yield from _outdated(world, worker, key)
    yield from _stays_for_no_reason(world, worker, record)


def _let_ended_be(world: World, record: SlotRecord, rightful: Mapping[str, set[InstanceKey]]) -> None:
    """What has done its work stays ended wherever it is, and nothing of it runs."""
    for name, keys in rightful.items():
        tier = world.workers[name].tier
        instances = tier.desired.instances if tier is not None else ()
        keys |= {one.key for one in instances if one.key.slot == record.slot and one.outcome is not None}


def _place(world: World, record: SlotRecord) -> tuple[WorkerHost, InstanceKey] | str:
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
        if (waits := _waits_there(world, held, spec)) is not None:
            return waits
    elif cluster is not None and not spec.disconnect.replace:
        return _leaving(world, record) or ""
    if not record.reason:
        return f"{record.slot} waits without a reason"
    stays = _leaving(world, record)
    fits = [
        worker.name
        for worker in world.workers.values()
        if worker.reachable
        and _is_open(worker)
        and _fits(world, worker, spec)
        # what leaves a worker goes nowhere but to others of its cluster
        and (stays is None or stays[0].cluster is not cluster or worker.cluster is cluster)
    ]
    if not fits and stays is not None:
        return stays
    if fits:
        return f"{record.slot} waits ({record.reason}) although there is room on {', '.join(fits)}"
    return ""


def _serves_in(cluster: ClusterHost | None, record: SlotRecord) -> bool:
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
    return _leaving(world, record) or ""


def _waits_there(world: World, held: HeldSlot, spec: ServiceSpec) -> str | None:
    """Return what is wrong with a slot that waits in its cluster; None if it may as well be elsewhere."""
    if not held.reason:
        return f"{held.placed} waits in its cluster without a reason"
    worker = world.worker_of(held.seen_on) if held.may_still_run(spec) else None
    return "" if worker is not None and not worker.alive else None


def _leaving(world: World, record: SlotRecord) -> tuple[WorkerHost, InstanceKey] | None:
    """Return where the earlier attempt of a slot goes on, as its successor fits nowhere."""
    for id, placed in record.placements:
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


def _is_open(worker: WorkerHost) -> bool:
    """Tell whether a worker and its cluster take instances."""
    return worker.name not in worker.fleet.closed and worker.cluster.name not in worker.fleet.closed


def _stays_for_no_reason(world: World, worker: WorkerHost, record: SlotRecord) -> Iterator[str]:
    """What is on a drained worker stays there only while there is room nowhere else."""
    assert world.root.tier is not None, "asked only when root is up"
    drained = world.closed.get(worker.name) == DRAINING or world.closed.get(worker.cluster.name) == DRAINING
    spec = world.root.tier.state.services[record.slot.service].spec
    if drained and (spec.disconnect.replace or not _is_leaving(worker, record)):
        others = worker.cluster.name if world.closed.get(worker.cluster.name) != DRAINING else ""
        for other in world.workers.values():
            near = not others or other.cluster.name == others
            if near and other.reachable and _is_open(other) and _fits(world, other, spec):
                yield f"{record.slot} stays on {worker.name}, which is drained, though it fits on {other.name}"
                return


def _is_unable(worker: WorkerHost, key: InstanceKey) -> bool:
    """Tell whether an attempt does not run because its machine cannot make a container of its image."""
    for instance in worker.tier.desired.instances if worker.tier is not None else ():
        if instance.key == key and instance.spec.image in worker.kept.containers.unmakeable:
            return instance.outcome is None and instance.number not in worker.kept.containers.containers
    return False


def _fails_for_no_reason(world: World, worker: WorkerHost, record: SlotRecord) -> Iterator[str]:
    """What its machine is unable to run stays there only while nobody else could, and nobody else may."""
    assert world.root.tier is not None, "asked only when root is up"
    spec = world.root.tier.state.services[record.slot.service].spec
    serves = _serves_in(worker.cluster, record)
    for other in world.workers.values() if spec.disconnect.replace and not serves else ():
        able = spec.image not in other.kept.containers.unmakeable
        near = (
            other.cluster is worker.cluster and other.name not in world.closed
        )  # it moves within a drained cluster
        if able and other.reachable and (near or _is_open(other)) and _fits(world, other, spec):
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


def _runs(worker: WorkerHost, key: InstanceKey, record: SlotRecord) -> Iterator[str]:
    instance = next(
        (one for one in (worker.tier.desired.instances if worker.tier else ()) if one.key == key), None
    )
    if instance is None:
        yield f"{worker.name} was not told of {_short(key)}"
        return
    status = record.status
    if instance.outcome is not None:
        if status is None or status.phase is not instance.outcome.phase:
            yield f"root says {status.phase.name if status else 'nothing'} of {_short(key)}, it is over"
        return
    seen = worker.kept.containers.containers.get(instance.number)
    if seen is None or seen.state is not ContainerState.RUNNING or not _may_be(key_of(seen), key):
        yield f"{_short(key)} does not run on {worker.name}: {seen.state.value if seen else 'nothing there'}"
        return
    if status is None or status.key != key or status.phase is not Phase.RUNNING or not status.ready:
        yield f"root says of {_short(key)}, which runs: {status}"
    elif status.worker != worker.id or status.namespace != _attached(worker, instance.number):
        yield f"root says that {_short(key)} is elsewhere: {status}"


def _may_be(made: InstanceKey, key: InstanceKey) -> bool:
    """Tell whether what was made as one attempt may go on as that one: it keeps its label when it is taken back."""
    return made.placed == key.placed and made.attempt <= key.attempt


def _outdated(world: World, worker: WorkerHost, key: InstanceKey) -> Iterator[str]:
    """Every instance is of its service's latest revision, unless its worker takes nothing new.

    An instance that is away and must not be replaced counts as the one that may be away, so others wait for it.
    """
    assert world.root.tier is not None, "asked only when root is up"
    spec = world.root.tier.state.services[key.service].spec
    for instance in worker.tier.desired.instances if worker.tier is not None else ():
        outdated = instance.key == key and not spec.covers(instance.spec.revision)
        if outdated and _is_open(worker) and spec.disconnect.replace:
            yield f"{_short(key)} is of revision {instance.spec.revision}, {spec.name} has {spec.revision}"


def _attached(worker: WorkerHost, number: int) -> InstanceAddress | None:
    endpoint = worker.kept.kernel.attached.get(number)
    return endpoint.namespace if endpoint else None


def _nothing_else(worker: WorkerHost, rightful: set[InstanceKey]) -> Iterator[str]:
    if worker.tier is None:
        yield f"{worker.name} is not up"
        return
    desired = worker.tier.desired
    yield from (
        f"{worker.name} still keeps {_short(instance.key)}"
        for instance in desired.instances
        if instance.key not in rightful
    )
    numbers = {instance.number for instance in desired.instances if instance.outcome is None}
    containers = worker.kept.containers
    for number, seen in sorted(containers.containers.items()):
        if number not in numbers:
            yield f"{worker.name} has a container nobody wants: {_short(key_of(seen))}"
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
                yield f"{cluster.name} still withdraws {_short(withdrawal.key)}"
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
