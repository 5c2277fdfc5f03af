"""A worker that cannot do what it is told gets nothing new, and what it has not started is started elsewhere."""

from __future__ import annotations

from oakestra.cluster.render.up import cluster_report
from oakestra.model.ids import WorkerId
from oakestra.model.instance import Slot
from oakestra.model.service import DisconnectPolicy, ServiceSpec
from oakestra.wire.native import Version
from town import SERVICE, Town, service

FULL = "its disk is full"


def two(spec: ServiceSpec, *, wanted: int) -> tuple[Town, WorkerId, WorkerId]:
    """Return a town of two workers that run so many instances."""
    town = Town()
    workers = [town.worker(number, 1000) for number in range(2)]
    town.want(spec, wanted)
    town.rest()
    return town, workers[0], workers[1]


def held(town: Town) -> dict[WorkerId, int]:
    return {worker: len(runs) for worker, runs in town.runs.items()}


def test_it_gets_nothing_new_and_keeps_what_runs() -> None:
    town, first, second = two(service(), wanted=2)
    before = {worker: dict(runs) for worker, runs in town.runs.items()}
    assert held(town) == {first: 1, second: 1}
    town.troubled[first] = FULL
    town.rest()
    town.want(service(), 6)
    town.rest()
    assert held(town) == {first: 1, second: 5}
    assert town.runs[first] == before[first]


def test_what_it_was_given_and_never_began_starts_elsewhere() -> None:
    town, first, second = two(service(), wanted=0)
    town.want(service(), 2)
    town.away.add(first)
    town.step()
    town.away.clear()
    town.troubled[first] = FULL
    town.rest()
    assert held(town) == {first: 0, second: 2}
    town.troubled.clear()
    town.rest()
    assert held(town) == {first: 0, second: 2}
    assert not town.state.withdrawals


def test_what_has_ended_and_cannot_start_again_there_starts_elsewhere() -> None:
    town, first, second = two(service(), wanted=2)
    town.ended.add(first)
    town.rest()
    assert held(town) == {first: 1, second: 1}, "it will be started again where it is"
    town.troubled[first] = FULL
    town.rest()
    assert town.revisions() == {0: 2}
    town.troubled.clear()
    town.ended.clear()
    town.rest()
    assert held(town) == {first: 0, second: 2}


def test_an_update_goes_round_it_and_what_serves_goes_on_meanwhile() -> None:
    town, first, second = two(service(), wanted=1)
    (home,) = (worker for worker in (first, second) if town.runs[worker])
    (other,) = {first, second} - {home}
    town.away.add(other)
    town.want(service(revision=1), 1)
    town.step()
    (record,) = town.state.slots.values()
    assert (record.worker, record.leaving is not None) == (other, True), (
        "its successor was given to the other"
    )
    town.away.clear()
    town.troubled[other] = FULL
    town.step()
    assert town.runs[home], "it serves"
    town.rest()
    assert (town.revisions(), held(town)[home]) == ({1: 1}, 1)
    town.troubled.clear()
    town.rest()
    assert (town.revisions(), town.leaving(), len(town.state.withdrawals)) == ({1: 1}, 0, 0)


def test_what_must_never_be_there_twice_waits_for_its_worker() -> None:
    town, first, second = two(service(disconnect=DisconnectPolicy(replace=False)), wanted=2)
    town.ended.add(first)
    town.troubled[first] = FULL
    town.rest()
    assert held(town) == {first: 1, second: 1}


def test_where_nobody_else_has_room_it_says_why_and_waits() -> None:
    town = Town()
    only = town.worker(0, 1000)
    town.troubled[only] = FULL
    town.rest()
    town.want(service(), 1)
    town.rest()
    record = town.state.slots[f"{SERVICE}/0"]
    assert FULL in record.reason
    (refusal,) = cluster_report(town.seen(), applied=Version(), vcpu_overcommit=8.0).refusals
    assert refusal.placed.slot == Slot(SERVICE, 0), "root may try another cluster"
    town.troubled.clear()
    town.rest()
    assert held(town) == {only: 1}
