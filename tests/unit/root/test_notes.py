"""What root notes about an instance is the truest of what it heard, and who serves is who is ready."""

from __future__ import annotations

from dataclasses import replace

from oakestra.model.ids import ClusterId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.machine import Capacity
from oakestra.model.service import InstanceAddress, Resources
from oakestra.root.decisions import Note
from oakestra.root.execute import apply
from oakestra.root.observe import observe
from oakestra.root.plan import plan
from oakestra.root.state import ClusterRecord, ClusterView, RootState, SlotRecord, slot_key
from oakestra.store.fake import FakeStore
from oakestra.wire.native import ClusterReport, Version, WorkerSummary
from root_api import TABLES

HERE, SERVICE = ClusterId("a" * 24), ServiceId("5" * 24)
FIRST, SECOND = WorkerId("1" * 24), WorkerId("2" * 24)
SLOT = Slot(SERVICE, 0)


def attempt(number: int, worker: WorkerId, **keys: object) -> InstanceStatus:
    status = InstanceStatus(key=InstanceKey(*SLOT, 1, number), phase=Phase.RUNNING, ready=True, worker=worker)
    return replace(status, **keys)  # type: ignore[arg-type]


def heard(
    known: InstanceStatus, said: InstanceStatus, *, lost: WorkerId | None = None
) -> InstanceStatus | None:
    """Return what root notes of a slot it knows something of, once its cluster says something else."""
    state = RootState(FakeStore(TABLES))
    state.clusters.put(HERE, ClusterRecord(id=HERE, name="here", key="k"))
    record = SlotRecord(
        slot=SLOT, address=InstanceAddress(), cluster=HERE, placement=1, status=known, status_store=1
    )
    state.slots.put(slot_key(SLOT), record)
    workers = tuple(
        WorkerSummary(
            id=id, name=id[0], host="", live=id != lost, instances=1, capacity=Capacity(), free=Resources(),
            liveness="lost" if id == lost else "live",
        )
        for id in (FIRST, SECOND)
    )  # fmt: skip
    report = ClusterReport(
        version=Version(), applied=Version(), complete=True, store=1, statuses=(said,), workers=workers
    )
    state.views[HERE] = ClusterView(last_seen_s=0.0, report=report)
    for _ in range(2):
        decisions = plan(observe(state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0))
        apply(state, [one for one in decisions if isinstance(one, Note)], now_wall_s=1.0)
    return state.slots[slot_key(SLOT)].status


def test_an_earlier_report_that_arrives_late_says_nothing_new() -> None:
    later = attempt(2, SECOND)
    assert heard(later, attempt(1, FIRST, ready=False)) == later
    assert heard(later, attempt(2, SECOND, phase=Phase.CREATED, ready=False)) == later


def test_who_serves_is_who_is_ready_when_a_successor_is_lost_before_its_predecessor_went() -> None:
    earlier = attempt(1, FIRST)
    assert heard(attempt(2, SECOND, ready=False), earlier, lost=SECOND) == earlier


def test_who_serves_is_its_predecessor_when_a_successor_that_was_ready_falls() -> None:
    earlier = attempt(1, FIRST)
    assert heard(attempt(2, SECOND), earlier) == earlier
