"""What root tells of its instances: each thing once, and by name."""

from __future__ import annotations

from dataclasses import replace

from oakestra.model.event import EventKind
from oakestra.model.ids import ClusterId, ServiceId
from oakestra.model.instance import Placement, Slot
from oakestra.model.service import InstanceAddress
from oakestra.root import story
from oakestra.root.decisions import Forget, Unplaceable, Withdraw
from oakestra.root.observe import Observed, observe
from oakestra.root.state import (
    ClusterRecord,
    ClusterView,
    RootState,
    SlotRecord,
    WithdrawalRecord,
    placement_key,
    slot_key,
)
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.store.fake import FakeStore
from root_api import TABLES

EAST, SLOT = ClusterId("e" * 24), Slot(ServiceId("5" * 24), 0)
PLACED = Placement(*SLOT, 1)


def seen(state: RootState) -> Observed:
    return observe(state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0)


def test_what_goes_with_a_cluster_that_was_removed_is_told_by_its_name() -> None:
    state = RootState(FakeStore(TABLES))
    state.withdrawals.put(
        placement_key(PLACED), WithdrawalRecord(placed=PLACED, cluster=EAST, since_generation=1)
    )
    (event,) = story.decided([Forget(placed=PLACED)], seen(state), {EAST: "east"})
    assert (event.kind, event.reason, event.subject) == (EventKind.GONE, "gone from cluster east", "east")


def test_what_must_leave_a_lost_cluster_is_told_when_it_will() -> None:
    state = RootState(FakeStore(TABLES))
    state.clusters.put(EAST, ClusterRecord(id=EAST, name="east", key="k"))
    state.views[EAST] = ClusterView(last_seen_s=0.0)
    said = {}
    for now_s in (1.0, 60.0):
        observed = observe(state, now_s=now_s, now_wall_s=now_s, since_s=0.0, lost_after_s=15.0)
        decision = Withdraw(placed=PLACED, cluster=EAST, reason="no longer wanted")
        (event,) = story.decided([decision], observed, {EAST: "east"})
        said[now_s] = event.reason
    assert said == {
        1.0: "no longer wanted",
        60.0: "no longer wanted; it goes when cluster east is back",
    }


def test_an_instance_that_waits_is_told_of_again_only_when_it_waits_for_something_else() -> None:
    state = RootState(FakeStore(TABLES))
    record = SlotRecord(slot=SLOT, address=InstanceAddress(), placement=1)
    told: list[str] = []
    for refusal in ("needs 400 MiB, 100 MiB free", "needs 400 MiB, 90.5 MiB free", "lost", "lost"):
        state.slots.put(slot_key(SLOT), record)
        verdicts = (CandidateVerdict(name="east", refusal=refusal),)
        decision = Unplaceable(slot=SLOT, reason=f"1 cluster: {refusal}", verdicts=verdicts)
        told += [event.reason for event in story.decided([decision], seen(state), {})]
        record = replace(record, reason=decision.reason, verdicts=verdicts)
    assert told == ["1 cluster: needs 400 MiB, 100 MiB free", "1 cluster: lost"]
