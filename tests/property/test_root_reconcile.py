"""A lost cluster returns with what was replaced: one stays, as the policy says, and nobody is without it on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from country import SERVICE, Country
from oakestra.model.ids import ClusterId
from oakestra.model.instance import Phase, Placement
from oakestra.model.service import DisconnectPolicy, Reconcile, Resources, UpdateOrder, UpdatePolicy
from oakestra.root.decisions import TakeBack
from oakestra.root.rebuild.plan import Decline
from oakestra.root.state import Availability

LOST_S = 61
SETTLE_S = 150
ORIGINAL = DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL)


def cut_off(policy: DisconnectPolicy, count: int = 1, **keys: object) -> tuple[Country, ClusterId, ClusterId]:
    """Return a country whose first cluster, the only one with instances, was just cut off; the second has room."""
    country = Country()
    home, other = country.cluster(0), country.cluster(1)
    country.set(other, Availability.CORDONED)
    country.want(count, disconnect=policy, **keys)
    country.settle(count)
    country.set(other, Availability.ACTIVE)
    country.cut.add(home)
    return country, home, other


def replaced(
    policy: DisconnectPolicy, count: int = 1, **keys: object
) -> tuple[Country, ClusterId, ClusterId]:
    """Return such a country once its instances run in the second cluster."""
    country, home, other = cut_off(policy, count, **keys)
    country.pass_time(LOST_S + 3)
    assert country.at() == {home: count, other: count}
    return country, home, other


def led_to(country: Country, cluster: ClusterId) -> list[Placement]:
    """Return what instances in a cluster are led to: what is ready there, and what root says of others."""
    told = country.told[cluster]
    ready = country.runs[cluster] if cluster not in country.broken else set()
    own = [assigned.placed for assigned in told.slots if assigned.placed in ready and not assigned.turned]
    return own + [remote.placed for remote in told.remotes if remote.ready]


def stays(
    policy: DisconnectPolicy, *, meanwhile: Callable[[Country], None] = lambda _: None, count: int = 1
) -> tuple[str, Country]:
    """Tell which of the two stays when the cluster returns; on the way one serves, and one only."""
    country, home, other = replaced(policy, count)
    meanwhile(country)
    country.cut.clear()
    for _ in range(30):
        country.step()
        assert country.serving() == count, "every instance serves, all the time"
        for cluster in (home, other):
            led = led_to(country, cluster)
            assert len({placed.slot for placed in led}) == len(led), "nobody is led to two"
            assert len(led) == count or not country.told[cluster].slots, "everybody is led to one"
    assert not country.state.withdrawals
    assert all(record.rightful == record.placements for record in country.state.slots.values())
    (stayed,) = country.at()
    assert country.at() == {stayed: count}
    return "original" if stayed == home else "replacement", country


def test_which_of_two_stays_is_what_its_policy_says() -> None:
    assert stays(DisconnectPolicy())[0] == "replacement"
    assert stays(ORIGINAL, count=3)[0] == "original"
    assert stays(DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING))[0] == "original"


def test_what_was_started_again_while_it_was_away_does_not_run_longest() -> None:
    def crash(country: Country) -> None:
        (placed,) = country.runs[country.slot().rightful[-1][0]]
        country.restarts[placed] += 1

    policy = DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING)
    assert stays(policy, meanwhile=crash)[0] == "replacement"


@pytest.mark.parametrize(
    ("full", "kept"), [((0,), "replacement"), ((1,), "original"), ((), "original"), ((0, 1), "original")]
)
def test_the_better_place_is_kept_whatever_the_two_take_of_it(full: tuple[int, ...], kept: str) -> None:
    def fill(country: Country) -> None:
        for number, id in enumerate(sorted(country.runs)):
            half = Resources(memory_mib=50_000, vcpus=500)
            country.free[id] = Resources() if number in full else half

    assert stays(DisconnectPolicy(reconcile=Reconcile.BEST_SCORE), meanwhile=fill)[0] == kept


def test_what_goes_on_keeps_its_number_and_later_ones_are_new() -> None:
    _, country = stays(ORIGINAL)
    record = country.slot()
    assert (record.placement, record.last_placement, record.leaving, record.aside) == (1, 2, None, None)
    country.set(ClusterId(f"{0:024x}"), Availability.DRAINING)
    country.pass_time(20)
    assert country.slot().placement == 3


def test_an_original_that_is_not_ready_does_not_go_before_a_replacement_that_is() -> None:
    country, home, other = replaced(ORIGINAL)
    country.broken.add(home)
    country.cut.clear()
    for _ in range(30):
        country.step()
        assert country.serving() == 1
    assert country.at() == {other: 1}


@pytest.mark.parametrize("policy", Reconcile)
def test_an_original_that_is_ready_goes_before_a_replacement_that_is_not(policy: Reconcile) -> None:
    """Whatever the policy says: what runs is not ended for what does not."""
    country, home, other = cut_off(DisconnectPolicy(reconcile=policy))
    country.broken.add(other)
    country.pass_time(LOST_S + 3)
    country.cut.clear()
    country.pass_time(30)
    assert (country.at(), country.serving()) == ({home: 1}, 1)


def test_in_a_drained_cluster_too_the_original_serves_until_its_replacement_does() -> None:
    country, home, other = cut_off(ORIGINAL)
    country.broken.add(other)
    country.pass_time(LOST_S + 3)
    country.set(home, Availability.DRAINING)
    country.cut.clear()
    for _ in range(30):
        country.step()
        assert len(country.runs[home]) == 1, "it was not ended"
    assert country.serving() == 1
    country.broken.clear()
    country.pass_time(30)
    assert (country.at(), country.serving()) == ({other: 1}, 1)


def test_what_was_to_leave_a_cluster_that_is_lost_serves_again_when_that_is_back_first() -> None:
    """Found by seed 1310: it was given up for a successor that fitted nowhere."""
    country, home, other = cut_off(DisconnectPolicy())
    country.cut.clear()
    country.broken.add(other)
    country.set(home, Availability.DRAINING)
    country.pass_time(5)
    assert country.slot().leaving is not None
    country.cut.add(home)
    country.pass_time(LOST_S + 3)
    assert (country.slot().leaving, country.slot().aside is not None) == (None, True)
    country.cut.clear()
    country.pass_time(30)
    assert len(country.runs[home]) == 1
    assert country.serving() == 1


def test_what_was_heard_before_its_cluster_was_lost_decides_nothing() -> None:
    """The cluster is there again, and has not told yet that its instance stopped meanwhile."""
    country, home, other = replaced(ORIGINAL)
    country.broken.add(home)
    country.cut.clear()
    country.deaf.add(home)
    for _ in range(10):
        assert not [one for one in country.step() if isinstance(one, TakeBack)]
    country.deaf.clear()
    country.pass_time(30)
    assert country.at() == {other: 1}


def test_a_replacement_stays_until_the_original_knows_that_it_serves() -> None:
    """The cluster is cut off again at the moment at which its instance is taken back."""
    country, home, other = replaced(ORIGINAL)
    country.cut.clear()
    country.step()
    country.cut.add(home)
    assert [one for one in country.step() if isinstance(one, TakeBack)]
    assert country.told[home].slots[0].turned, "it was not told"
    country.pass_time(10)
    assert country.at() == {home: 1, other: 1}
    country.cut.clear()
    country.pass_time(10)
    assert country.at() == {home: 1}


def test_what_was_updated_meanwhile_is_not_taken_back() -> None:
    kept, country = stays(ORIGINAL, meanwhile=lambda country: country.update())
    assert (kept, country.revisions[country.slot().placed]) == ("replacement", 1)


def test_what_is_not_wanted_any_more_goes_in_both() -> None:
    country, home, other = replaced(ORIGINAL, 2)
    country.remove(1)
    country.pass_time(5)
    assert country.at() == {home: 2, other: 1}
    country.cut.clear()
    country.pass_time(30)
    assert country.at() == {home: 1}
    assert len(country.state.slots) == 1


def test_nothing_is_taken_back_from_a_cluster_that_is_drained_or_removed() -> None:
    country, home, other = replaced(ORIGINAL)
    country.set(home, Availability.DRAINING)
    country.cut.clear()
    country.pass_time(30)
    assert country.at() == {other: 1}
    country, home, other = replaced(ORIGINAL)
    country.state.clusters.remove(home)
    country.pass_time(5)
    assert (country.slot().aside, country.slot().cluster) == (None, other)


def test_of_several_lost_clusters_the_first_has_the_original() -> None:
    country, home, other = replaced(ORIGINAL)
    third = country.cluster(2)
    country.cut.add(other)
    country.pass_time(LOST_S + 3)
    assert country.at() == {home: 1, other: 1, third: 1}
    country.cut.remove(other)
    country.pass_time(30)
    assert country.at() == {home: 1, third: 1}
    country.cut.clear()
    country.pass_time(30)
    assert country.at() == {home: 1}


def test_of_two_that_are_back_while_a_third_is_asked_one_stays() -> None:
    """The replacement's cluster is lost for a minute, and another takes instances, just when the original is back."""
    country, home, other = replaced(ORIGINAL)
    country.cut.add(other)
    country.pass_time(LOST_S + 3)
    third = country.cluster(2)
    country.set(third, Availability.CORDONED)
    country.cut.remove(home)
    country.step()
    country.set(third, Availability.ACTIVE)
    country.pass_time(20)
    assert country.at() == {home: 1, other: 1}
    country.cut.clear()
    country.pass_time(20)
    assert country.at() == {home: 1}


