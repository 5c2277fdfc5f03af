"""Choosing among candidates, and the sentences that explain it."""

from __future__ import annotations

import pytest

from oakestra.model.machine import Capacity
from oakestra.model.service import Constraint, ConstraintKind, PublishedPort, Resources
from oakestra.scheduling.backoff import LIMIT_S, delay_s, wait_s
from oakestra.scheduling.placement import FULL_SCAN_MAX, Choice, NoChoice, choose_cluster, choose_worker
from oakestra.scheduling.request import ClusterCandidate, Pool, Request, WorkerCandidate


def worker(
    name: str, *, memory_mib: int = 1000, vcpus: int = 8, siblings: int = 0, **more: object
) -> WorkerCandidate:
    resources = Resources(memory_mib=memory_mib, vcpus=vcpus)
    return WorkerCandidate(
        id=name,
        name=name,
        capacity=Capacity(resources=resources, architecture="amd64", virtualizations=("docker",)),
        free=resources,
        total=Resources(memory_mib=1000, vcpus=8),
        siblings=siblings,
        **more,  # type: ignore[arg-type]
    )


def test_the_worker_with_the_larger_free_share_wins() -> None:
    verdict = choose_worker(Request(), [worker("small", memory_mib=200), worker("large")])
    assert isinstance(verdict, Choice)
    assert verdict.id == "large"
    assert verdict.reason == "best of 2 workers that fit"


def test_copies_of_a_service_are_spread_before_anything_else() -> None:
    verdict = choose_worker(Request(), [worker("roomy", siblings=1), worker("tight", memory_mib=100)])
    assert isinstance(verdict, Choice)
    assert verdict.id == "tight"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_ties_do_not_depend_on_the_order_of_candidates(order: tuple[str, str]) -> None:
    verdict = choose_worker(Request(), [worker(name) for name in order])
    assert isinstance(verdict, Choice)
    assert verdict.id == "a"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(resources=Resources(memory_mib=2000)), "not enough memory: needs 2000 MiB, 1000 MiB free"),
        (Request(resources=Resources(vcpus=9)), "not enough vCPUs: needs 9, 8 free"),
        (Request(virtualization="unikernel"), "no runtime for 'unikernel' (has docker)"),
        (Request(architectures=("arm64",)), "architecture amd64, needs arm64"),
        (Request(csi_drivers=("nfs",)), "no CSI driver nfs"),
        (
            Request(ports=(PublishedPort(host_port=80, container_port=80),)),
            "port 80/tcp is published by another instance",
        ),
        (
            Request(constraints=(Constraint(kind=ConstraintKind.DIRECT, nodes=("x", "y")),)),
            "not the node asked for (x or y)",
        ),
        (
            Request(constraints=(Constraint(kind=ConstraintKind.ADDONS, needs=("FLOps-learner",)),)),
            "no addon FLOps-learner",
        ),
    ],
)
def test_every_refusal_is_a_sentence(request_: Request, why: str) -> None:
    verdict = choose_worker(request_, [worker("w", ports_taken=frozenset({("tcp", 80)}))])
    assert verdict == NoChoice(reason=f"1 worker: {why}", verdicts=verdict.verdicts)
    assert verdict.verdicts[0].refusal == why


def test_refusals_are_counted() -> None:
    verdict = choose_worker(
        Request(resources=Resources(memory_mib=1)),
        [worker("a", memory_mib=0), worker("b", memory_mib=0), worker("c", unusable="lost")],
    )
    assert verdict.reason == "1 worker: lost; 2 workers: not enough memory: needs 1 MiB, 0 MiB free"


def test_nobody_at_all() -> None:
    assert choose_worker(Request(), []).reason == "there is no worker"


def test_a_search_among_very_many_still_finds_the_only_one_that_fits() -> None:
    crowd = [worker(f"w{n:05}", memory_mib=0) for n in range(FULL_SCAN_MAX + 500)]
    crowd[7] = worker("w00007")
    verdict = choose_worker(Request(resources=Resources(memory_mib=1)), crowd, start=2000)
    assert isinstance(verdict, Choice)
    assert verdict.id == "w00007"


def cluster(name: str, *, refused: str = "", free: int = 1000) -> ClusterCandidate:
    resources = Resources(memory_mib=free, vcpus=8)
    pool = Pool(
        architecture="amd64",
        virtualization="docker",
        free=resources,
        total=Resources(memory_mib=1000, vcpus=8),
        largest_free=resources,
    )
    return ClusterCandidate(id=name, name=name, pools=(pool,), refused=refused)


def test_a_cluster_that_refused_is_not_asked_again_at_once() -> None:
    verdict = choose_cluster(Request(), [cluster("a", refused="no worker fits"), cluster("b", free=10)])
    assert isinstance(verdict, Choice)
    assert verdict.id == "b"


@pytest.mark.parametrize(
    "rule",
    [
        Constraint(kind=ConstraintKind.DIRECT, cluster="b"),
        Constraint(kind=ConstraintKind.CLUSTERS, allowed=("b", "c")),
    ],
)
def test_constraints_name_clusters(rule: Constraint) -> None:
    verdict = choose_cluster(Request(constraints=(rule,)), [cluster("a"), cluster("b", free=10)])
    assert isinstance(verdict, Choice)
    assert verdict.id == "b"


def test_the_first_crash_is_repaired_at_once_and_later_ones_ever_later() -> None:
    delays = [delay_s(n, salt="web.0") for n in range(1, 15)]
    assert delays[0] == 0.0
    assert 0.3 < delays[1] <= 0.5
    assert delays[:8] == sorted(delays[:8])  # beyond, all wait about a minute
    assert delays[-1] <= LIMIT_S
    assert delay_s(9, salt="web.0") != delay_s(9, salt="web.1")
    assert wait_s(1, salt="x") >= 0.3
