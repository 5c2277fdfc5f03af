"""What a cluster does about workers that are out of reach is what the service's SLA says."""

from __future__ import annotations

from oakestra.cluster.render import cluster_report
from oakestra.model.ids import WorkerId
from oakestra.model.service import DisconnectPolicy
from oakestra.wire.native import Version
from town import SERVICE, Town, service

LOST_S = 11.0
"""In this town a worker is lost after ten seconds."""


def cut_off(policy: DisconnectPolicy) -> tuple[Town, WorkerId]:
    """Return a town whose only instance is on a worker that just fell silent."""
    town = Town()
    workers = [town.worker(number, 1000) for number in range(2)]
    town.want(service(disconnect=policy), 1)
    town.rest()
    (home,) = (worker for worker in workers if town.runs[worker])
    town.away.add(home)
    return town, home


def later(town: Town, seconds: float) -> None:
    """Let time pass; everybody else goes on saying something."""
    town.now_s += seconds
    for worker in town.runs:
        if worker not in town.away:
            town.state.view(worker).last_seen_s = town.now_s
    for _ in range(10):
        town.step()


def elsewhere(town: Town, home: WorkerId) -> bool:
    return any(runs for worker, runs in town.runs.items() if worker != home)


def test_it_is_replaced_as_soon_as_its_worker_is_lost() -> None:
    town, home = cut_off(DisconnectPolicy())
    later(town, LOST_S - 2)
    assert not elsewhere(town, home)
    later(town, 2)
    assert elsewhere(town, home)
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
