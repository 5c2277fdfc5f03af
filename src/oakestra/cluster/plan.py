"""Decide which worker has which slot. Pure: time and randomness are in what is observed.

Must not know: how assignments travel, what a worker does with one, what the original calls any of this.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from oakestra.cluster.observe import Observed, Withdrawn, WorkerSeen
from oakestra.cluster.state import SlotRecord, WithdrawalRecord
from oakestra.model.address import INSTANCES_PER_SUBNET
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, Slot
from oakestra.model.service import Resources, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import CandidateVerdict, Choice, choose_worker
from oakestra.scheduling.request import Request, WorkerCandidate

SUBNET_RESERVE = 8
"""A worker gets its next subnet when fewer addresses than this are left, so that placing never waits for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Give a slot to a worker as a new attempt."""

    slot: Slot
    worker: WorkerId
    attempt: int
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Take an attempt that already runs as the slot's current one."""

    slot: Slot
    worker: WorkerId
    attempt: int
    reason: str = "found running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaceable:
    """No worker will do; the slot waits."""

    slot: Slot
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """An attempt must go from a worker."""

    key: InstanceKey
    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """A withdrawn attempt was seen gone."""

    worker: WorkerId
    key: InstanceKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetService:
    """Nothing of a service is left here."""

    service: ServiceId


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSubnet:
    """A worker gets addresses, or more of them."""

    worker: WorkerId
    index: int


Adopted = tuple[Slot, int, WorkerId]

Decision = Place | Adopt | Unplaceable | Withdraw | Forget | ForgetService | GrantSubnet


def plan(observed: Observed, *, vcpu_overcommit: float) -> tuple[Decision, ...]:
    """Return what must change so that every slot has a place on a live worker and nothing else is left anywhere.

    Order: what is gone first, so that the room it frees can be used in the same pass; then adoptions, so that
    nothing that runs is placed twice; then withdrawals; then placements.
    """
    forgotten = tuple(_gone(observed))
    adopted = tuple(_adoptions(observed))
    withdrawn = tuple(_withdrawals(observed, {(d.slot, d.attempt, d.worker) for d in adopted}))
    ledger = _Ledger(observed, {(d.worker, d.key) for d in forgotten}, vcpu_overcommit=vcpu_overcommit)
    for adoption in adopted:
        ledger.reserve(adoption.worker, observed.services[adoption.slot.service])
    for withdrawal in withdrawn:
        ledger.hold_orphan(withdrawal)
    placed = tuple(_placements(observed, ledger, {d.slot for d in adopted}))
    granted = tuple(_grants(observed, ledger))
    left = tuple(_services_left(observed, {(d.worker, d.key) for d in forgotten}))
    return (*forgotten, *adopted, *withdrawn, *placed, *granted, *left)


def _gone(observed: Observed) -> Iterator[Forget]:
    for (id, key), withdrawal in sorted(observed.withdrawals.items()):
        worker = observed.workers.get(id)
        if worker is None or _shown_gone(worker, withdrawal, epoch=observed.epoch):
            yield Forget(worker=id, key=key)


def _shown_gone(worker: WorkerSeen, withdrawal: WithdrawalRecord, *, epoch: int) -> bool:
    return (
        worker.complete
        and worker.applied.epoch == epoch
        and worker.applied.generation >= withdrawal.since_generation
        and withdrawal.key not in worker.statuses
    )


def _adoptions(observed: Observed) -> Iterator[Adopt]:
    """A store that is new, or was restored, takes what runs for the slots it was given, the latest attempt of each."""
    best: dict[Slot, tuple[int, WorkerId]] = {}
    for id, worker in sorted(observed.workers.items()):
        if worker.liveness is not Liveness.LIVE:
            continue
        for key in sorted(worker.statuses):
            record = observed.slots.get(key.slot)
            withdrawn = (id, key) in observed.withdrawals
            wanted = record is not None and record.placed == key.placed and not withdrawn
            if record is None or not wanted or key.attempt <= record.attempt:
                continue
            best[key.slot] = max(best.get(key.slot, (0, id)), (key.attempt, id))
    for slot, (attempt, id) in sorted(best.items()):
        yield Adopt(slot=slot, worker=id, attempt=attempt)


