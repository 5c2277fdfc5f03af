"""Decide which of two instances of one slot stays when a lost worker returns with the one that was replaced. Pure.

The one that was replaced is set aside, not withdrawn: it may be wanted back while its replacement is not ready. It keeps its slot's address, and
nobody is led to it, until its worker is there again and the service's policy decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from oakestra.cluster.decisions import LetServe, TakeBack, Withdraw
from oakestra.cluster.ledger import Ledger, as_asked
from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.render.serving import status_of
from oakestra.cluster.state import Aside, Availability, SlotRecord
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Slot
from oakestra.model.service import Reconcile, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice, choose_worker
from oakestra.scheduling.reconcile import Stays, who_stays
from oakestra.scheduling.request import Request


def returned(
    observed: Observed, ledger: Ledger, attempts: Mapping[Slot, int], *, besides: set[Slot]
) -> Iterator[TakeBack | LetServe | Withdraw]:
    """Yield what becomes of every attempt that was set aside, once that can be told.

    `attempts` is the highest attempt anybody reported of each slot.
    """
    for slot, record in sorted(observed.slots.items()):
        if record.aside is None or record.leaving is not None or slot in besides:
            continue
        worker = observed.workers.get(record.aside.worker)
        spec = observed.services.get(slot.service)
        why = _why_never(observed, record, record.aside)
        if why:
            yield Withdraw(key=record.aside_key, worker=record.aside.worker, reason=why)
        elif worker is not None and spec is not None and _has_returned(worker):
            yield _decided(
                observed, ledger, record, worker, spec, max(record.attempt, attempts.get(slot, 0)) + 1
            )


def called_off(
    observed: Observed, attempts: Mapping[Slot, int], *, besides: set[Slot]
) -> Iterator[TakeBack | Withdraw]:
    """Yield what need not leave any more: its worker is drained no longer, or it is of the wanted revision again, and no
    successor is ready yet. `attempts` is the highest attempt anybody reported of each slot."""
    for slot, record in sorted(observed.slots.items()):
        spec = observed.services.get(slot.service)
        if record.leaving is None or spec is None or slot in besides or not _is_named(observed, record):
            continue
        worker, earlier = _may_stay(observed, record, spec)
        if worker is None or earlier is None:
            continue
        reason = "what was to replace it is not needed any more"
        if record.worker is not None:
            yield Withdraw(key=record.key, worker=record.worker, reason=reason)
        yield TakeBack(
            slot=slot,
            worker=record.leaving.worker,
            attempt=max(record.attempt, attempts.get(slot, 0)) + 1,
            continues=record.leaving.attempt,
            former=_names(worker, record, record.leaving_key),
            revision=earlier.revision,
            reason=reason,
        )


def _is_named(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether its worker knows the current attempt by its number: what was taken back is not given up before."""
    seen = observed.workers.get(record.worker) if record.worker else None
    return not record.former or seen is None or record.key in seen.statuses


def _names(worker: WorkerSeen, record: SlotRecord, key: InstanceKey) -> tuple[int, ...]:
    """Return every number by which a worker may know an attempt: that of its container, and those it was told."""
    former = record.former_keys(key)
    said = [worker.statuses[name] for name in (key, *former) if name in worker.statuses]
    known = {status.key.attempt for status in said} | {status.made_as for status in said if status.made_as}
    return tuple(sorted({key.attempt, *(known or (name.attempt for name in former))}))


def _may_stay(
    observed: Observed, record: SlotRecord, spec: ServiceSpec
) -> tuple[WorkerSeen | None, InstanceStatus | None]:
    assert record.leaving is not None, "asked only while something leaves"
    worker = observed.workers.get(record.leaving.worker)
    earlier = status_of(observed, record.leaving.worker, record.leaving_key)
    successor = status_of(observed, record.worker, record.key)
    stays = (
        worker is not None
        and worker.liveness is Liveness.LIVE
        and worker.record.availability is not Availability.DRAINING
        and earlier is not None
        and earlier.ready
        and spec.covers(earlier.revision)
        and not (successor is not None and successor.ready)
    )
    return (worker, earlier) if stays else (None, None)


def _has_returned(worker: WorkerSeen) -> bool:
    """Tell whether a worker is there and has said since its return what it runs: its word from before counts for nothing."""
    return worker.liveness is Liveness.LIVE and worker.complete and worker.fresh


def is_set_aside(observed: Observed, record: SlotRecord) -> bool:
    """Tell whether an attempt that is given up may be wanted back: a lost worker has it."""
    worker = observed.workers.get(record.worker) if record.worker else None
    return (
        record.aside is None
        and record.leaving is None
        and worker is not None
        and worker.liveness is Liveness.LOST
    )


def _why_never(observed: Observed, record: SlotRecord, aside: Aside) -> str:
    worker = observed.workers.get(aside.worker)
    spec = observed.services.get(record.placed.service)
    if worker is None:
        return "its worker was removed"
    if spec is None:
        return "no longer wanted"
    if not spec.covers(aside.revision):
        return f"updated to revision {spec.revision}"
    replacement = status_of(observed, record.worker, record.key)
    if replacement is None or not replacement.ready:
        return ""
    if spec.disconnect.reconcile is Reconcile.KEEP_REPLACEMENT:
        return "its replacement is kept"
    if worker.record.availability is Availability.DRAINING:
        return f"worker {worker.record.name} is drained"
    return ""


def _decided(
    observed: Observed,
    ledger: Ledger,
    record: SlotRecord,
    worker: WorkerSeen,
    spec: ServiceSpec,
    attempt: int,
) -> TakeBack | LetServe | Withdraw:
    assert record.aside is not None, "asked only of what was set aside"
    original = observed.status(record.aside.worker, record.aside_key)
    stays, why = who_stays(
        spec.disconnect.reconcile,
        original,
        status_of(observed, record.worker, record.key),
        undisturbed=original is not None and original.restart == record.aside.restart,
        scores_better=lambda: _scores_better(ledger, record, spec),
    )
    if stays is Stays.ORIGINAL:
        reason = f"{worker.record.name} is back: {why}"
        if worker.record.availability is Availability.DRAINING:
            return LetServe(slot=record.placed.slot, reason=reason)
        return TakeBack(
            slot=record.placed.slot,
            worker=record.aside.worker,
            attempt=attempt,
            continues=record.aside.attempt,
            former=_names(worker, record, record.aside_key),
            revision=record.aside.revision,
            reason=reason,
        )
    return Withdraw(key=record.aside_key, worker=record.aside.worker, reason=why)


def _scores_better(ledger: Ledger, record: SlotRecord, spec: ServiceSpec) -> bool:
    """Tell whether the original's worker would be chosen, if neither of the two were there."""
    assert record.aside is not None, "asked only of what was set aside"
    holds = {record.aside.worker: record.aside.held, record.worker: record.held}
    freed = [
        replace(
            candidate,
            free=candidate.free + (holds[WorkerId(candidate.id)] or as_asked(spec)).resources,
            siblings=candidate.siblings - 1,
            ports_taken=frozenset(),
        )
        for candidate in ledger.candidates(spec.id)
        if candidate.id in holds
    ]
    verdict = choose_worker(Request.of(spec), freed)
    return isinstance(verdict, Choice) and verdict.id == record.aside.worker
