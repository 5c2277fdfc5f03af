"""Decide which instances are tried on another worker because theirs does not get them up. Pure.

Who does not run loses nothing by moving, so the earlier attempt goes at once. Where nobody else would do, it stays where
it is, is tried there again and again, and root is told: perhaps another cluster gets it up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from oakestra.cluster.decisions import Forgive, Place, Remember, Unplaceable, Withdraw
from oakestra.cluster.ledger import Ledger
from oakestra.cluster.observe import Observed
from oakestra.cluster.state import SlotRecord
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import Slot
from oakestra.model.service import ServiceSpec, UpdateOrder
from oakestra.scheduling.elsewhere import Failed, failing, is_hopeless, stays
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import Choice, NoChoice, choose_worker, rather
from oakestra.scheduling.request import Request, WorkerCandidate

Avoided = tuple[Mapping[str, str], Mapping[str, str]]
"""Workers where an instance would fail, by id, and how: those that others are preferred to, and those that are out of
the question."""


def tried_elsewhere(
    observed: Observed, ledger: Ledger, places: Places, attempts: Mapping[Slot, int], *, besides: set[Slot]
) -> Iterator[Remember | Withdraw | Place | Unplaceable]:
    """Yield the next move of every instance that fails where it is. `attempts` is the highest attempt seen of each slot."""
    if observed.adopting:
        return
    for slot, record in sorted(observed.slots.items()):
        why = fails(observed, record) if slot not in besides else ""
        if not why or record.worker is None:
            continue
        spec, name = observed.services[slot.service], observed.workers[record.worker].record.name
        avoided = [{**each, record.worker: why} for each in places.avoided(slot)]
        candidates = ledger.candidates(slot.service)
        choice = rather(
            partial(choose_worker, candidates=candidates, start=slot.number), Request.of(spec), avoided
        )
        if isinstance(choice, Choice) and slot in observed.memory.rests_s:
            continue
        failed = Failed(place=record.worker, why=why, revision=record.revision)
        if isinstance(choice, NoChoice):
            if not stays(record.failed, record.worker):
                yield Remember(slot=slot, failed=failed)
            reason = f"stays on {name}: {choice.reason}"
            yield Unplaceable(slot=slot, reason=reason, verdicts=choice.verdicts)
            continue
        attempt = max(record.attempt, attempts.get(slot, 0)) + 1
        yield Remember(slot=slot, failed=replace(failed, followed_by=attempt))
        yield Withdraw(key=record.key, worker=record.worker, reason=f"failed {why}")
        if spec.update.order is UpdateOrder.STOP_FIRST:
            continue  # it must be gone before the next one may start
        ledger.reserve(WorkerId(choice.id), spec)
        yield Place(
            slot=slot,
            worker=WorkerId(choice.id),
            attempt=attempt,
            reason=f"{choice.name}: {choice.reason} (it failed on {name})",
            verdicts=choice.verdicts,
        )


def fails(observed: Observed, record: SlotRecord) -> str:
    """Say how an instance fails that should be tried elsewhere, completing "failed …"; nothing while it may get up.

    One that is of an earlier revision is replaced anyway. One whose worker is emptied may fit nowhere else in this
    cluster: then it is root's turn, as everywhere.
    """
    worker = observed.workers.get(record.worker) if record.worker else None
    spec = observed.services.get(record.placed.service)
    status = observed.current(record)
    if worker is None or spec is None or status is None or worker.liveness is not Liveness.LIVE:
        return ""
    if not spec.disconnect.replace or not spec.covers(record.revision):
        return ""
    return failing(status)


def exhausted(observed: Observed, record: SlotRecord) -> str:
    """Say how an instance fails that was left where it is because nobody else here would do; else nothing."""
    why = stays(record.failed, record.worker) if record.worker is not None else ""
    return why if record.leaving is None and why and fails(observed, record) else ""


def forgiven(observed: Observed) -> Iterator[Forgive]:
    """Yield every failing that does not count any more."""
    for slot, record in observed.slots.items():
        spec = observed.services.get(slot.service) if record.failed else None
        for one in record.failed:
            if one.place == record.worker and _is_up(observed, record):
                name = observed.workers[record.worker].record.name
                yield Forgive(slot=slot, worker=record.worker, reason=f"{name}: got up there after all")
            elif (
                one.place not in observed.workers
                or spec is None
                or not spec.covers(one.revision)
                or ((slot, one.place) not in observed.memory.remembered_s and _is_up(observed, record))
            ):
                yield Forgive(slot=slot, worker=WorkerId(one.place))


def _is_up(observed: Observed, record: SlotRecord) -> bool:
    status = observed.current(record)
    return status is not None and status.ready and not is_hopeless(status)


class Places:
    """Where instances fail, worked out once for all of a pass."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._failing: defaultdict[ServiceId, dict[str, str]] = defaultdict(dict)
        for slot, record in observed.slots.items():
            status, spec = observed.current(record), observed.services.get(slot.service)
            if status is None or status.failures is None or spec is None or not is_hopeless(status):
                continue
            if record.worker is not None and spec.covers(record.revision):
                how = f"with instance {slot.number}: {status.failures.how}"
                self._failing[slot.service].setdefault(record.worker, how)

    def avoided(self, slot: Slot) -> Avoided:
        """Return the workers where this instance failed lately, or another one of its service fails now."""
        record, spec = self._observed.slots[slot], self._observed.services[slot.service]
        others = self._failing.get(slot.service, {})
        own = {one.place: one.why for one in record.failed if spec.covers(one.revision)}
        lately = {id: why for id, why in own.items() if (slot, id) in self._observed.memory.avoided_s}
        return {**others, **own}, {**others, **lately}


def choose(
    spec: ServiceSpec, candidates: Sequence[WorkerCandidate], *, avoided: Avoided, start: int
) -> Choice | NoChoice:
    """Choose a worker for what has to go somewhere: if it must, one where it failed."""
    tries = [each for each in avoided if each]
    return rather(partial(choose_worker, candidates=candidates, start=start), Request.of(spec), (*tries, {}))
