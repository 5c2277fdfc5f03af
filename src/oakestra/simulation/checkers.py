"""What must hold at every moment, looked at from outside: what is on the machines, against what root acknowledged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from oakestra.cluster.ledger import overcommitted
from oakestra.cluster.state import Availability
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.instance import InstanceKey, Phase, Slot, order
from oakestra.model.service import InstanceAddress, Resources, ServiceSpec
from oakestra.root.state import ServiceRecord, SlotRecord
from oakestra.simulation.hosts import WorkerHost
from oakestra.simulation.losing import held_by_cluster
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


There = list[tuple[WorkerHost, ContainerSeen]]
"""Every container on every machine that has power."""


def unsafe(world: World) -> Iterator[str]:
    """Yield what must never be, however bad the world is, besides what `Watch` looks at when it changes."""
    steady = [worker for worker in world.workers.values() if not worker.cluster.forgot]
    yield from subnets_of_two(steady)
    if not world.user.waiting:
        yield from _unlike_what_was_said(world)


def _unlike_what_was_said(world: World) -> Iterator[str]:
    """What root acknowledged is on its disk; once that was lost, nothing comes back that nobody had written down."""
    yield from world.user.check(*durable(world))
    for name, kept in world.root.owed.items():
        cluster = world.clusters[name]
        if not world.has_told(cluster):
            world.root.owed[name] = kept.both(held_by_cluster(cluster.disk))


def _over_capacity(world: World, there: There) -> Iterator[str]:
    used: defaultdict[str, Resources] = defaultdict(Resources)
    for worker, seen in there:
        used[worker.name] += spec_of(seen).resources
    for name, resources in used.items():
        has = overcommitted(world.workers[name].machine.offered.resources, world.vcpu_overcommit)
        if resources.memory_mib > has.memory_mib or resources.vcpus > has.vcpus:
            yield f"{name} has {has.memory_mib} MiB and {has.vcpus} vCPUs to give, and holds {resources}"


def _addresses_of_two(there: There) -> Iterator[str]:
    owners: dict[InstanceAddress, Slot] = {}
    for worker, seen in there:
        address = _address(seen.labels[ADDRESS_LABEL])
        slot = key_of(seen).slot
        if owners.setdefault(address, slot) != slot:
            yield f"{address.v4} is the address of {owners[address]} and, on {worker.name}, of {slot}"


def _twice(there: There) -> Iterator[str]:
    """What must never run twice, and is stopped before it is started elsewhere, runs once at most."""
    running: dict[Slot, str] = {}
    for worker, seen in there:
        slot = key_of(seen).slot
        if spec_of(seen).runs_alone and seen.state is ContainerState.RUNNING:
            if slot in running:
                yield f"{slot} must not run twice, and runs on {running[slot]} and {worker.name}"
            running[slot] = worker.name


def _given_twice(services: list[ServiceRecord], slots: list[SlotRecord]) -> Iterator[str]:
    addresses = [record.spec.addresses for record in services]
    given = Counter(record.address.v4 for record in slots)
    given.update(one for each in addresses for one in (each.round_robin_v4, each.closest_v4))
    yield from (f"root gave {address} away {count} times" for address, count in given.items() if count > 1)


def subnets_of_two(workers: list[WorkerHost]) -> Iterator[str]:
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
        self._commits = -1
        self._there: There = []
        self._seen: dict[tuple[str, int], str] = {}

    def look(self) -> Iterator[str]:
        """Yield what is wrong now, once for as long as nothing changes; put what changed on the machines into the story."""
        yield from unsafe(self._world)
        there = list(self._world.containers())
        if there != self._there:
            self._there = there
            yield from _over_capacity(self._world, there)
            yield from _addresses_of_two(there)
            yield from _twice(there)
            self._tell(there)
        written = (self._roots_store(), self._world.root.disk.commits)
        if written != (self._store, self._commits):
            services, slots = durable(self._world)
            yield from _given_twice(services, slots)
            yield from self._backwards(slots)
            self._store, self._commits = written

    def _backwards(self, slots: list[SlotRecord]) -> Iterator[str]:
        if self._store != self._roots_store():
            self._orders.clear()
        for record in slots:
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

    def _tell(self, there: There) -> None:
        now = {
            (worker.name, seen.number): f"{short(key_of(seen))} {seen.state.value} {seen.pid}"
            for worker, seen in there
        }
        for (name, number), text in now.items():
            if self._seen.get((name, number)) != text:
                self._world.say(f"{name}/{number} {text}")
        for name, number in sorted(self._seen.keys() - now.keys()):
            self._world.say(f"{name}/{number} is gone")
        self._seen = now


def short(key: InstanceKey) -> str:
    return f"{key.service[:6]}.{key.number} p{key.placement} a{key.attempt}"
