"""What a cluster does about workers that are out of reach is what the service's SLA says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from oakestra.cluster.render.up import cluster_report
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey
from oakestra.model.machine import Capacity
from oakestra.model.service import DisconnectPolicy, Reconcile, Resources
from oakestra.wire.native import Version
from town import LOST_S, SERVICE, Town, cut_off, later, service


def elsewhere(town: Town, home: WorkerId) -> bool:
    return any(runs for worker, runs in town.runs.items() if worker != home)


def test_it_is_replaced_as_soon_as_its_worker_is_lost() -> None:
    town, home = cut_off(DisconnectPolicy())
    later(town, LOST_S - 2)
    assert not elsewhere(town, home)
    later(town, 2)
    assert elsewhere(town, home)
    assert town.revisions() == {0: 1}


def test_what_has_room_nowhere_else_goes_on_where_it_was_when_its_worker_returns() -> None:
    """Found by seed 109: nothing was decided about it while its replacement fitted nowhere, not even on its own worker,
    whose room it held."""
    town = Town()
    only = town.worker(0, 150)
    town.want(service(disconnect=DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL)), 1)
    town.rest()
    town.away.add(only)
    later(town, LOST_S)
    assert town.place(0) is None
    town.away.clear()
    later(town, 1)
    assert town.place(0) == only
    assert town.revisions() == {0: 1}


def test_it_may_wait_for_longer() -> None:
    town, home = cut_off(DisconnectPolicy(lost_after_s=100.0))
    later(town, 90)
    assert not elsewhere(town, home)
    later(town, 11)
    assert elsewhere(town, home)


def test_it_may_never_be_replaced_and_is_not_called_ready_meanwhile() -> None:
    town, home = cut_off(DisconnectPolicy(replace=False))
    later(town, 10**6)
    assert not elsewhere(town, home)
    assert town.revisions() == {}, "nobody is led to it"
    (status,) = cluster_report(town.seen(), applied=Version(), vcpu_overcommit=8.0).statuses
    assert (status.ready, "is lost" in status.reason) == (False, True)
    town.away.clear()
    later(town, 1)
    assert town.revisions() == {0: 1}
    assert not elsewhere(town, home)


def test_when_the_lost_one_returns_the_older_attempt_goes() -> None:
    town, home = cut_off(DisconnectPolicy())
    later(town, LOST_S)
    town.away.clear()
    town.rest()
    assert not town.runs[home]
    assert sum(len(runs) for runs in town.runs.values()) == 1
    assert not town.state.withdrawals
    assert town.state.services[SERVICE]


def returned(
    policy: DisconnectPolicy, *, meanwhile: Callable[[Town], None] = lambda _: None
) -> tuple[bool, Town]:
    """Tell whether the original is kept when its worker returns after it was replaced; nothing is ever doubled."""
    town, home = cut_off(policy)
    later(town, LOST_S)
    assert elsewhere(town, home)
    meanwhile(town)
    town.away.clear()
    for _ in range(30):
        town.step()
        assert town.revisions().total() <= 1, "one is led to"
    town.rest()
    assert sum(len(runs) for runs in town.runs.values()) == 1
    assert not town.state.withdrawals
    return not elsewhere(town, home), town


def test_which_of_two_stays_is_what_its_policy_says() -> None:
    assert not returned(DisconnectPolicy())[0]
    assert returned(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))[0]
    assert returned(DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING))[0]


def test_the_original_goes_on_under_a_later_number() -> None:
    _, town = returned(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    (record,) = town.state.slots.values()
    assert (record.attempt, record.former, record.leaving, record.aside) == (3, (1,), None, None)


def test_the_better_place_is_kept() -> None:
    def busy(town: Town) -> None:
        (home,) = town.away
        town.state.workers.put(
            home,
            replace(
                town.state.workers[home],
                capacity=Capacity(resources=Resources(memory_mib=150, vcpus=1), virtualizations=("docker",)),
            ),
        )

    assert not returned(DisconnectPolicy(reconcile=Reconcile.BEST_SCORE), meanwhile=busy)[0]


def test_what_was_updated_meanwhile_is_not_taken_back() -> None:
    policy = DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL)

    def update(town: Town) -> None:
        town.want(service(disconnect=policy, revision=1), 1)
        for _ in range(20):
            town.step()

    kept, town = returned(policy, meanwhile=update)
    assert not kept
    assert town.revisions() == {1: 1}


def test_the_original_is_kept_where_nothing_replaced_it() -> None:
    town = Town()
    home = town.worker(0, 1000)
    town.want(service(disconnect=DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL)), 1)
    town.rest()
    before = len(town.runs[home])
    town.away.add(home)
    later(town, LOST_S)
    town.away.clear()
    town.rest()
    (record,) = town.state.slots.values()
    assert (before, len(town.runs[home]), record.former) == (1, 1, (1,))


def test_the_original_is_kept_where_there_is_room_for_nothing_else() -> None:
    """What is set aside takes the room that its replacement waits for."""
    town = Town()
    home = town.worker(0, 100)
    town.want(service(disconnect=DisconnectPolicy(reconcile=Reconcile.BEST_SCORE)), 1)
    town.rest()
    town.away.add(home)
    later(town, LOST_S)
    town.away.clear()
    town.rest()
    assert town.revisions() == {0: 1}
    (record,) = town.state.slots.values()
    assert (record.aside, record.worker) == (None, home)


def test_the_original_serves_again_while_its_replacement_does_not_get_ready() -> None:
    """Whatever the policy says: what runs is not ended for what does not."""
    town, home = cut_off(DisconnectPolicy())
    town.broken.add(1)
    town.unable |= town.runs.keys() - {home}
    later(town, LOST_S)
    assert elsewhere(town, home)
    town.away.clear()
    later(town, 1.0)
    assert town.revisions() == {0: 1}
    assert (town.place(0), len(town.runs[home])) == (home, 1)


def test_what_was_to_leave_a_worker_serves_again_when_that_returns_before_a_successor_is_ready() -> None:
    """Found by seed 1310: what leaves and is out of reach was given up for a successor that fitted nowhere."""
    town = Town()
    home = town.worker(0, 150)
    other = town.worker(1, 150)
    town.want(service(), 1)
    town.rest()
    first, second = (home, other) if town.runs[home] else (other, home)
    town.unable.add(second)
    town.drain(first)
    for _ in range(3):
        town.step()
    assert town.leaving() == 1
    town.away.add(first)
    later(town, LOST_S)
    (record,) = town.state.slots.values()
    assert (record.leaving, record.aside is not None) == (None, True)
    town.away.clear()
    later(town, 1.0)
    assert town.revisions() == {0: 1}
    assert len(town.runs[first]) == 1


def test_what_is_set_aside_is_known_by_the_names_it_had() -> None:
    """Found by seed 1921: a worker that had lost its state was told of an attempt by its last name only, and made
    another one beside the one that it found under its first."""
    policy = DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL)
    _, town = returned(policy)
    (record,) = town.state.slots.values()
    assert record.former == (1,)
    home = record.worker
    assert home is not None
    town.away.add(home)
    later(town, LOST_S)
    town.runs[home] = {InstanceKey(SERVICE, 0, 1, 1): 0}  # what its containers are labelled with
    town.unable |= town.runs.keys() - {home}
    town.away.clear()
    town.step()
    assert len(town.runs[home]) == 1
    town.rest()
    assert len(town.runs[home]) == 1


def test_a_cluster_that_lost_its_records_learns_the_first_name_of_what_was_taken_back() -> None:
    """Found by seed 648: then the worker lost its state, too, and found what it runs under its first name only."""
    _, town = returned(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    anew = Town(made_as=town.made_as, runs=town.runs)
    for number, worker in enumerate(sorted(town.runs)):
        runs = town.runs[worker]
        assert anew.worker(number, 1000) == worker
        anew.runs[worker] = runs
        anew.say(worker)
    anew.want(service(), 1)
    anew.step()
    (record,) = anew.state.slots.values()
    assert (record.attempt, record.former) == (3, (1,))


def test_a_worker_that_is_removed_takes_its_claim_along() -> None:
    town, home = cut_off(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    later(town, LOST_S)
    town.state.workers.remove(home)
    del town.runs[home]
    town.rest()
    (record,) = town.state.slots.values()
    assert (record.aside, record.attempt) == (None, 2)


def test_a_replacement_on_a_lost_worker_is_of_no_use_to_anybody() -> None:
    policy = DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING, lost_after_s=100.0)
    town, home = cut_off(policy)
    later(town, 101.0)
    (other,) = (worker for worker in town.runs if worker != home)
    town.away = {home, other}
    later(town, LOST_S)
    (record,) = town.state.slots.values()
    assert record.aside is not None
    town.restarts[home] += 1
    town.away = {other}
    town.say(home)
    later(town, 1.0)
    assert town.revisions() == {0: 1}
    assert town.runs[home]
