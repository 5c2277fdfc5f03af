"""Decide which worker has which slot. Pure: time and randomness are in what is observed.

Must not know: how assignments travel, what a worker does with one, what the original calls any of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from oakestra.cluster.decisions import (
    Adopt,
    Decision,
    Finish,
    Forget,
    ForgetOrigin,
    ForgetService,
    GrantSubnet,
    Place,
    Relieve,
    SetAside,
    Unplaceable,
    Withdraw,
)
from oakestra.cluster.elsewhere import Places, choose, exhausted, forgiven, tried_elsewhere
from oakestra.cluster.ledger import Ledger
from oakestra.cluster.moves import finished, fits_after, going, moves, must_wait, still_held
from oakestra.cluster.observe import Observed, Withdrawn, WorkerSeen
from oakestra.cluster.reconcile import called_off, is_set_aside, returned
from oakestra.cluster.state import SlotRecord, WithdrawalRecord
from oakestra.model.address import INSTANCES_PER_SUBNET
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot, is_done
from oakestra.model.service import DisconnectPolicy, UpdateOrder
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice
from oakestra.scheduling.remedies import worker_remedy
from oakestra.scheduling.request import Request, WorkerCandidate

SUBNET_RESERVE = 8
"""A worker gets its next subnet when fewer addresses than this are left, so that placing never waits for one."""


_LIVES = frozenset({Phase.RUNNING, Phase.COMPLETED, Phase.FAILED})

Adopted = tuple[Slot, int, WorkerId]


def plan(observed: Observed, *, vcpu_overcommit: float) -> tuple[Decision, ...]:
    """Return what must change so that every slot has a place on a live worker and nothing else is left anywhere.

    Order: what is gone first, so that the room it frees can be used in the same pass; then adoptions, so that
    nothing that runs is placed twice; then withdrawals; then placements of what is not taken back.
    """
    forgotten = tuple(_gone(observed))
    adopted = tuple(_adoptions(observed))
    turned = tuple(finished(observed))
    ended = tuple(decision for decision in turned if not isinstance(decision, Relieve))
    withdrawn = (*ended, *_withdrawals(observed, {(d.slot, d.attempt, d.worker) for d in adopted}))
    ledger = Ledger(observed, {(d.worker, d.key) for d in forgotten}, vcpu_overcommit=vcpu_overcommit)
    places = Places(observed)
    held = still_held(observed, {(d.worker, d.key) for d in forgotten})
    seen = _attempts_seen(observed)
    touched = {d.key.slot if isinstance(d, Withdraw) else d.slot for d in (*adopted, *withdrawn)}
    back = (
        *returned(observed, ledger, seen, besides=touched),
        *called_off(observed, seen, besides=touched),
    )
    at_home = {d.slot for d in (*adopted, *back) if not isinstance(d, Withdraw)}
    told = going(observed, (d for d in (*withdrawn, *back) if isinstance(d, Withdraw)))
    placed = tuple(_placements(observed, ledger, places, seen, at_home, held, told))
    touched |= {d.key.slot if isinstance(d, Withdraw) else d.slot for d in (*placed, *back)}
    tried = tuple(tried_elsewhere(observed, ledger, places, seen, besides=touched))
    touched |= {d.key.slot if isinstance(d, Withdraw) else d.slot for d in tried}
    moved = tuple(moves(observed, ledger, places, seen, held=held, besides=touched))
    granted = tuple(_grants(observed, ledger))
    left = tuple(_services_left(observed, {(d.worker, d.key) for d in forgotten}))
    relieved = tuple(decision for decision in turned if isinstance(decision, Relieve))
    pardoned = tuple(forgiven(observed))
    return (
        *forgotten,
        *_completed(observed),
        *pardoned,
        *adopted,
        *relieved,
        *withdrawn,
        *placed,
        *back,
        *tried,
        *moved,
        *granted,
        *left,
    )


def remedies(
    observed: Observed, records: Sequence[SlotRecord], *, vcpu_overcommit: float
) -> Mapping[Slot, str]:
    """Return the least that would have to change for each slot to get a worker; nothing where nothing has to."""
    ledger = Ledger(observed, set(), vcpu_overcommit=vcpu_overcommit)
    places, held = Places(observed), still_held(observed, set())
    found: dict[tuple[ServiceId, WorkerId | None, tuple[tuple[str, str], ...]], str] = {}
    answers: dict[Slot, str] = {}
    for record in records:
        slot, spec = record.placed.slot, observed.services.get(record.placed.service)
        if spec is None or must_wait(observed, record, held.get(slot)):
            answers[slot] = ""
            continue
        _, avoided = places.avoided(slot)
        alike = (slot.service, record.worker, tuple(sorted(avoided.items())))
        if alike not in found:
            request = Request.of(spec, avoided=avoided)
            found[alike] = worker_remedy(request, _to_mend(observed, record, ledger))
        answers[slot] = found[alike]
    return answers


def _to_mend(observed: Observed, record: SlotRecord, ledger: Ledger) -> Sequence[WorkerCandidate]:
    """Return the workers of which one must change: where it fails and stays, that one, as it is tried there for ever."""
    candidates = ledger.candidates(record.placed.service)
    if not exhausted(observed, record):
        return candidates
    return [candidate for candidate in candidates if candidate.id == record.worker]


def _completed(observed: Observed) -> Iterator[Finish]:
    """Yield every instance that was seen to have done its work."""
    for slot, record in observed.slots.items():
        spec = observed.services.get(slot.service)
        status = observed.current(record)
        if spec is not None and status is not None and is_done(spec, status) and not observed.is_done(record):
            yield Finish(slot=slot, status=replace(status, worker=record.worker or WorkerId("")))


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
    best: dict[Slot, tuple[int, WorkerId, InstanceStatus]] = {}
    for id, worker in sorted(observed.workers.items()):
        if worker.liveness is Liveness.LOST:
            continue
        for key in sorted(worker.statuses):
            record = observed.slots.get(key.slot)
            withdrawn = (id, key) in observed.withdrawals
            wanted = record is not None and record.placed == key.placed and not withdrawn
            if record is None or not wanted or key.attempt <= record.attempt:
                continue
            found = (key.attempt, id, worker.statuses[key])
            best[key.slot] = max(best.get(key.slot, found), found, key=lambda one: one[:2])
    for slot, (attempt, id, status) in sorted(best.items()):
        former = (status.made_as,) if status.made_as else ()
        yield Adopt(slot=slot, worker=id, attempt=attempt, revision=status.revision, former=former)


def _withdrawals(observed: Observed, adopted: set[Adopted]) -> Iterator[Withdraw | SetAside]:
    moved = {slot for slot, _, _ in adopted}
    for slot, record in sorted(observed.slots.items()):
        if record.worker is None:
            continue
        spec = observed.services.get(slot.service)
        why = _given_up(observed, record)
        if slot in moved:
            yield Withdraw(key=record.key, worker=record.worker, reason="a later attempt was found running")
        elif why and spec is not None and is_set_aside(observed, record):
            seen = observed.current(record)
            restart = seen.restart if seen else 0
            yield SetAside(
                slot=slot,
                worker=record.worker,
                attempt=record.attempt,
                revision=record.revision,
                restart=restart,
                reason=why,
            )
        elif why:
            yield Withdraw(key=record.key, worker=record.worker, reason=why)
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
    if (worker, key) in record.attempts or _goes_on(observed, record, worker, key):
        return ""
    if (key.placement, key.attempt) <= (record.placed.placement, record.attempt):
        return "a later attempt replaced it"
    return ""


def _goes_on(observed: Observed, record: SlotRecord, worker: WorkerId, key: InstanceKey) -> bool:
    """Tell whether an attempt has a right to be there, and its worker only does not call it by its new number yet."""
    name = record.renamed(worker, key)
    return name is not None and name not in observed.workers[worker].statuses


def _placements(
    observed: Observed,
    ledger: Ledger,
    places: Places,
    seen: Mapping[Slot, int],
    at_home: set[Slot],
    held: Mapping[Slot, WorkerId],
    told: set[Slot],
) -> Iterator[Place | Withdraw | Unplaceable]:
    for slot, record in sorted(observed.slots.items()):
        if slot in at_home or not _homeless(observed, record):
            continue
        spec = observed.services.get(slot.service)
        if spec is None:
            continue
        wait = must_wait(observed, record, held.get(slot))
        if wait:
            yield Unplaceable(slot=slot, reason=wait)
            continue
        if (slot in held or slot in told) and spec.update.order is UpdateOrder.STOP_FIRST:
            continue  # the earlier attempt must be gone before there is another
        candidates = ledger.candidates(slot.service)
        verdict = choose(spec, candidates, avoided=places.avoided(slot), start=slot.number)
        if isinstance(verdict, Choice):
            worker = WorkerId(verdict.id)
            ledger.reserve(worker, spec)
            yield Place(
                slot=slot,
                worker=worker,
                attempt=max(record.attempt, seen.get(slot, 0)) + 1,
                reason=f"{verdict.name}: {verdict.reason}",
                verdicts=verdict.verdicts,
            )
        else:
            leaving = record.leaving
            if leaving is not None and fits_after(spec, leaving.held, leaving.worker, candidates):
                why = f"its successor fits only in its place: {leaving.reason}"
                yield Withdraw(key=record.leaving_key, worker=leaving.worker, reason=why)
            yield Unplaceable(slot=slot, reason=verdict.reason, verdicts=verdict.verdicts)


def _attempts_seen(observed: Observed) -> Counter[Slot]:
    """Return the highest attempt any worker reported of each slot: a number is never used twice knowingly."""
    seen: Counter[Slot] = Counter()
    for worker in observed.workers.values():
        for key in worker.statuses:
            seen[key.slot] = max(seen[key.slot], key.attempt)
    return seen


def _homeless(observed: Observed, record: SlotRecord) -> bool:
    return not observed.is_done(record) and (record.worker is None or bool(_given_up(observed, record)))


def _given_up(observed: Observed, record: SlotRecord) -> str:
    """Say why what is on a worker is to be replaced; nothing while it may run there, its service waits, or it is done."""
    if observed.is_done(record):
        return ""
    worker = observed.workers.get(record.worker) if record.worker else None
    if worker is None:
        return f"worker {record.worker} is lost"
    spec = observed.services.get(record.placed.service)
    policy = spec.disconnect if spec is not None else DisconnectPolicy()
    if worker.liveness is Liveness.LOST:
        waits = not policy.replace or worker.silent_s < (policy.lost_after_s or 0.0)
        return "" if waits and spec is not None else f"worker {worker.record.name} is lost"
    if worker.trouble and policy.replace and not _lives(observed, record):
        return f"worker {worker.record.name} cannot start it: {worker.trouble}"
    return ""


def _lives(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether an attempt runs, or has come to its end, so that its worker need not start it."""
    status = observed.current(record)
    return status is not None and status.phase in _LIVES


