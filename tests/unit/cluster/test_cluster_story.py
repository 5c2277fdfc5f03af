"""What a cluster tells of its instances: each thing once, by name, and nothing that leads astray."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from oakestra.cluster import story
from oakestra.cluster.decisions import Forget, Unplaceable, Withdraw
from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.state import SlotRecord, WithdrawalRecord, WorkerRecord
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement, Slot
from oakestra.model.service import InstanceAddress
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.wire.native import Version

SLOT, WORKER = Slot(ServiceId("5" * 24), 0), WorkerId("1" * 24)
KEY = InstanceKey(*SLOT, 1, 1)
NAMES = {WORKER: "w1"}
RUNS = InstanceStatus(key=KEY, phase=Phase.RUNNING, ready=True, worker=WORKER)
NOTHING = Observed(
    epoch=1, services={}, slots={}, withdrawals={}, workers={}, lease=(0, 0), root_known=True, adopting=False
)
WITHDRAWN = replace(
    NOTHING,
    withdrawals={(WORKER, KEY): WithdrawalRecord(key=KEY, worker=WORKER, since_generation=1)},
)


def told(observed: Observed, *course: InstanceStatus) -> list[tuple[EventKind, str]]:
    """Return what is told of an instance that was seen like this, one pass after the other."""
    events: list[Event] = []
    for before, after in pairwise(course):
        events += story.seen({KEY: before}, {KEY: after}, observed, NAMES)
    return [(event.kind, event.reason) for event in events]


def test_what_is_being_taken_away_goes_through_no_phases_again() -> None:
    ending = [
        RUNS,
        replace(RUNS, ready=False),
        replace(RUNS, ready=False, phase=Phase.STOPPED, reason="was ended by signal 15"),
        replace(RUNS, ready=False, phase=Phase.ATTACHED),
        replace(RUNS, ready=False, phase=Phase.WORKER_ASSIGNED),
    ]
    assert told(WITHDRAWN, *ending) == []
    assert [kind for kind, _ in told(NOTHING, *ending)].count(EventKind.PHASE) == 3, (
        "what stays is told in full"
    )


def test_what_keeps_it_from_going_is_told() -> None:
    stuck = replace(RUNS, ready=False, reason="could not stop: the runtime does not answer")
    assert told(WITHDRAWN, RUNS, stuck, stuck) == [
        (EventKind.PHASE, "still there: could not stop: the runtime does not answer")
    ]


LOST = WorkerSeen(
    record=WorkerRecord(id=WORKER, key="k", name="w1"), liveness=Liveness.LOST, silent_s=9.0, reported=True,
    complete=True, applied=Version(), trouble="", statuses={},
)  # fmt: skip
WHEN = "it goes when w1 is back, or is removed for good (oak worker rm w1)"


def test_what_must_leave_a_lost_worker_is_told_when_it_will() -> None:
    away = replace(NOTHING, workers={WORKER: LOST})
    (event,) = story.decided([Withdraw(key=KEY, worker=WORKER, reason="worker w1 is lost")], away, NAMES)
    assert (event.kind, event.reason) == (EventKind.WITHDRAWN, f"worker w1 is lost; {WHEN}")
    back = replace(NOTHING, workers={WORKER: replace(LOST, liveness=Liveness.LIVE)})
    (event,) = story.decided([Withdraw(key=KEY, worker=WORKER, reason="moved")], back, NAMES)
    assert event.reason == "moved"


def test_what_root_takes_away_from_a_lost_worker_is_told_once_when_it_will_go() -> None:
    lost = {WORKER: LOST}
    kept, taken = replace(NOTHING, workers=lost), replace(WITHDRAWN, workers=lost)
    _, known = story.told(story.Known(), [], kept)
    (event,), known = story.told(known, [], taken)
    assert (event.kind, event.reason) == (EventKind.PHASE, f"still there: worker w1 is lost; {WHEN}")
    assert story.told(known, [], taken)[0] == ()
    assert story.told(story.Known(), [], taken)[0] == (), "it was told before this process began"
    ended = [Withdraw(key=KEY, worker=WORKER, reason="worker w1 is lost")]
    (event,), known = story.told(story.told(story.Known(), [], kept)[1], ended, kept)
    assert event.kind is EventKind.WITHDRAWN
    assert story.told(known, [], taken)[0] == (), "once is enough"


def test_what_goes_with_a_worker_that_was_removed_is_told_by_its_name() -> None:
    (event,) = story.decided([Forget(worker=WORKER, key=KEY)], WITHDRAWN, NAMES)
    assert (event.kind, event.reason, event.subject) == (EventKind.GONE, "gone from w1", "w1")


def waits(*free_mib: int, others: str = "") -> Unplaceable:
    """Return the decision to let it wait: too little memory, and what else is wrong with a worker."""
    refusals = [f"not enough memory: needs 400 MiB, {free} MiB free" for free in free_mib]
    refusals += [others] if others else []
    verdicts = tuple(CandidateVerdict(name=f"w{n}", refusal=why) for n, why in enumerate(refusals))
    return Unplaceable(slot=SLOT, reason="; ".join(refusals), verdicts=verdicts)


def test_an_instance_that_waits_is_told_of_again_only_when_it_waits_for_something_else() -> None:
    record = SlotRecord(placed=Placement(*SLOT, 1), address=InstanceAddress())
    kinds: list[str] = []
    course = (
        waits(100),
        waits(90),
        waits(80, 70),
        waits(80, others="draining"),
        waits(70, others="draining"),
    )
    for decision in course:
        observed = replace(NOTHING, slots={SLOT: record})
        kinds += [event.reason for event in story.decided([decision], observed, NAMES)]
        record = replace(record, reason=decision.reason, verdicts=decision.verdicts)
    assert kinds == [waits(100).reason, waits(80, others="draining").reason]