def test_a_replacement_in_a_lost_cluster_is_of_no_use_to_anybody() -> None:
    country, home, other = replaced(DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING))
    country.restarts[Placement(SERVICE, 0, 1)] += 1
    country.cut.add(other)
    country.pass_time(20)
    country.cut.remove(home)
    country.pass_time(5)
    assert (country.serving(), country.slot().cluster) == (1, home)


def test_what_moves_on_meanwhile_gets_there_first() -> None:
    """The replacement's cluster is drained when the original comes back."""
    country, home, other = replaced(ORIGINAL)
    third = country.cluster(2)
    country.step()  # until a cluster has told root what it holds it is given nothing
    country.set(other, Availability.DRAINING)
    country.cut.clear()
    country.broken.add(third)
    for _ in range(20):
        country.step()
        assert country.serving() == 1
    assert country.at() == {home: 1, other: 1, third: 1}
    country.broken.clear()
    for _ in range(20):
        country.step()
        assert country.serving() == 1
    assert country.at() == {home: 1}


def test_what_must_never_run_twice_is_not_set_aside() -> None:
    country, home, _ = cut_off(replace(ORIGINAL, replace=False))
    country.pass_time(300)
    assert (country.at(), country.slot().aside) == ({home: 1}, None)


def test_a_root_that_restarts_waits_for_what_it_set_aside() -> None:
    country, home, other = replaced(ORIGINAL)
    country.restart_root()
    country.pass_time(100)
    assert country.at() == {home: 1, other: 1}
    country.cut.clear()
    country.restart_root()
    country.pass_time(30)
    assert country.at() == {home: 1}