def _withdrawals(observed: Observed, adopted: set[Adopted]) -> Iterator[Withdraw]:
    moved = {slot for slot, _, _ in adopted}
    for slot, record in sorted(observed.slots.items()):
        if record.worker is None:
            continue
        worker = observed.workers.get(record.worker)
        if slot in moved:
            yield Withdraw(key=record.key, worker=record.worker, reason="a later attempt was found running")
        elif worker is None or worker.liveness is Liveness.LOST:
            name = worker.record.name if worker else record.worker
            yield Withdraw(key=record.key, worker=record.worker, reason=f"worker {name} is lost")
    for id, worker in sorted(observed.workers.items()):
        for key in sorted(worker.statuses):
            why = _orphaned(observed, key, id, adopted)
            if why:
                yield Withdraw(key=key, worker=id, reason=why)


def _orphaned(observed: Observed, key: InstanceKey, worker: WorkerId, adopted: set[Adopted]) -> str:
    """Say why a reported attempt has no right to be there; nothing if it has, or if that cannot be known yet."""
    if (worker, key) in observed.withdrawals or (key.slot, key.attempt, worker) in adopted:
        return ""
    record = observed.slots.get(key.slot)
    if record is None:
        return "nobody asked for it" if observed.root_known and not observed.adopting else ""
    if record.worker == worker and record.key == key:
        return ""
    if (key.placement, key.attempt) <= (record.placed.placement, record.attempt):
        return "a later attempt replaced it"
    return ""


class _Ledger:
    """What is free on each worker, kept up to date while placements are decided."""

    def __init__(self, observed: Observed, gone: set[Withdrawn], *, vcpu_overcommit: float) -> None:
        self._observed = observed
        self._used: defaultdict[WorkerId, Resources] = defaultdict(Resources)
        self._ports: defaultdict[WorkerId, set[tuple[str, int]]] = defaultdict(set)
        self._services: defaultdict[WorkerId, Counter[ServiceId]] = defaultdict(Counter)
        self._overcommit = vcpu_overcommit
        held = [(record.worker, record.placed.service) for record in observed.slots.values() if record.worker]
        held += [(id, key.service) for id, key in observed.withdrawals if (id, key) not in gone]
        for worker, service in held:
            spec = observed.services.get(service)
            if spec is not None:
                self.reserve(worker, spec)

    def reserve(self, worker: WorkerId, spec: ServiceSpec) -> None:
        self._used[worker] += spec.resources
        self._ports[worker].update((port.protocol.value, port.host_port) for port in spec.ports)
        self._services[worker][spec.id] += 1

    def hold_orphan(self, withdrawal: Withdraw) -> None:
        """Count what nobody asked for until it is seen gone."""
        record = self._observed.slots.get(withdrawal.key.slot)
        current = record is not None and record.worker == withdrawal.worker and record.key == withdrawal.key
        spec = self._observed.services.get(withdrawal.key.service)
        if spec is not None and not current:
            self.reserve(withdrawal.worker, spec)

    def candidate(self, worker: WorkerSeen, service: ServiceId) -> WorkerCandidate:
        record = worker.record
        total = overcommitted(record.capacity.resources, self._overcommit)
        return WorkerCandidate(
            id=record.id,
            name=record.name,
            unusable=_unusable(self._observed, worker),
            capacity=record.capacity,
            free=total - self._used[record.id],
            total=total,
            ports_taken=frozenset(self._ports[record.id]),
            instances=self._services[record.id].total(),
            siblings=self._services[record.id][service],
        )


def overcommitted(resources: Resources, vcpu_overcommit: float) -> Resources:
    """Return what may be promised of a machine: vCPUs are shared, everything else is given once."""
    return replace(resources, vcpus=int(resources.vcpus * vcpu_overcommit))


