"""What its worker cannot get up is tried on another one: once, patiently, and never to no purpose."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from oakestra.cluster.decisions import Decision, Place, Withdraw
from oakestra.cluster.plan import plan, remedies
from oakestra.cluster.render.up import cluster_report
from oakestra.cluster.state import Availability
from oakestra.model.ids import WorkerId
from oakestra.model.instance import Slot
from oakestra.model.service import DisconnectPolicy, ServiceSpec, UpdateOrder, UpdatePolicy
from oakestra.scheduling.elsewhere import AVOIDED_S, patience_s
from oakestra.wire.native import Refusal, Version
from town import SERVICE, STEPS, Town, service

STOP_FIRST = UpdatePolicy(order=UpdateOrder.STOP_FIRST)


def some(workers: int, spec: ServiceSpec | None = None, *, wanted: int = 1) -> tuple[Town, list[WorkerId]]:
    town = Town()
    ids = [town.worker(number, 1000) for number in range(workers)]
    town.want(spec or service(), wanted)
    town.rest()
    return town, ids


def place(town: Town, number: int = 0) -> WorkerId:
    found = town.place(number)
    assert found is not None
    return found


def exhausted(town: Town) -> tuple[Refusal, ...]:
    return cluster_report(town.seen(), applied=Version(), vcpu_overcommit=8.0).exhausted


def test_what_cannot_be_made_is_made_elsewhere_at_once_and_says_why() -> None:
    town, _ = some(3)
    first = place(town)
    town.unable.add(first)
    town.step()
    decisions = town.step()
    (gone,) = (one for one in decisions if isinstance(one, Withdraw))
    (come,) = (one for one in decisions if isinstance(one, Place))
    assert (gone.worker, gone.reason) == (first, "failed 3 times: no device")
    assert f"(it failed on w{int(first, 16)})" in come.reason
    town.rest()
    assert town.revisions() == {0: 1}
    assert place(town) != first
    assert not exhausted(town)


def test_what_crashes_again_and_again_is_tried_elsewhere_ever_less_often() -> None:
    town, ids = some(6)
    town.crashing.add(0)
    moved_s: list[float] = []
    was = place(town)
    while town.now_s < 1500.0:
        town.step()
        if place(town) != was:
            was = place(town)
            moved_s.append(town.now_s)
        town.wait(1.0)
    between = [later - before for before, later in itertools.pairwise(moved_s)]
    assert len(between) == 4
    assert all(waited >= patience_s(n) for n, waited in enumerate(between, start=1)), between
    assert len(town.state.slots[f"{SERVICE}/0"].failed) == len(ids) - 1


def test_it_goes_back_to_who_failed_it_after_a_while_again_and_again() -> None:
    town, ids = some(2)
    town.unable.update(ids)
    moved_s: list[float] = []
    was = place(town)
    while town.now_s < 4 * AVOIDED_S:
        town.step()
        if place(town) != was:
            was = place(town)
            moved_s.append(town.now_s)
        town.wait(10.0)
    between = [later - before for before, later in itertools.pairwise(moved_s)]
    assert len(between) == 3
    assert all(AVOIDED_S <= waited <= AVOIDED_S + 60.0 for waited in between), between


def test_where_nobody_else_would_do_it_stays_says_so_and_root_is_told() -> None:
    town, (only,) = some(1)
    town.unable.add(only)
    town.rest()
    record = town.state.slots[f"{SERVICE}/0"]
    assert record.worker == only
    assert record.reason == "stays on w0: 1 worker: failed 3 times: no device"
    (told,) = exhausted(town)
    assert (told.placed.slot, told.reason) == (Slot(SERVICE, 0), "3 times: no device")
    found = remedies(town.seen(), [record], vcpu_overcommit=8.0)
    assert found == {Slot(SERVICE, 0): "make worker w0 able to run it, where it failed 3 times: no device"}
    town.unable.clear()
    for _ in range(3):
        town.step()
    record = town.state.slots[f"{SERVICE}/0"]
    assert (record.reason, record.failed) == ("w0: got up there after all", ())
    assert not exhausted(town)


def test_what_fails_on_a_worker_that_is_drained_is_told_to_root_if_nobody_else_here_would_do() -> None:
    town, (only,) = some(1)
    town.unable.add(only)
    town.drain(only)
    town.rest()
    (told,) = exhausted(town)
    assert told.placed.slot == Slot(SERVICE, 0)


def test_it_goes_when_another_worker_comes_but_not_before_its_time() -> None:
    town, (only,) = some(1)
    town.unable.add(only)
    town.rest()
    town.worker(1, 1000)
    for _ in range(5):
        town.step()
    assert place(town) == only
    town.wait(patience_s(1) + 1.0)
    town.rest()
    assert place(town) != only
    assert town.revisions() == {0: 1}


def test_what_must_never_be_there_twice_stays() -> None:
    town, _ = some(2, service(disconnect=DisconnectPolicy(replace=False)))
    first = place(town)
    town.unable.add(first)
    town.rest()
    assert place(town) == first
    assert not exhausted(town)


def test_who_wants_the_earlier_one_gone_first_never_has_two() -> None:
    town, _ = some(2, service(update=STOP_FIRST))
    first = place(town)
    town.unable.add(first)
    for _ in range(STEPS):
        town.step()
        assert sum(len(runs) for runs in town.runs.values()) <= 1
    assert place(town) != first
    assert town.revisions() == {0: 1}


def test_where_one_of_a_service_fails_another_does_not_go() -> None:
    town, ids = some(3, wanted=3)
    town.unable.update(ids[:2])
    town.rest()
    assert town.revisions() == {0: 3}
    assert {place(town, number) for number in range(3)} == {ids[2]}


def test_a_service_that_crashes_everywhere_does_not_go_round() -> None:
    town, ids = some(3, wanted=3)
    town.crashing.update(range(3))
    before = [place(town, number) for number in range(3)]
    for _ in range(STEPS):
        town.step()
        town.wait(60.0)
    assert [place(town, number) for number in range(3)] == before
    assert len(exhausted(town)) == len(ids)


def test_another_revision_may_go_where_the_one_before_failed() -> None:
    town, (only,) = some(1)
    town.unable.add(only)
    town.rest()
    town.unable.clear()
    town.want(service(revision=1), 1)
    town.rest()
    assert town.revisions() == {1: 1}
    assert town.state.slots[f"{SERVICE}/0"].failed == ()


def test_a_successor_that_fails_is_tried_elsewhere_while_its_predecessor_serves() -> None:
    town, ids = some(3)
    home = place(town)
    town.unable.update(set(ids) - {home})
    town.drain(home)
    tried: set[WorkerId] = set()
    for _ in range(STEPS):
        town.step()
        town.wait(2.0)
        assert town.revisions() == {0: 1}, "it serves where it was"
        tried.add(place(town))
    assert tried == set(ids) - {home}
    assert not exhausted(town), "root must not take away what serves"
    town.unable.clear()
    town.rest()
    assert town.revisions() == {0: 1}
    assert not town.runs[home]


def test_who_has_no_place_rather_goes_where_it_did_not_fail_but_goes_somewhere() -> None:
    town, ids = some(2)
    first = place(town)
    (second,) = set(ids) - {first}
    town.unable.add(first)
    town.rest()
    assert place(town) == second
    town.unable.clear()
    town.away.add(second)
    town.wait(20.0)
    town.rest()
    assert (place(town), town.revisions()) == (first, {0: 1})


def test_a_cluster_that_waits_for_its_workers_moves_nothing() -> None:
    town, _ = some(2)
    town.unable.add(place(town))
    town.step()
    seen = town.seen()
    assert _moved(plan(seen, vcpu_overcommit=8.0))
    assert not _moved(plan(replace(seen, adopting=True), vcpu_overcommit=8.0))


def _moved(decisions: tuple[Decision, ...]) -> bool:
    return any(isinstance(one, Place | Withdraw) for one in decisions)


# --- draining, with some that never become ready ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", [UpdatePolicy(), STOP_FIRST])
def test_what_crashes_again_and_again_keeps_no_worker_from_being_emptied(policy: UpdatePolicy) -> None:
    town, ids = some(4, service(update=policy), wanted=4)
    town.crashing.add(0)
    town.rest()
    drained = next(place(town, number) for number in (1, 2, 3) if place(town, number) != place(town, 0))
    town.drain(drained)
    for _ in range(STEPS):
        town.step()
        assert town.revisions()[0] >= (3 if policy is not STOP_FIRST else 2)
    assert not town.runs[drained]
    assert len(ids) == 4


def test_an_update_does_wait_for_its_own_that_crash() -> None:
    """A broken revision without room for both at once: the first one that fails stops it."""
    town = Town()
    for number in range(3):
        town.worker(number, 150)
    town.want(service(), 3)
    town.rest()
    town.broken.add(1)
    town.want(service(revision=1), 3)
    for _ in range(5):
        town.step()
    town.crashing.update(number for number in range(3) if _revision(town, number) == 1)
    for _ in range(STEPS):
        town.step()
        town.wait(1.0)
    assert town.revisions() == {0: 2}


def _revision(town: Town, number: int) -> int:
    return town.state.slots[f"{SERVICE}/{number}"].revision


def test_a_cordoned_worker_is_left_by_what_fails_there() -> None:
    town, _ = some(2)
    first = place(town)
    cordoned = replace(town.state.workers[first], availability=Availability.CORDONED)
    town.state.workers.put(first, cordoned)
    town.unable.add(first)
    town.rest()
    assert place(town) != first