def test_no_number_is_given_twice_after_something_was_taken_back() -> None:
    country, home, _ = replaced(ORIGINAL)
    country.cut.clear()
    country.pass_time(30)
    assert (country.slot().placement, country.slot().last_placement) == (1, 2)
    country.unable.add(home)
    country.pass_time(5)
    assert country.slot().placement == 3


def test_no_number_is_given_twice_while_a_replacement_is_still_there() -> None:
    """What was taken back fails before its replacement has gone."""
    country, home, other = cut_off(ORIGINAL)
    country.broken.add(other)
    country.pass_time(LOST_S + 3)
    country.cluster(2)
    country.step()
    country.cut.clear()
    while country.slot().leaving is None:
        country.step()
    country.unable.add(home)
    for _ in range(12):
        country.step()
        held = [placed for _, placed in country.slot().placements]
        assert len(held) == len(set(held))


def test_a_root_that_restarted_while_a_cluster_was_away_knows_how_it_was() -> None:
    longest = DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING)
    for policy, updated, kept in ((longest, False, "home"), (ORIGINAL, True, "other")):
        country, home, other = cut_off(policy)
        country.pass_time(20)
        country.restart_root()
        if updated:
            country.update()
        country.pass_time(LOST_S + 20)
        country.cut.clear()
        country.pass_time(30)
        assert country.at() == {home if kept == "home" else other: 1}


