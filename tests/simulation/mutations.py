"""Bugs put in on purpose: each must be noticed by a checker, else the checkers are worth nothing.

`python tests/simulation/mutations.py [NAME …]` plays seeds with each bug until one is red, and says which and why. Of those in
`SCRIPTED` a script is played instead: few seeds come to what shows them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from oakestra.cluster import execute as cluster_execute
from oakestra.cluster import ledger, moves
from oakestra.cluster import observe as cluster_observe
from oakestra.cluster import plan as cluster_plan
from oakestra.cluster import tier as cluster_tier
from oakestra.cluster.render import claims, routes, up
from oakestra.model.address import Route
from oakestra.model.instance import InstanceStatus
from oakestra.root import addresses as root_addresses
from oakestra.root import observe as root_observe
from oakestra.root import operations
from oakestra.root import plan as root_plan
from oakestra.root import state as root_state
from oakestra.root import tier as root_tier
from oakestra.root.rebuild import plan as rebuild_plan
from oakestra.root.reconcile import plan as root_reconcile
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.reconcile import Stays
from oakestra.simulation.scripted import play as play_script
from oakestra.simulation.seeds import play
from oakestra.simulation.virtual_time import Spinning
from oakestra.worker import desired
from oakestra.worker import plan as worker_plan
from oakestra.worker import tier as worker_tier
from oakestra.worker.observe import StepKind

SEEDS_MAX = 200
SCRIPTS = Path(__file__).parent / "scripts"

Break = Callable[[], None]


def lost_workers_are_never_noticed() -> None:
    _put(cluster_observe, "judge", lambda *_, **__: Liveness.LIVE)


def tombstones_are_forgotten_at_once() -> None:
    _put(root_plan, "_shown_gone", lambda *_, **__: True)


def tombstones_are_never_forgotten() -> None:
    _put(root_plan, "_shown_gone", lambda *_, **__: False)


def earlier_attempts_are_not_withdrawn() -> None:
    _put(cluster_plan, "_orphaned", lambda *_, **__: "")


def a_moved_slot_is_left_where_it_was() -> None:
    def vacate(*_: Any, **__: Any) -> None:
        return None

    _put(cluster_execute, "_withdraw", vacate)


def nothing_is_reserved() -> None:
    def reserve(*_: Any) -> None:
        return None

    _put(ledger.Ledger, "reserve", reserve)


def what_is_withdrawn_frees_its_room_at_once() -> None:
    real = ledger.Ledger.__init__

    def init(self: Any, observed: Any, gone: Any, **keys: Any) -> None:
        real(self, observed, {*gone, *observed.withdrawals}, **keys)

    _put(ledger.Ledger, "__init__", init)


def missed_sets_are_not_sent_again() -> None:
    _put(cluster_tier.Cluster, "_beaten", lambda *_: None)
    _put(root_tier.Root, "_beaten", lambda *_: None)


def absence_removes() -> None:
    real = desired.accept

    def accept(kept: Any, assignment: Any) -> Any:
        mentioned = {one.key for one in assignment.instances}
        gone = tuple(one.key for one in kept.instances if one.key not in mentioned)
        return real(kept, replace(assignment, withdrawn=(*assignment.withdrawn, *gone)))

    _put(worker_tier, "accept", accept)


def what_runs_is_not_adopted_by_a_worker() -> None:
    _put(worker_tier, "adopt", lambda kept, found: kept)


def what_runs_is_not_adopted_by_a_cluster() -> None:
    _put(cluster_plan, "_adoptions", lambda *_: iter(()))


def refusals_are_not_heard() -> None:
    real = root_plan._why_move

    def why_move(observed: Any, record: Any, spec: Any) -> str:
        cluster = observed.clusters.get(record.cluster)
        deaf = cluster is not None and cluster.liveness is not Liveness.LOST
        return "" if deaf else real(observed, record, spec)

    _put(root_plan, "_why_move", why_move)


def lost_clusters_are_never_noticed() -> None:
    _put(root_observe, "judge", lambda *_, **__: Liveness.LIVE)


def updates_reach_only_new_instances() -> None:
    real = moves._why_move

    def why_move(observed: Any, record: Any, spec: Any) -> str:
        why = real(observed, record, spec)
        return "" if why.startswith("updated") else why

    _put(moves, "_why_move", why_move)


def drained_workers_keep_what_they_have() -> None:
    real = moves._why_move

    def why_move(observed: Any, record: Any, spec: Any) -> str:
        why = real(observed, record, spec)
        return "" if why.endswith("drained") else why

    _put(moves, "_why_move", why_move)


def predecessors_stay_beside_their_successors() -> None:
    _put(cluster_plan, "finished", lambda *_: iter(()))


def what_ended_is_not_started_again() -> None:
    _put(worker_plan, "_after_end", lambda *_: None)


def namespaces_are_left_behind() -> None:
    real = worker_plan._clear_away

    def clear_away(observed: Any, number: int, *, known: bool) -> Any:
        step = real(observed, number, known=known)
        detaches = isinstance(step, worker_plan.Act) and step.kind is StepKind.DETACH
        return (worker_plan.Release(number) if known else None) if detaches else step

    _put(worker_plan, "_clear_away", clear_away)


def requests_are_answered_before_they_are_durable() -> None:
    async def commit(self: Any, *_: Any, **__: Any) -> None:
        self._wake()

    _put(operations.Operations, "_commit", commit)


def addresses_in_use_are_given_away() -> None:
    _put(root_state, "addresses_in_use", lambda _: iter(()))
    _put(root_addresses.AddressPool, "begin_at", lambda *_: None)


def workers_that_are_unknown_do_not_join_again() -> None:
    _put(worker_tier, "SILENT_S", 1e9)
    _put(worker_tier.Worker, "_beaten", lambda *_: None)


def the_latest_status_counts_not_the_truest() -> None:
    _put(root_plan, "_truer", lambda record, seen, cluster: seen)


def instances_in_other_clusters_get_no_routes() -> None:
    real = routes.Routes.__init__

    def init(self: Any, observed: Any, remote: Any, before: Any) -> None:
        real(self, observed, None, before)

    _put(routes.Routes, "__init__", init)


def routes_lead_to_one_instance_only() -> None:
    real = routes._service_routes

    def service_routes(spec: Any, backends: Sequence[Any]) -> list[Route]:
        return list(real(spec, tuple(backends[:1])))

    _put(routes, "_service_routes", service_routes)


def reports_count_from_one_again() -> None:
    real = worker_tier.Worker.__init__

    def init(self: Any, *ports: Any, **keys: Any) -> None:
        real(self, *ports, **keys)
        self._report_epoch = 1

    _put(worker_tier.Worker, "__init__", init)


def timeouts_use_the_wall_clock() -> None:
    real = cluster_tier.Cluster.__init__

    def init(self: Any, *ports: Any, **keys: Any) -> None:
        keys["clock"] = _WallClock(keys["clock"])
        real(self, *ports, **keys)

    _put(cluster_tier.Cluster, "__init__", init)


def subnets_that_workers_had_are_not_kept() -> None:
    _put(cluster_tier.Cluster, "_claimed", lambda *_: ())


def a_failed_step_is_repeated_at_once() -> None:
    _put(worker_tier, "wait_s", lambda *_, **__: 0.0)


def a_worker_calls_everything_ready() -> None:
    real = worker_plan._status

    def status(observed: Any, instance: Any) -> InstanceStatus:
        return replace(real(observed, instance), ready=True)

    _put(worker_plan, "_status", status)


def what_a_lost_cluster_had_is_set_aside_for_ever() -> None:
    _put(root_plan, "returned", lambda *_: iter(()))


def replacements_of_a_lost_cluster_always_stay() -> None:
    _put(root_reconcile, "who_stays", lambda *_, **__: (Stays.REPLACEMENT, "it is kept"))


def what_fails_on_a_worker_stays_there() -> None:
    _put(cluster_plan, "tried_elsewhere", lambda *_, **__: iter(()))


def what_fails_in_a_cluster_stays_there() -> None:
    _put(root_plan, "_tried_elsewhere", lambda *_, **__: iter(()))


def failures_are_not_reported() -> None:
    _put(worker_plan, "_failures", lambda *_: None)


def others_are_forgotten_with_roots_records() -> None:
    _put(cluster_execute, "with_former", lambda _, told: told)


def services_without_instances_are_not_claimed() -> None:
    real = claims.claims

    def only_instances(observed: Any) -> Any:
        return (claim for claim in real(observed) if claim.slots)

    _put(up, "claims", only_instances)


def a_late_claim_brings_back_what_was_removed() -> None:
    _put(rebuild_plan, "_removed", lambda *_: ())


def who_is_drained_is_lost_with_roots_records() -> None:
    _put(cluster_observe, "_former_availability", lambda _: "")


MUTATIONS: tuple[Break, ...] = (
    what_a_lost_cluster_had_is_set_aside_for_ever,
    replacements_of_a_lost_cluster_always_stay,
    lost_workers_are_never_noticed,
    tombstones_are_forgotten_at_once,
    tombstones_are_never_forgotten,
    earlier_attempts_are_not_withdrawn,
    a_moved_slot_is_left_where_it_was,
    nothing_is_reserved,
    what_is_withdrawn_frees_its_room_at_once,
    missed_sets_are_not_sent_again,
    absence_removes,
    what_runs_is_not_adopted_by_a_worker,
    what_runs_is_not_adopted_by_a_cluster,
    refusals_are_not_heard,
    lost_clusters_are_never_noticed,
    updates_reach_only_new_instances,
    drained_workers_keep_what_they_have,
    predecessors_stay_beside_their_successors,
    what_ended_is_not_started_again,
    namespaces_are_left_behind,
    requests_are_answered_before_they_are_durable,
    addresses_in_use_are_given_away,
    workers_that_are_unknown_do_not_join_again,
    the_latest_status_counts_not_the_truest,
    instances_in_other_clusters_get_no_routes,
    routes_lead_to_one_instance_only,
    reports_count_from_one_again,
    timeouts_use_the_wall_clock,
    subnets_that_workers_had_are_not_kept,
    a_failed_step_is_repeated_at_once,
    a_worker_calls_everything_ready,
    what_fails_on_a_worker_stays_there,
    what_fails_in_a_cluster_stays_there,
    failures_are_not_reported,
    others_are_forgotten_with_roots_records,
    services_without_instances_are_not_claimed,
    a_late_claim_brings_back_what_was_removed,
    who_is_drained_is_lost_with_roots_records,
)


SCRIPTED: Mapping[str, str] = {
    tombstones_are_forgotten_at_once.__name__: "drained-away",
    a_late_claim_brings_back_what_was_removed.__name__: "late-claim",
    who_is_drained_is_lost_with_roots_records.__name__: "root-lost",
}
"""Which script shows a bug: there the checkers, whose words begin with "!" in what it tells, notice it."""


@dataclass(frozen=True, slots=True)
class Hunted:
    """Whether a bug was noticed, by which seed or script, and what the checker said."""

    name: str
    by: str
    """Empty: nobody noticed."""
    said: str


def hunt(name: str) -> Hunted:
    """Play seeds with this bug until one is red. Breaks this very process: call it in one of its own."""
    next(mutation for mutation in MUTATIONS if mutation.__name__ == name)()
    if name in SCRIPTED:
        return _hunt_in_script(name, SCRIPTED[name])
    for seed in range(SEEDS_MAX):
        try:
            played = play(seed)
        except (Spinning, ExceptionGroup) as error:
            return Hunted(name, str(seed), repr(error)[:200])
        if played.wrong:
            return Hunted(name, str(seed), played.wrong[0].strip().splitlines()[-1])
    return Hunted(name, "", "nobody noticed")


def _hunt_in_script(name: str, script: str) -> Hunted:
    said: list[str] = []
    play_script((SCRIPTS / f"{script}.txt").read_text().splitlines(), said.append)
    wrong = [line for line in said if line.startswith("!")]
    return Hunted(name, script if wrong else "", wrong[-1] if wrong else "nobody noticed")


def break_everything() -> int:
    """Put every bug in at once, into this very process; return how many there are."""
    for mutation in MUTATIONS:
        mutation()
    return len(MUTATIONS)


def hunt_all(names: Sequence[str] = ()) -> list[Hunted]:
    """Hunt each bug in a process of its own."""
    chosen = [mutation.__name__ for mutation in MUTATIONS if not names or mutation.__name__ in names]
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(hunt, chosen))


class _WallClock:
    """Confuses the two clocks."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def uptime_s(self) -> float:
        return float(self._clock.wall_s())

    def wall_s(self) -> float:
        return float(self._clock.wall_s())


def _put(where: object, name: str, replacement: object) -> None:
    assert hasattr(where, name), f"there is no {name} any more"
    setattr(where, name, replacement)


if __name__ == "__main__":
    hunted = hunt_all(sys.argv[1:])
    for one in hunted:
        print(f"{one.name.replace('_', ' '):58} {one.by or '-':>10}  {one.said[:120]}")
    sys.exit(any(not one.by for one in hunted))
