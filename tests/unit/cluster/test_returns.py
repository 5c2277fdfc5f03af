"""What serves goes on serving while others return, leave, or come to nothing."""

from __future__ import annotations

from dataclasses import replace

from oakestra.cluster.decisions import Decision, LetServe, Place, TakeBack, Withdraw
from oakestra.cluster.execute import apply
from oakestra.cluster.plan import plan
from oakestra.cluster.render.serving import serving
from oakestra.cluster.render.up import cluster_report
from oakestra.cluster.state import Availability
from oakestra.model.ids import WorkerId
from oakestra.model.instance import Phase
from oakestra.model.service import DisconnectPolicy, Reconcile, UpdateOrder, UpdatePolicy
from oakestra.wire.native import Version
from town import LOST_S, Town, cut_off, later, service


def decide(town: Town) -> tuple[Decision, ...]:
    """Make a pass of which no worker has heard yet."""
    decisions = plan(town.seen(), vcpu_overcommit=8.0)
    apply(town.state, decisions)
    return decisions


def beat(town: Town, worker: WorkerId) -> None:
    """Let a worker show that it is there, and no more."""
    town.now_s += 0.1
    town.state.view(worker).last_seen_s = town.now_s


def drained_without_end() -> tuple[Town, WorkerId]:
    """Return a town whose only instance serves on a drained worker, as its successor does not get up."""
    town = Town()
    workers = [town.worker(number, 150) for number in range(2)]
    town.want(service(), 1)
    town.rest()
    (home,) = (worker for worker in workers if town.runs[worker])
    town.unable |= set(workers) - {home}
    town.drain(home)
    for _ in range(3):
        town.step()
    assert (town.leaving(), town.revisions()) == (1, {0: 1})
    return town, home


def fails(town: Town, worker: WorkerId) -> None:
    """Let the first that was begun on a worker have failed for good."""
    status = town._status

    def failed(id: WorkerId, *rest: object) -> object:
        found = status(id, *rest)  # type: ignore[arg-type]
        first = id == worker and 1 in (found.made_as, found.key.attempt)
        return replace(found, phase=Phase.FAILED, ready=False) if first else found

    town._status = failed  # type: ignore[assignment,method-assign]


def test_what_serves_on_a_drained_worker_that_is_back_is_not_ended_for_what_does_not() -> None:
    town, home = drained_without_end()
    town.away.add(home)
    later(town, LOST_S)
    town.away.clear()
    town.say(home)
    assert any(isinstance(decision, LetServe) for decision in decide(town))
    for _ in range(3):
        assert not any(isinstance(one, Withdraw) and one.worker == home for one in decide(town))
        assert town.revisions() == {0: 1}
    later(town, 1.0)
    assert town.revisions() == {0: 1}
    town.unable.clear()
    town.rest()
    assert (town.runs[home], town.revisions()) == ({}, {0: 1})


def test_calling_off_a_drain_takes_nobodys_route_away() -> None:
    town, home = drained_without_end()
    record = town.state.workers[home]
    town.state.workers.put(home, replace(record, availability=Availability.ACTIVE))
    assert any(isinstance(decision, TakeBack) for decision in decide(town))
    assert town.revisions() == {0: 1}, "it runs as before, and its worker has not heard its new number yet"
    town.rest()
    assert (town.place(0), town.revisions()) == (home, {0: 1})