def _grants(observed: Observed, ledger: Ledger) -> Iterator[GrantSubnet]:
    if observed.adopting:
        return  # workers that are still to join say which subnets they have
    first, count = observed.lease
    taken = {index for worker in observed.workers.values() for index in worker.record.subnet_indexes}
    free = iter(index for index in range(first, first + count) if index not in taken)
    for id, worker in sorted(observed.workers.items()):
        room = len(worker.record.subnet_indexes) * INSTANCES_PER_SUBNET
        if ledger.instances(id) + SUBNET_RESERVE > room:
            index = next(free, None)
            if index is not None:
                yield GrantSubnet(worker=id, index=index)


def _services_left(observed: Observed, gone: set[Withdrawn]) -> Iterator[ForgetService | ForgetOrigin]:
    used = {slot.service for slot in observed.slots}
    used |= {key.service for id, key in observed.withdrawals if (id, key) not in gone}
    used |= {key.service for worker in observed.workers.values() for key in worker.statuses}
    for service in sorted(observed.services.keys() - used):
        yield ForgetService(service=service)
    applications = {observed.services[id].application_id for id in used & observed.services.keys()}
    for service, origin in sorted(observed.origins.items()):
        claimed = not observed.heard_out and origin.epoch != observed.root_epoch
        if origin.application.id not in applications and not claimed:
            yield ForgetOrigin(service=service)
