"""Decide which instances move although they run: away from drained workers, and on to a new revision. Pure.

Start before stop: the successor is placed first and the earlier attempt goes when it is ready. Where both do not fit
at once, or the service asks for it, the earlier one goes first. Of one service so many move at a time as its policy
allows, so however many workers are drained, it keeps serving.

What keeps failing, or has come to its end, is not on its way: nobody knows when, or whether, it becomes ready, and a
worker that must be emptied does not wait for that. An update does: its successors failing is what stops it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from oakestra.cluster.decisions import Move, Relieve, SetAside, Unplaceable, Withdraw
from oakestra.cluster.elsewhere import Avoided, Places, choose
from oakestra.cluster.ledger import Ledger, as_asked
from oakestra.cluster.observe import Observed, Withdrawn, WorkerSeen
from oakestra.cluster.state import Availability, Held, SlotRecord
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.service import ServiceSpec, UpdateOrder
from oakestra.scheduling.elsewhere import is_over
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice, NoChoice, choose_worker
from oakestra.scheduling.request import Request, WorkerCandidate


def finished(observed: Observed) -> Iterator[Relieve | Withdraw | SetAside]:
    """Yield the end of every attempt whose successor is ready, whose worker is lost, or that came to nothing."""
    for _, record in sorted(observed.slots.items()):
        if record.leaving is None:
            continue
        worker = observed.workers.get(record.leaving.worker)
        if worker is None or worker.liveness is Liveness.LOST:
            yield _out_of_reach(observed, record, worker)
        elif observed.is_done(record):
            yield Withdraw(
                key=record.leaving_key, worker=record.leaving.worker, reason="its successor has done the work"
            )
        elif _is_proven(observed, record):
            yield from _succeeded(observed, record)
        elif record.worker is not None and (why := _gives_up(observed, record)):
            yield Withdraw(key=record.key, worker=record.worker, reason=why)


def _out_of_reach(observed: Observed, record: SlotRecord, worker: WorkerSeen | None) -> Withdraw | SetAside:
    """Return what becomes of an attempt that was to leave a worker which is lost: it may come back before its successor
    is ready."""
    assert record.leaving is not None, "asked only while something leaves"
    why = f"worker {worker.record.name if worker else record.leaving.worker} is lost"
    seen = observed.status(record.leaving.worker, record.leaving_key)
    if seen is None or record.aside is not None or _is_ready(observed, record):
        return Withdraw(key=record.leaving_key, worker=record.leaving.worker, reason=why)
    return SetAside(
        slot=record.placed.slot,
        worker=record.leaving.worker,
        attempt=record.leaving.attempt,
        revision=seen.revision,
        restart=seen.restart,
        reason=why,
    )


def moves(
    observed: Observed,
    ledger: Ledger,
    places: Places,
    attempts: Mapping[Slot, int],
    *,
    held: Mapping[Slot, WorkerId],
    besides: set[Slot],
) -> Iterator[Move | Withdraw | Unplaceable]:
    """Yield the next moves. `attempts` is the highest attempt anybody reported of each slot, `held` who holds what must
    go of each."""
    if observed.adopting:
        return
    moving, failing = _moving(observed)
    for slot, record in sorted(observed.slots.items()):
        spec = observed.services.get(slot.service)
        why = _why_move(observed, record, spec) if spec is not None and slot not in besides else ""
        if not why or spec is None or record.worker is None:
            continue
        ready = _is_ready(observed, record)
        waits_for = moving[slot.service] + (0 if spec.covers(record.revision) else failing[slot.service])
        if ready and waits_for >= spec.update.parallel:
            continue
        wait = must_wait(observed, record, held.get(slot))
        if wait:
            yield Unplaceable(slot=slot, reason=f"{why}, but it stays: an earlier attempt {wait}")
            continue
        choice = _successor(ledger, spec, record, places.avoided(slot), ready=ready)
        moving[slot.service] += not isinstance(choice, NoChoice)  # what can only stay is not on its way
        if isinstance(choice, Choice):
            worker = WorkerId(choice.id)
            ledger.reserve(worker, spec)
            yield Move(
                slot=slot,
                worker=worker,
                attempt=max(record.attempt, attempts.get(slot, 0)) + 1,
                reason=f"{choice.name}: {choice.reason} ({why})",
                verdicts=choice.verdicts,
            )
        elif choice is None:
            yield Withdraw(key=record.key, worker=record.worker, reason=why)
        else:
            reason = f"{why}, but it stays: {choice.reason}"
            yield Unplaceable(slot=slot, reason=reason, verdicts=choice.verdicts)


def still_held(observed: Observed, gone: set[Withdrawn]) -> Mapping[Slot, WorkerId]:
    """Return the slots of which an attempt that must go is waited for, and who holds it: a worker that can end it, or
    any at all where two would do harm; who cannot end it is named before who can. What is `gone` is none."""
    holding = [
        (key.slot, id, _can_end(observed, id))
        for id, key in (*observed.withdrawals, *_told_by_the_lost(observed))
        if (id, key) not in gone and (_can_end(observed, id) or _runs_alone(observed, key.service))
    ]
    return {slot: id for slot, id, _ in sorted(holding, key=lambda one: one[2], reverse=True)}


def _told_by_the_lost(observed: Observed) -> Iterator[Withdrawn]:
    """Yield what lost workers said that they run of other slots than those that are there: a new store adopts nothing of
    theirs."""
    for id, worker in observed.workers.items():
        if worker.liveness is Liveness.LOST:
            yield from ((id, key) for key in worker.statuses if not _is_there(observed, id, key))


def _is_there(observed: Observed, id: WorkerId, key: InstanceKey) -> bool:
    record = observed.slots.get(key.slot)
    return record is not None and ((id, key) in record.attempts or record.renamed(id, key) is not None)


def _can_end(observed: Observed, id: WorkerId) -> bool:
    return not _is_lost(observed, id) and not observed.workers[id].trouble


def _runs_alone(observed: Observed, service: ServiceId) -> bool:
    spec = observed.services.get(service)
    return spec is not None and spec.runs_alone


def going(observed: Observed, ended: Iterable[Withdraw]) -> set[Slot]:
    """Return the slots of which a worker is told so now, or will be once that is decided, to end what it has: one that
    can, or any at all where two would do harm."""
    aside = (
        (record.aside.worker, slot) for slot, record in observed.slots.items() if record.aside is not None
    )
    told = ((decision.worker, decision.key.slot) for decision in ended)
    return {
        slot
        for id, slot in (*aside, *told)
        if _can_end(observed, id) or (id in observed.workers and _runs_alone(observed, slot.service))
    }


def must_wait(observed: Observed, record: SlotRecord, holder: WorkerId | None) -> str:
    """Say why a slot may not be placed yet: it may still run where it did before these records were begun, or on the
    worker that was told to end it, and cannot."""
    if observed.adopting:
        return "waiting for workers to report what they run"
    spec, before = observed.services.get(record.placed.service), observed.workers.get(record.seen_on)
    if spec is None:
        return ""
    remembered = record.may_still_run(spec)
    anew = "if that machine is gone for good, remove this instance and ask for another"
    if remembered and not (before is not None and before.complete):
        unheard = "has not reported since this cluster lost its records"
        return _may_still_run(before.record.name if before else record.seen_on, unheard, anew)
    worker = observed.workers.get(holder) if holder else None
    if holder is None or worker is None or not spec.runs_alone or _can_end(observed, holder):
        return ""
    name = worker.record.name
    if worker.liveness is not Liveness.LOST:
        return _may_still_run(name, f"cannot end it: {worker.trouble}", "it waits until that is mended")
    remedy = anew if remembered else f"if that machine is gone for good: oak worker rm {name}"
    return _may_still_run(name, "is lost and has not said that it ended it", remedy)


def _may_still_run(name: str, why: str, remedy: str) -> str:
    return (
        f"may still run on worker {name}, which {why}, and must not run twice (disconnect.replace); {remedy}"
    )


def _why_move(observed: Observed, record: SlotRecord, spec: ServiceSpec | None) -> str:
    """Say why an instance should be elsewhere or anew; nothing if it is fine, homeless, or moves already."""
    worker = observed.workers.get(record.worker) if record.worker else None
    there = worker is not None and worker.reported and worker.liveness is Liveness.LIVE
    if worker is None or not there or record.leaving is not None or observed.is_done(record):
        return ""
    if worker.record.availability is Availability.DRAINING:
        return f"worker {worker.record.name} is drained"
    if spec is not None and not spec.covers(record.revision):
        return f"updated to revision {spec.revision}"
    return ""


def _succeeded(observed: Observed, record: SlotRecord) -> Iterator[Relieve | Withdraw]:
    """Yield the next step once a successor is ready: turn traffic to it, then end the earlier attempt."""
    assert record.leaving is not None, "asked only while something leaves"
    if not record.leaving.relieved:
        live = [(id, seen) for id, seen in sorted(observed.workers.items()) if seen.liveness is Liveness.LIVE]
        routes = tuple((id, seen.record.generation + 1) for id, seen in live)
        yield Relieve(slot=record.placed.slot, routes=routes)
    elif record.leaving_key not in observed.lingering_s and all(
        _knows(observed, worker, generation) for worker, generation in record.leaving.relieved
    ):
        why = f"its successor is ready: {record.leaving.reason}"
        yield Withdraw(key=record.leaving_key, worker=record.leaving.worker, reason=why)


def _knows(observed: Observed, id: WorkerId, generation: int) -> bool:
    """Tell whether a worker has applied its routes of that generation, or the last one if nothing changed for it."""
    worker = observed.workers.get(id)
    if worker is None or worker.liveness is Liveness.LOST:
        return True
    if worker.applied.epoch != observed.epoch:
        return False
    return worker.applied.generation >= min(generation, worker.record.generation)


def _gives_up(observed: Observed, record: SlotRecord) -> str:
    """Say why a successor that is not ready need not become so: another one must follow it anyway."""
    assert record.worker is not None, "asked only of what has a place"
    if _is_ready(observed, record):
        return ""
    worker = observed.workers.get(record.worker)
    spec = observed.services.get(record.placed.service)
    if worker is not None and worker.record.availability is Availability.DRAINING:
        return f"worker {worker.record.name} is drained"
    if spec is not None and not spec.covers(record.revision):
        return f"updated to revision {spec.revision} before it was ready"
    return ""


def _moving(observed: Observed) -> tuple[Counter[ServiceId], Counter[ServiceId]]:
    """Count what of each service is on its way: has a successor that is not ready, or no ready instance at all.

    Apart from that: what should be, but fails; only an update, which may be the cause, waits for it.
    """
    counted: Counter[ServiceId] = Counter()
    failing: Counter[ServiceId] = Counter()
    making_room = {key.slot for id, key in observed.withdrawals if not _is_lost(observed, id)}
    for slot, record in observed.slots.items():
        spec = observed.services.get(slot.service)
        updated = spec is not None and spec.covers(record.revision)
        # what only waits, for room or for a lost worker to return, is not on its way: counting it would let nothing
        # else of its service ever move
        if record.worker is None:
            on_its_way = slot in making_room
        else:
            here = not _is_lost(observed, record.worker)
            on_its_way = updated and here and not _is_proven(observed, record)
        status = _live(observed, record)
        over = record.leaving is None and status is not None and is_over(status)
        if record.leaving is not None or (on_its_way and not over):
            counted[slot.service] += 1
        elif on_its_way and status is not None and status.phase is not Phase.COMPLETED:
            failing[slot.service] += 1
    return counted, failing


def _is_lost(observed: Observed, id: WorkerId) -> bool:
    worker = observed.workers.get(id)
    return worker is None or worker.liveness is Liveness.LOST


def _successor(
    ledger: Ledger, spec: ServiceSpec, record: SlotRecord, avoided: Avoided, *, ready: bool
) -> Choice | NoChoice | None:
    """Choose where the successor goes while the earlier attempt stays; None: the earlier one must go first."""
    candidates = ledger.candidates(spec.id)
    if not ready or spec.update.order is UpdateOrder.STOP_FIRST:
        return (
            None
            if fits_after(spec, record.held, record.worker, candidates)
            else _nowhere(spec, candidates, record)
        )
    verdict = choose(spec, candidates, avoided=avoided, start=record.placed.number)
    if isinstance(verdict, NoChoice) and fits_after(spec, record.held, record.worker, candidates):
        return None
    return verdict


def _nowhere(
    spec: ServiceSpec, candidates: list[WorkerCandidate], record: SlotRecord
) -> Choice | NoChoice | None:
    """Say why nobody takes it; should somebody take it all the same, the earlier attempt may go."""
    verdict = choose_worker(Request.of(spec), candidates, start=record.placed.number)
    return verdict if isinstance(verdict, NoChoice) else None


def fits_after(
    spec: ServiceSpec, held: Held | None, worker: WorkerId | None, candidates: list[WorkerCandidate]
) -> bool:
    """Tell whether an instance fits on the worker where its earlier attempt is, once what that holds is free."""
    freed = held or as_asked(spec)
    here = next((candidate for candidate in candidates if candidate.id == worker), None)
    if here is None:
        return False
    own = {(port.protocol.value, port.host_port) for port in freed.ports}
    there = replace(here, free=here.free + freed.resources, ports_taken=here.ports_taken - own)
    return isinstance(choose_worker(Request.of(spec), [there]), Choice)


def _is_proven(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether an instance has been ready for as long as its service asks of a successor."""
    return _is_ready(observed, record) and record.key not in observed.unproven_s


def _is_ready(observed: Observed, record: SlotRecord) -> bool:
    status = _live(observed, record)
    return status is not None and status.ready


def _live(observed: Observed, record: SlotRecord) -> InstanceStatus | None:
    """Return how a slot's current attempt is; None: unknown, as after the loss of its worker."""
    lost = record.worker is not None and _is_lost(observed, record.worker)
    return None if lost else observed.current(record)