def free_of(observed: Observed, *, vcpu_overcommit: float) -> Mapping[WorkerId, WorkerCandidate]:
    """Return every worker with what is unreserved on it, as its summary to root needs it."""
    ledger = _Ledger(observed, set(), vcpu_overcommit=vcpu_overcommit)
    return {id: ledger.candidate(worker, ServiceId("")) for id, worker in sorted(observed.workers.items())}


def _unusable(observed: Observed, worker: WorkerSeen) -> str:
    if worker.liveness is Liveness.LOST:
        return "lost"
    if not worker.reported:
        return "has not reported yet"
    if any(key.service not in observed.services for key in worker.statuses):
        return "still holds an instance of which this cluster does not know what it needs"
    if not worker.record.subnet_indexes:
        return "has no addresses for instances (root has not leased any to this cluster yet)"
    return ""


def _placements(observed: Observed, ledger: _Ledger, adopted: set[Slot]) -> Iterator[Place | Unplaceable]:
    seen = _attempts_seen(observed)
    for slot, record in sorted(observed.slots.items()):
        if slot in adopted or not _homeless(observed, record):
            continue
        spec = observed.services.get(slot.service)
        if spec is None:
            continue
        if observed.adopting and _may_run_somewhere(observed):
            yield Unplaceable(slot=slot, reason="waiting for workers to report what they run")
            continue
        candidates = [
            ledger.candidate(worker, slot.service) for _, worker in sorted(observed.workers.items())
        ]
        verdict = choose_worker(Request.of(spec), candidates, start=slot.number)
        if isinstance(verdict, Choice):
            worker = WorkerId(verdict.id)
            ledger.reserve(worker, spec)
            yield Place(
                slot=slot,
                worker=worker,
                attempt=max(record.attempt, seen[slot]) + 1,
                reason=f"{verdict.name}: {verdict.reason}",
                verdicts=verdict.verdicts,
            )
        else:
            yield Unplaceable(slot=slot, reason=verdict.reason, verdicts=verdict.verdicts)


def _attempts_seen(observed: Observed) -> Counter[Slot]:
    """Return the highest attempt any worker reported of each slot: a number is never used twice knowingly."""
    seen: Counter[Slot] = Counter()
    for worker in observed.workers.values():
        for key in worker.statuses:
            seen[key.slot] = max(seen[key.slot], key.attempt)
    return seen


def _homeless(observed: Observed, record: SlotRecord) -> bool:
    if record.worker is None:
        return True
    worker = observed.workers.get(record.worker)
    return worker is None or worker.liveness is Liveness.LOST


def _may_run_somewhere(observed: Observed) -> bool:
    return any(
        not worker.reported and worker.liveness is Liveness.LIVE for worker in observed.workers.values()
    )


def _grants(observed: Observed, ledger: _Ledger) -> Iterator[GrantSubnet]:
    if observed.adopting:
        return  # workers that are still to join say which subnets they have
    first, count = observed.lease
    taken = {index for worker in observed.workers.values() for index in worker.record.subnet_indexes}
    free = iter(index for index in range(first, first + count) if index not in taken)
    for id, worker in sorted(observed.workers.items()):
        room = len(worker.record.subnet_indexes) * INSTANCES_PER_SUBNET
        if ledger.candidate(worker, ServiceId("")).instances + SUBNET_RESERVE > room:
            index = next(free, None)
            if index is not None:
                yield GrantSubnet(worker=id, index=index)


def _services_left(observed: Observed, gone: set[Withdrawn]) -> Iterator[ForgetService]:
    used = {slot.service for slot in observed.slots}
    used |= {key.service for id, key in observed.withdrawals if (id, key) not in gone}
    used |= {key.service for worker in observed.workers.values() for key in worker.statuses}
    for service in sorted(observed.services.keys() - used):
        yield ForgetService(service=service)