def test_what_is_taken_back_serves_from_then_on() -> None:
    """It has been ready all the while: another name is no reason to ask for a proof anew."""
    town, home = cut_off(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    town.state.view(home).note_ready(town.now_s)
    later(town, LOST_S)
    town.away.clear()
    town.say(home)
    taken = False
    for _ in range(10):
        taken |= any(isinstance(decision, TakeBack) for decision in town.step())
        town.state.view(home).note_ready(town.now_s)
        seen = town.seen()
        (record,) = seen.slots.values()
        (worker, _), _ = serving(seen, record)
        assert not taken or worker == home
    assert taken


def test_what_is_ready_is_not_given_up_before_it_is_proven() -> None:
    """An update comes while a successor has been ready for a moment, and nobody else serves."""
    town = Town()
    home = town.worker(0, 150)
    town.want(service(), 1)
    town.rest()
    town.want(service(revision=1), 1)
    town.state.view(home).note_ready(town.now_s)
    for _ in range(30):
        town.step()
        town.state.view(home).note_ready(town.now_s)
        town.now_s += 0.3
    assert town.revisions() == {1: 1}


def test_a_workers_word_from_before_it_was_lost_decides_nothing() -> None:
    town, home = cut_off(DisconnectPolicy(reconcile=Reconcile.LONGEST_RUNNING))
    later(town, LOST_S)
    town.restarts[home] += 1
    town.away.clear()
    beat(town, home)
    assert not [one for one in decide(town) if isinstance(one, TakeBack)]
    town.rest()
    assert not town.runs[home], "it was started again while it was away"


def test_what_fails_after_it_was_taken_back_gives_way_to_what_serves() -> None:
    """Or its place could never be emptied, and its loss would be nobody's business."""
    town, home = cut_off(DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    town.worker(2, 1000)
    later(town, LOST_S)
    town.away.clear()
    town.say(home)
    assert any(isinstance(decision, TakeBack) for decision in decide(town))
    fails(town, home)
    for _ in range(10):
        town.step()
    other = town.place(0)
    assert other not in (None, home)
    assert town.revisions() == {0: 1}
    assert other is not None
    town.drain(other)
    town.rest()
    assert (town.runs[other], town.revisions()) == ({}, {0: 1})


def test_what_stops_first_is_gone_before_it_is_placed_anew() -> None:
    town = Town()
    home = town.worker(0, 1000)
    town.want(service(update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)), 1)
    town.rest()
    town.away.add(home)
    later(town, LOST_S)
    town.ended.add(home)
    town.away.clear()
    town.say(home)
    beat(town, home)
    decided = decide(town)
    assert any(isinstance(decision, Withdraw) for decision in decided)
    assert not any(isinstance(decision, Place) for decision in decided)


def test_what_must_not_run_twice_waits_for_its_lost_worker_to_end_it() -> None:
    town = Town()
    home, _ = (town.worker(number, 1000) for number in range(2))
    alone = service(
        disconnect=DisconnectPolicy(replace=False), update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)
    )
    town.want(alone, 1)
    town.rest()
    (home,) = (worker for worker, runs in town.runs.items() if runs)
    town.slow.add(home)
    town.want(replace(alone, revision=1), 1)
    town.step()
    town.away.add(home)
    later(town, LOST_S)
    assert town.place(0) is None
    (record,) = town.state.slots.values()
    assert record.reason.startswith("may still run on worker w")
    report = cluster_report(town.seen(), applied=Version(), vcpu_overcommit=8.0)
    assert not report.refusals, "it is nobody else's"
    assert [status.worker for status in report.statuses] == [home], "so that a new store is told where it was"
    town.away.clear()
    town.slow.clear()
    later(town, 1.0)
    town.rest()
    assert town.revisions() == {1: 1}
    assert sum(map(len, town.runs.values())) == 1


def test_a_job_whose_successor_is_done_leaves_nothing_behind() -> None:
    town = Town()
    for number in range(2):
        town.worker(number, 1000)
    job = service(one_shot=True, update=UpdatePolicy(order=UpdateOrder.START_FIRST))
    town.want(job, 1)
    town.rest()
    status = town._status

    def quick(*words: object) -> object:
        found = status(*words)  # type: ignore[arg-type]
        return replace(found, phase=Phase.COMPLETED, ready=False, exit_code=0) if found.revision else found

    town._status = quick  # type: ignore[assignment,method-assign]
    town.want(replace(job, revision=1), 1)
    for _ in range(20):
        town.step()
        town.now_s += 1.0
        for worker in town.runs:
            town.state.view(worker).last_seen_s = town.now_s
    assert town.leaving() == 0


def test_what_was_taken_back_again_and_again_has_few_names() -> None:
    town = Town()
    home = town.worker(0, 150)
    town.want(service(), 1)
    town.rest()
    for _ in range(20):
        town.away.add(home)
        later(town, LOST_S)
        town.away.clear()
        later(town, 1)
    (record,) = town.state.slots.values()
    assert (record.former[0], len(record.former) <= 3) == (1, True)
    assert len(town.runs[home]) == 1