def test_what_left_when_its_cluster_was_lost_is_decided_about_when_that_is_back() -> None:
    """Its cluster knew already that it has a successor: that it is set aside tells it nothing new."""
    country, home, other = cut_off(ORIGINAL)
    country.cut.clear()
    country.set(home, Availability.DRAINING)
    while not country.slot().turned:
        country.step()
    country.broken.add(other)
    country.cut.add(home)
    country.pass_time(LOST_S + 10)
    assert country.slot().aside is not None
    country.cut.clear()
    country.pass_time(60)
    assert country.serving() == 1


JOB: dict[str, Any] = {"one_shot": True, "update": UpdatePolicy(order=UpdateOrder.STOP_FIRST)}


@pytest.mark.parametrize("policy", [DisconnectPolicy(), ORIGINAL])
@pytest.mark.parametrize("first", ["original", "replacement", "replacement at once"])
def test_a_job_that_is_done_does_not_run_again(policy: DisconnectPolicy, first: str) -> None:
    """Whichever of the two has done the work, the other one is not needed."""
    country, home, other = cut_off(policy, **JOB)
    if first == "replacement at once":
        country.finished.add(other)
    country.pass_time(LOST_S + 3)
    done = home if first == "original" else other
    country.finished.add(done)
    country.pass_time(5)
    country.cut.clear()
    country.pass_time(3)
    for _ in range(30):
        country.step()
        assert (country.at(), country.slot().status.phase) == ({done: 1}, Phase.COMPLETED)  # type: ignore[union-attr]
    assert (country.slot().aside, country.slot().leaving) == (None, None)


actions = st.sampled_from(
    ["cut", "cut", "mend", "mend", "broken", "drain", "update", "remove", "restart", "wait", "wait", "wait"]
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(Reconcile),
    st.sampled_from(UpdateOrder),
    st.integers(2, 4),
    st.lists(st.tuples(actions, st.integers(0, 3), st.integers(1, 70)), max_size=14),
)
def test_whatever_happens_in_the_end_each_runs_once(
    reconcile: Reconcile, order: UpdateOrder, clusters: int, story: list[tuple[str, int, int]]
) -> None:
    country = Country()
    ids = [country.cluster(number) for number in range(clusters)]
    country.want(3, disconnect=DisconnectPolicy(reconcile=reconcile), update=UpdatePolicy(order=order))
    country.settle(3)
    for action, which, seconds in story:
        country.happen(action, ids[which % clusters], which)
        for _ in range(seconds):
            assert not any(isinstance(one, Decline) for one in country.step()), (
                "root knows all that it asked for"
            )
    country.cut.clear()
    country.broken.clear()
    for id in ids:
        country.set(id, Availability.ACTIVE)
    country.pass_time(SETTLE_S)
    wanted = {slot.slot for slot in country.state.slots.values()}
    assert country.at().total() == len(wanted) == country.serving()
    assert {placed.slot for runs in country.runs.values() for placed in runs} == wanted
    assert not country.state.withdrawals
    assert all(not record.leaving and not record.aside for record in country.state.slots.values())
