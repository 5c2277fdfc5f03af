"""What must not run twice waits for whoever may still run it, and says what to do about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oakestra.cluster.execute import accept
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, Placement
from oakestra.model.service import DisconnectPolicy, InstanceAddress, Resources, UpdateOrder, UpdatePolicy
from oakestra.wire.native import AssignedSlot, ClusterAssignment, Version
from town import LOST_S, SERVICE, Town, cut_off, later, service

ALONE = service(disconnect=DisconnectPolicy(replace=False), update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))


def reason(town: Town) -> str:
    (record,) = town.state.slots.values()
    return record.reason


def assigned(*, placement: int, seen_on: WorkerId) -> AssignedSlot:
    address = InstanceAddress(v4="10.30.0.0")
    return AssignedSlot(placed=Placement(SERVICE, 0, placement), address=address, seen_on=seen_on)


def at_home() -> tuple[Town, WorkerId, WorkerId]:
    """Return a town with two workers, and which of them has the only instance."""
    town = Town()
    workers = [town.worker(number, 1000) for number in range(2)]
    town.want(ALONE, 1)
    town.rest()
    (home,) = (worker for worker in workers if town.runs[worker])
    (other,) = set(workers) - {home}
    return town, home, other


def test_what_a_lost_worker_said_that_it_runs_is_not_begun_by_a_new_store() -> None:
    town = Town()
    home, _ = (town.worker(number, 1000) for number in range(2))
    town.runs[home] = {InstanceKey(SERVICE, 0, 1, 3): 0}
    town.say(home)
    town.away.add(home)
    later(town, LOST_S)
    told = ClusterAssignment(
        version=Version(epoch=1, generation=1),
        services=(ALONE,),
        slots=(assigned(placement=1, seen_on=home),),
    )
    accept(town.state, told)
    later(town, 1.0)
    assert town.place(0) is None
    assert reason(town).startswith("may still run on worker w0")
    town.away.clear()
    later(town, 1.0)
    assert town.place(0) == home
    assert sum(map(len, town.runs.values())) == 1


def test_what_was_set_aside_may_still_run_once_that_would_do_harm() -> None:
    town = Town()
    home, _ = town.worker(0, 1000), town.worker(1, 50)
    town.want(service(), 1)
    town.rest()
    town.away.add(home)
    later(town, LOST_S)
    assert town.place(0) is None, "nobody else has room"
    town.want(replace(ALONE, revision=1, resources=Resources(memory_mib=10)), 1)
    later(town, 1.0)
    assert town.place(0) is None
    assert reason(town).startswith("may still run on worker w0")


def test_what_serves_is_not_taken_away_while_its_successor_would_have_to_wait() -> None:
    town, home = cut_off(DisconnectPolicy())
    later(town, LOST_S)
    town.rest()
    assert town.revisions() == {0: 1}
    town.want(replace(ALONE, revision=1), 1)
    later(town, 1.0)
    assert town.revisions() == {0: 1}
    assert f"may still run on worker {town.state.workers[home].name}" in reason(town)
    town.state.workers.remove(home)
    town.rest()
    assert town.revisions() == {1: 1}


def test_a_worker_that_cannot_end_it_is_waited_for_and_named() -> None:
    town, home, _ = at_home()
    town.troubled[home] = "its disk is full"
    town.want(replace(ALONE, revision=1), 1)
    later(town, 1.0)
    assert town.place(0) is None
    assert "its disk is full" in reason(town)
    town.troubled.clear()
    later(town, 1.0)
    town.rest()
    assert town.revisions() == {1: 1}


@pytest.mark.parametrize("lost", [0, 1])
def test_of_two_who_may_still_run_it_the_one_that_cannot_end_it_is_named(lost: int) -> None:
    town = Town()
    workers = [town.worker(number, 1000) for number in range(2)]
    for number, worker in enumerate(workers):
        town.runs[worker] = {InstanceKey(SERVICE, 0, 1, number + 1): 0}
        town.say(worker)
    town.slow |= set(workers)
    town.away.add(workers[lost])
    later(town, LOST_S)
    town.want(ALONE, 1)
    accept(
        town.state,
        ClusterAssignment(
            version=Version(epoch=1, generation=9), slots=(assigned(placement=2, seen_on=WorkerId("")),)
        ),
    )
    later(town, 1.0)
    assert reason(town).startswith(f"may still run on worker w{lost}, which is lost")
