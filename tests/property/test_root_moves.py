"""Draining clusters: everything gets elsewhere, and nothing stops serving on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from country import Country
from oakestra.model.ids import ClusterId
from oakestra.model.service import DisconnectPolicy, UpdateOrder, UpdatePolicy
from oakestra.root.moves import CLUSTER_GRACE_S, departures, lingers_s
from oakestra.root.state import Availability
from oakestra.scheduling.elsewhere import patience_s
from oakestra.scheduling.liveness import Liveness

STEPS = 120

shapes = st.tuples(st.integers(2, 4), st.integers(1, 6), st.integers(1, 3))


@settings(max_examples=40)
@given(shapes, st.data())
def test_a_drained_cluster_is_empty_in_the_end_and_all_serve_on_the_way(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    clusters, count, parallel = shape
    country = Country()
    ids = [country.cluster(number) for number in range(clusters)]
    country.want(count, update=UpdatePolicy(parallel=parallel))
    country.settle(count)
    drained = data.draw(st.sets(st.sampled_from(ids), max_size=clusters - 1))
    for id in drained:
        country.set(id, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == count, "every instance serves, all the time"
        assert country.moving() <= parallel
    assert not country.at().keys() & drained
    assert country.at().total() == count
    assert not country.state.withdrawals


def about_to_move(count: int, **keys: object) -> tuple[Country, ClusterId, ClusterId]:
    """Return a country whose only instances are in its first cluster; the second takes none yet."""
    country = Country()
    first, second = country.cluster(0), country.cluster(1)
    country.set(second, Availability.CORDONED)
    country.want(count, **keys)
    country.settle(count)
    return country, first, second


def test_who_wants_the_earlier_one_gone_first_never_has_two() -> None:
    country, first, second = about_to_move(3, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    least = 3
    for _ in range(STEPS):
        country.step()
        placed = Counter(placed.slot for runs in country.runs.values() for placed in runs)
        assert max(placed.values()) == 1
        least = min(least, country.serving())
    assert (least, country.at()) == (2, {second: 3})


def test_what_nobody_else_has_room_for_goes_on_serving_where_it_is() -> None:
    country, first, second = about_to_move(2)
    country.full.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    country.full.clear()
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    assert country.at() == {second: 2}


def test_a_successor_waits_for_nobody_who_has_its_predecessor() -> None:
    """A cluster is told where a placement of its own was seen; what must not run twice waits until that is heard."""
    country, first, second = about_to_move(1, disconnect=DisconnectPolicy(replace=False))
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    country.broken.add(second)
    for _ in range(3):
        country.step()
    assert country.moving() == 1
    (assigned,) = country.told[second].slots
    assert not assigned.seen_on
    (assigned,) = country.told[first].slots
    assert assigned.seen_on


def test_a_successor_that_never_gets_ready_takes_nothing_away() -> None:
    country, first, second = about_to_move(2)
    country.broken.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    assert country.moving() == 1
    (record,) = [record for record in country.state.slots.values() if record.leaving is not None]
    assert record.status is not None
    assert "is being moved, cluster c0 is drained: its successor in c1 is RUNNING" in record.status.reason


def test_what_no_worker_of_a_cluster_gets_up_is_tried_in_another_one_and_not_sent_in_circles() -> None:
    country, first, second = about_to_move(2)
    country.set(second, Availability.ACTIVE)
    country.unable.add(first)
    for _ in range(5):
        country.step()
    assert (country.serving(), country.at()) == (2, {second: 2})
    country.unable.add(second)
    country.unable.discard(first)
    moved_s = country.now_s
    while country.at() == {second: 2}:
        country.step()
        assert country.now_s - moved_s < 7200.0
    assert country.now_s - moved_s > patience_s(20), "it failed in the first one within the hour"
    for _ in range(5):
        country.step()
    assert (country.serving(), country.at()) == (2, {first: 2})


def test_where_no_other_cluster_would_do_it_stays_and_says_so_until_it_is_up() -> None:
    country = Country()
    only = country.cluster(0)
    country.want(1)
    country.unable.add(only)
    for _ in range(5):
        country.step()
    (record,) = country.state.slots.values()
    assert (record.cluster, record.placement) == (only, 1)
    assert record.reason == "stays in c0: 1 cluster: failed 3 times: no device"
    country.unable.clear()
    for _ in range(5):
        country.step()
    (record,) = country.state.slots.values()
    assert (record.reason, record.failed) == ("c0: got up there after all", ())


def test_who_wants_the_earlier_one_gone_first_is_gone_before_it_is_tried_in_another_cluster() -> None:
    country, first, second = about_to_move(1, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.unable.add(first)
    for _ in range(STEPS):
        country.step()
        assert country.at().total() <= 1
    assert (country.serving(), country.at()) == (1, {second: 1})


@pytest.mark.parametrize("order", UpdateOrder)
def test_what_crashes_again_and_again_keeps_no_cluster_from_being_emptied(order: UpdateOrder) -> None:
    country, first, second = about_to_move(3, update=UpdatePolicy(order=order))
    country.crashing.add(0)
    country.step()
    country.step()
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
    assert country.at() == {second: 3}


def test_what_serves_in_a_cluster_that_is_away_is_not_given_up_before_its_time() -> None:
    """Found by seed 176: while its successor was not ready anywhere, the earlier placement went as soon as its cluster
    was lost, and not after the minute that everything else gets."""
    country, first, second = about_to_move(1)
    country.broken.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(10):
        country.step()
    (record,) = country.state.slots.values()
    assert record.leaving is not None
    for away_s in (20.0, 59.0, 61.0):
        seen = country.seen()
        lost = replace(seen.clusters[first], liveness=Liveness.LOST, silent_s=away_s)
        seen = replace(seen, clusters={**seen.clusters, first: lost})
        assert bool(tuple(departures(seen))) is (away_s > CLUSTER_GRACE_S)


def turned(first: ClusterId, country: Country, second: ClusterId) -> None:
    """Drain the first cluster until what it has is ready in the second one, and has not gone yet."""
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    while not country.slot().turned:
        country.step()


def test_a_successor_that_falls_over_gives_back_what_it_took() -> None:
    """Who serves is who is ready: users are led to the earlier one again, which does not go, and root waits for news."""
    country, first, second = about_to_move(1)
    turned(first, country, second)
    assert len(list(lingers_s(country.seen()))) == 1
    country.broken.add(second)
    country.step()
    for _ in range(20):
        country.step()
        assert (country.serving(), country.at()) == (1, {first: 1, second: 1})
    assert not country.seen().turned_since_s
    assert list(lingers_s(country.seen())) == []
    country.broken.clear()
    country.pass_time(20)
    assert (country.serving(), country.at()) == (1, {second: 1})


def test_a_successor_that_falls_over_again_and_again_ends_nothing() -> None:
    country, first, second = about_to_move(1)
    turned(first, country, second)
    for step in range(30):
        if step % 4 in (0, 3):  # broken for three steps, ready for one
            country.broken ^= {second}
        country.step()
        assert first in country.at()


def test_a_successor_that_is_out_of_reach_leads_nobody_astray() -> None:
    country, first, second = about_to_move(1, update=UpdatePolicy(min_ready_s=40.0))
    turned(first, country, second)
    country.cut.add(second)
    country.pass_time(50)
    assert (country.slot().serving[0], country.slot().is_ready, country.at()[first]) == (first, True, 1)


def test_what_must_be_ready_for_some_time_is_before_the_earlier_one_goes() -> None:
    country, first, second = about_to_move(1, update=UpdatePolicy(min_ready_s=40.0))
    turned(first, country, second)
    (left_s,) = lingers_s(country.seen())
    assert left_s > 30.0
    country.pass_time(35)
    assert country.at() == {first: 1, second: 1}
    country.pass_time(10)
    assert country.at() == {second: 1}


def test_others_hear_of_both_placements_and_are_led_to_one() -> None:
    country = Country()
    first, second, third = (country.cluster(number) for number in range(3))
    country.set(second, Availability.CORDONED)
    country.want(2)
    country.settle(2)
    assert country.at() == {first: 1, third: 1}
    country.set(second, Availability.ACTIVE)
    country.set(third, Availability.CORDONED)
    country.set(first, Availability.DRAINING)
    seen = set()
    for _ in range(STEPS):
        country.step()
        remotes = country.told[third].remotes
        assert sum(remote.ready for remote in remotes) == 1
        seen.add(tuple(sorted((remote.namespace.v4, remote.ready) for remote in remotes)))
    assert max(len(addresses) for addresses in seen) == 2
    (assigned,) = country.told[second].slots
    assert not assigned.turned


def test_what_must_stop_first_waits_for_no_machine_that_is_lost() -> None:
    """Its worker dies at the moment at which its cluster is drained: nobody will ever see it gone."""
    country, first, second = about_to_move(1, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    country.dead.add(first)
    for _ in range(20):
        country.step()
    assert country.serving() == 1
    country.dead.clear()
    for _ in range(20):
        country.step()
    assert country.at() == {second: 1}


def test_what_must_never_run_twice_waits_for_its_machine_to_return() -> None:
    country, first, second = about_to_move(1, disconnect=DisconnectPolicy(replace=False))
    country.update(update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    country.dead.add(first)
    for _ in range(20):
        country.step()
    assert country.at() == {first: 1}
    country.dead.clear()
    for _ in range(20):
        country.step()
    assert country.at() == {second: 1}


@pytest.mark.parametrize(
    ("order", "cut_s"),
    [(UpdateOrder.STOP_FIRST, 0), (UpdateOrder.STOP_FIRST, 30), (UpdateOrder.START_FIRST, 30)],
)
def test_what_must_never_run_twice_is_not_drained_out_of_a_cluster_that_is_out_of_reach(
    order: UpdateOrder, cut_s: int
) -> None:
    policy = DisconnectPolicy(replace=False)
    country, first, second = about_to_move(1, disconnect=policy, update=UpdatePolicy(order=order))
    country.set(second, Availability.ACTIVE)
    country.cut.add(first)
    country.pass_time(cut_s)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.at().total() == 1


def test_what_stops_first_is_drained_out_of_a_lost_cluster_when_that_is_given_up() -> None:
    country, first, second = about_to_move(1, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.cut.add(first)
    country.set(first, Availability.DRAINING)
    for _ in range(int(CLUSTER_GRACE_S) - 5):
        country.step()
        assert country.at().total() == 1
    country.pass_time(10)
    assert country.serving() == 1
    assert second in country.at()


def test_what_stops_first_has_no_two_where_it_is_not_ready_in_a_drained_cluster() -> None:
    country, first, second = about_to_move(1, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.broken.add(first)
    country.pass_time(2)
    country.set(first, Availability.DRAINING)
    country.cut.add(first)
    country.pass_time(10)
    assert country.at() == {first: 1}


def test_a_cluster_that_is_cut_off_while_it_is_drained_keeps_what_nobody_else_has_room_for() -> None:
    """A moment without a link is no reason to end what serves and has no successor: the usual patience counts."""
    country, first, second = about_to_move(2)
    country.full.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
    country.cut.add(first)
    country.pass_time(40)
    assert country.seen().clusters[first].liveness is Liveness.LOST
    assert not country.state.withdrawals
    country.cut.clear()
    country.pass_time(20)
    assert (country.at(), country.serving()) == ({first: 2}, 2)


def test_a_drain_that_is_called_off_leaves_things_where_they_are() -> None:
    """Method: the successor never gets ready, and its cluster is lost for good; then the drain is called off."""
    country, first, second = about_to_move(2)
    country.broken.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
    assert country.moving() == 1
    before = {id: set(runs) for id, runs in country.runs.items()}
    country.cut.add(second)
    country.set(first, Availability.CORDONED)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    assert (country.moving(), country.runs[first]) == (0, before[first])
    country.cut.clear()
    country.broken.clear()
    country.pass_time(30)
    assert not country.runs[second]
    assert not country.state.withdrawals
    assert country.at() == {first: 2}
    assert {record.last_placement for record in country.state.slots.values()} == {1, 2}


def test_what_stops_first_is_gone_from_the_cluster_that_refused_it_before_another_one_has_it() -> None:
    """A cluster that found no room may have found some since: its refusal is old when it is out of reach for a moment."""
    country = Country()
    first, second = country.cluster(0), country.cluster(1)
    country.full.add(first)
    country.set(second, Availability.CORDONED)
    country.want(
        1, disconnect=DisconnectPolicy(replace=False), update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)
    )
    country.pass_time(3)
    assert not country.at()
    (assigned,) = country.told[first].slots
    country.deaf.add(first)
    country.runs[first].add(assigned.placed)
    country.set(second, Availability.ACTIVE)
    for _ in range(5):
        country.step()
        assert country.at() == {first: 1}
    country.deaf.clear()
    country.full.clear()
    for _ in range(5):
        country.step()
        assert country.at().total() <= 1
    assert country.serving() == 1


def held_by_the_lost(*, lose: str) -> tuple[Country, ClusterId, ClusterId]:
    """Return a country where what must not run twice was taken from its first cluster just before that, or its only
    worker, was lost; and which cluster has another instance."""
    country = Country()
    clusters = [country.cluster(number) for number in range(3)]
    country.set(clusters[2], Availability.CORDONED)
    country.want(
        2, disconnect=DisconnectPolicy(replace=False), update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)
    )
    country.settle(2)
    first = country.slot(0).cluster
    second = country.slot(1).cluster
    assert first is not None
    assert second is not None
    assert first != second
    country.set(clusters[2], Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    country.deaf.add(first)
    country.step()
    assert country.slot(0).cluster is None
    country.deaf.clear()
    getattr(country, lose).add(first)
    country.pass_time(30)
    return country, first, second


@pytest.mark.parametrize(("lose", "remedy"), [("cut", "oak cluster rm c0"), ("dead", "oak worker rm c0w1")])
def test_what_must_never_run_twice_says_whom_it_waits_for(lose: str, remedy: str) -> None:
    country, first, _ = held_by_the_lost(lose=lose)
    assert country.slot(0).cluster is None
    assert country.slot(0).reason.startswith("may still run")
    assert country.slot(0).reason.endswith(remedy)
    getattr(country, lose).clear()
    country.pass_time(5)
    assert country.slot(0).cluster not in (None, first)
    assert country.serving() == 2


@pytest.mark.parametrize("lose", ["cut", "dead"])
def test_what_waits_for_the_lost_keeps_nothing_else_from_moving(lose: str) -> None:
    country, _, second = held_by_the_lost(lose=lose)
    country.set(second, Availability.DRAINING)
    country.pass_time(10)
    assert country.slot(1).cluster not in (None, second)
    assert country.serving() == 1
