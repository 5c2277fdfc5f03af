"""How failing is counted, how patient one is with it, and how long it is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oakestra.model.ids import ServiceId
from oakestra.model.instance import Failures, InstanceKey, InstanceStatus, Phase, Slot
from oakestra.scheduling.elsewhere import (
    AVOIDED_S,
    CRASHES_MAX,
    FAILED_MAX,
    REMEMBERED_S,
    STEPS_MAX,
    Failed,
    Memory,
    added,
    failing,
    is_hopeless,
    is_over,
    patience_s,
    remember,
)

SLOT = Slot(ServiceId("a" * 24), 0)
STATUS = InstanceStatus(key=InstanceKey(*SLOT, 1, 1), phase=Phase.ATTACHED)


@pytest.mark.parametrize(
    ("failures", "phase", "said"),
    [
        (None, Phase.ATTACHED, ""),
        (Failures(steps=STEPS_MAX - 1, how="x"), Phase.ATTACHED, ""),
        (Failures(steps=STEPS_MAX, how="no device"), Phase.ATTACHED, "3 times: no device"),
        (Failures(steps=STEPS_MAX + 40, how="no device"), Phase.PULLING, "3 times: no device"),
        (Failures(crashes=CRASHES_MAX - 1, how="x"), Phase.STOPPED, ""),
        (Failures(crashes=CRASHES_MAX, how="ended"), Phase.STOPPED, "5 times: ended"),
        (Failures(crashes=CRASHES_MAX, how="ended"), Phase.RUNNING, ""),
        (Failures(crashes=CRASHES_MAX, how="ended"), Phase.FAILED, ""),
    ],
)
def test_who_fails_often_enough_is_tried_elsewhere_unless_it_runs_or_is_over(
    failures: Failures | None, phase: Phase, said: str
) -> None:
    assert failing(replace(STATUS, failures=failures, phase=phase)) == said


def test_nobody_waits_for_what_keeps_failing_or_is_over() -> None:
    crashing = replace(STATUS, phase=Phase.RUNNING, failures=Failures(crashes=CRASHES_MAX))
    assert is_hopeless(crashing)
    assert is_over(crashing)
    assert all(is_over(replace(STATUS, phase=phase)) for phase in (Phase.COMPLETED, Phase.FAILED))
    assert not is_over(STATUS)


def test_patience_grows_to_ten_minutes() -> None:
    minutes = [patience_s(places) / 60 for places in range(8)]
    assert minutes == [0, 1, 2, 4, 8, 10, 10, 10]


def test_a_failing_is_remembered_for_an_hour_and_the_slot_rests_since_its_last_move() -> None:
    failed = (Failed(place="w1", why="x", followed_by=2), Failed(place="w2", why="x"))
    before = Memory(since_s={(SLOT, "w1", 2): 0.0}, tried_since_s={(SLOT, 2): 40.0})
    memory = remember([(SLOT, 2, failed)], before, 100.0)
    assert memory.since_s == {(SLOT, "w1", 2): 0.0, (SLOT, "w2", 0): 100.0}
    assert memory.avoided_s == {(SLOT, "w1"): AVOIDED_S - 100.0, (SLOT, "w2"): AVOIDED_S}
    assert memory.rests_s == {SLOT: patience_s(2) - 60.0}
    assert remember([(SLOT, 3, failed)], before, 100.0).rests_s == {SLOT: patience_s(2)}
    later = remember([(SLOT, 2, failed)], memory, REMEMBERED_S)
    assert later.remembered_s == {(SLOT, "w2"): 100.0}
    assert not later.rests_s
    assert not later.avoided_s
    assert not memory.means(later)
    assert memory.means(remember([(SLOT, 2, failed)], memory, 101.0))


def test_who_never_failed_costs_nothing() -> None:
    assert remember([(SLOT, 1, ())], Memory(), 5.0) == Memory()


def test_what_is_remembered_is_bounded_and_the_latest_is_kept() -> None:
    failed: tuple[Failed, ...] = ()
    for number in range(FAILED_MAX + 5):
        failed = added(failed, Failed(place=f"w{number % (FAILED_MAX + 2)}", why=str(number)))
    assert len(failed) == FAILED_MAX
    assert failed[-1].why == str(FAILED_MAX + 4)
    assert len({one.place for one in failed}) == FAILED_MAX
