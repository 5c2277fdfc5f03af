"""Tell people what happens in a simulated fleet, and how it stands, in their own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from oakestra.cluster.state import Availability
from oakestra.cluster.state import SlotRecord as HeldSlot
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ServiceId
from oakestra.model.instance import Slot
from oakestra.root.state import SlotRecord
from oakestra.scheduling.placement import nobody
from oakestra.simulation.checkers import key_of
from oakestra.simulation.hosts import ClusterHost, RootHost
from oakestra.simulation.world import World
from oakestra.store.event_log import EventLog

_TOLD = frozenset(EventKind) - {EventKind.PHASE, EventKind.REQUESTED, EventKind.JOINED, EventKind.ACT}
"""What is told unless everything is asked for: steps on the way are not, nor what the script itself did."""


@dataclass(slots=True)
class Names:
    """What people call services here, in both directions."""

    ids: dict[str, ServiceId] = field(default_factory=dict)

    def of(self, id: ServiceId) -> str:
        """Return the name of a service, or a bit of its id."""
        return next((name for name, known in self.ids.items() if known == id), id[:6])

    def slot(self, slot: Slot) -> str:
        """Return what an instance is called."""
        return f"{self.of(slot.service)}.{slot.number}"


class Narrator:
    """Tells every event of every tier once, in order of time."""

    def __init__(self, world: World, names: Names) -> None:
        self._world = world
        self._names = names
        self._heard: dict[tuple[str, int], int] = {}

    def news(self, *, everything: bool) -> Iterator[str]:
        """Yield what happened since the last time: what matters, or every step."""
        found: list[tuple[float, str, int, Event]] = []
        hosts: tuple[RootHost | ClusterHost, ...] = (self._world.root, *self._world.clusters.values())
        for host in hosts:
            log = _log(host)
            if log is None:
                continue
            known = self._heard.get((host.name, host.disk.epoch), 0)
            for event in log.of():
                if event.sequence > known:
                    found.append((event.wall_s - host.clock.epoch_s, host.name, event.sequence, event))
                    self._heard[host.name, host.disk.epoch] = event.sequence
        for at_s, tier, _, event in sorted(found, key=lambda one: one[:3]):
            if everything or event.kind in _TOLD:
                yield f"{at_s:8.1f}  {tier:6}{self._sentence(event)}"

    def _sentence(self, event: Event) -> str:
        if event.slot < 0:
            subject = f"{self._names.of(event.service)}: " if event.service else ""
            return f"{subject}{event.reason}"
        who = self._names.slot(Slot(event.service, event.slot))
        match event.kind:
            case EventKind.PLACED:
                return f"{who} goes to {event.reason}"
            case EventKind.UNPLACEABLE:
                stays = event.reason.startswith("stays ")
                return f"{who} {event.reason}" if stays else f"{who} has to wait: {event.reason}"
            case EventKind.SET_ASIDE:
                return f"{who} on {event.subject} is replaced and may come back: {event.reason}"
            case EventKind.WITHDRAWN:
                return f"{who} must leave {event.subject}: {event.reason}"
            case EventKind.READY:
                return f"{who} is ready on {event.subject}"
            case EventKind.NOT_READY:
                return f"{who} is no longer ready on {event.subject}"
            case EventKind.ADOPTED:
                return f"{who} is kept on {event.subject}: {event.reason}"
            case _:
                return f"{who}: {event.reason}"


def _log(host: RootHost | ClusterHost) -> EventLog | None:
    return host.tier.events if host.tier is not None else None


def instances(world: World, names: Names) -> Iterator[str]:
    """Yield how every instance stands, as root tells its users."""
    if world.root.tier is None:
        yield "root does not answer"
        return
    rows = sorted(_row(world, names, record) for record in _records(world))
    yield from table(("INSTANCE", "STATE", "READY", "WHERE", "ATTEMPT", "RESTARTS", "ADDRESS"), rows)
    if not rows:
        yield "nobody asked for anything"


def waiting(world: World, names: Names) -> Iterator[str]:
    """Yield every instance that is wanted and has no place, and why."""
    for record in _records(world) if world.root.tier is not None else ():
        cluster = world.cluster_of(record.cluster) if record.cluster else None
        held = (
            [one for one in cluster.tier.state.slots.values() if one.placed.slot == record.slot]
            if cluster is not None and cluster.tier is not None
            else []
        )
        nowhere = [one.reason for one in held if one.worker is None]
        if record.wanted and (record.cluster is None or nowhere):
            yield f"  {names.slot(record.slot)}: {(nowhere or [record.reason])[0] or 'nothing was decided yet'}"


def _row(world: World, names: Names, record: SlotRecord) -> tuple[str, ...]:
    status = record.status
    worker = world.worker_of(status.worker) if status is not None else None
    serving, placed = record.serving
    cluster = world.cluster_of(serving) if serving else None
    word = status.phase.name if status is not None else "CLUSTER_ASSIGNED" if cluster else "REQUESTED"
    attempt = f"{placed.placement}.{status.key.attempt}" if status is not None else f"{placed.placement}"
    return (
        names.slot(record.slot),
        word if record.wanted else f"{word} (leaves)",
        "yes" if status is not None and status.ready else "no",
        worker.name if worker is not None else cluster.name if cluster is not None else "-",
        attempt,
        str(status.restart) if status is not None else "-",
        record.address.v4,
    )


def _records(world: World) -> list[SlotRecord]:
    assert world.root.tier is not None, "asked only when root is up"
    return sorted(world.root.tier.state.slots.values(), key=lambda record: record.slot.number)


def workers(world: World, names: Names) -> Iterator[str]:
    """Yield every worker: what runs on it, as a look at the machine tells."""
    rows: list[tuple[str, ...]] = []
    for worker in world.workers.values():
        there = [_container(names, seen) for seen in worker.kept.containers.containers.values()]
        has = worker.machine.offered.resources
        rows.append(
            (
                worker.name,
                "up" if worker.alive else "down" if worker.powered else "off",
                _availability(worker.cluster, worker.id),
                f"{has.memory_mib} MiB, {has.vcpus} vCPUs",
                " ".join(sorted(there)) or "-",
            )
        )
    yield from table(("WORKER", "AGENT", "AVAILABILITY", "HAS", "RUNS"), rows)


def _container(names: Names, seen: ContainerSeen) -> str:
    name = names.slot(key_of(seen).slot)
    return name if seen.state is ContainerState.RUNNING else f"{name}({seen.state.value})"


def _availability(cluster: ClusterHost, id: str) -> str:
    record = cluster.tier.state.workers.get(id) if cluster.tier is not None else None
    return (record.availability if record is not None else Availability.ACTIVE).value


def _remedies(world: World, record: SlotRecord, held: Sequence[HeldSlot]) -> Iterator[str]:
    """Yield the least that would help an instance that is nowhere."""
    cluster = world.cluster_of(record.cluster) if record.cluster else None
    waiting = [one for one in held if one.worker is None or nobody(one.verdicts)]
    found = list(cluster.tier.remedies(waiting).values()) if cluster and cluster.tier else []
    if record.cluster is None and world.root.tier is not None:
        found += world.root.tier.remedies([record.slot]).values()
    yield from (f"  what would help: {remedy}" for remedy in found if remedy)


def explained(world: World, names: Names, slot: Slot) -> Iterator[str]:
    """Yield why an instance is where it is, or nowhere, with what was thought of every candidate."""
    found = [record for record in _records(world) if record.slot == slot] if world.root.tier else []
    for record in found:
        yield f"{names.slot(slot)}: {record.reason or 'nothing was decided yet'}"
        yield from (
            f"  cluster {verdict.name}: {verdict.refusal or f'fits, {verdict.score}'}"
            for verdict in record.verdicts
        )
        cluster = world.cluster_of(record.cluster) if record.cluster else None
        held = [
            one
            for one in (cluster.tier.state.slots.values() if cluster and cluster.tier else ())
            if one.placed.slot == slot
        ]
        for one in held:
            yield f"  {cluster.name if cluster else ''}: {one.reason}"
            yield from (
                f"    worker {verdict.name}: {verdict.refusal or f'fits, {verdict.score}'}"
                for verdict in one.verdicts
            )
        yield from _remedies(world, record, held)
        told = {record.reason, *(one.reason for one in held)}
        if record.status is not None and record.status.reason and record.status.reason not in told:
            yield f"  its worker says: {record.status.reason}"
    if not found:
        yield f"there is no {names.slot(slot)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table whose columns are as wide as they must be; nothing without rows."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
