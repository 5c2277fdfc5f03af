"""What would help is the least of it, on the candidate that lacks least, and every rule has a remedy."""

from __future__ import annotations

import pytest

from oakestra.model.machine import Capacity
from oakestra.model.service import Constraint, ConstraintKind, PublishedPort, Resources
from oakestra.scheduling.filters import CLUSTER_FILTERS, WORKER_FILTERS
from oakestra.scheduling.remedies import (
    CLUSTER_REMEDIES,
    WORKER_REMEDIES,
    cluster_remedy,
    worker_remedy,
)
from oakestra.scheduling.request import ClusterCandidate, Pool, Request, WorkerCandidate

SMALL, LARGE = Resources(memory_mib=100, vcpus=4), Resources(memory_mib=900, vcpus=4)


def worker(name: str, free: Resources = LARGE, **keys: object) -> WorkerCandidate:
    capacity = Capacity(resources=LARGE, virtualizations=("docker",), architecture="amd64")
    return WorkerCandidate(id=name, name=name, capacity=capacity, free=free, total=LARGE, **keys)  # type: ignore[arg-type]


def cluster(name: str, largest: Resources = LARGE, **keys: object) -> ClusterCandidate:
    pool = Pool(
        architecture="amd64", virtualization="docker", free=largest, total=LARGE, largest_free=largest
    )
    return ClusterCandidate(id=name, name=name, **{"pools": (pool,), **keys})  # type: ignore[arg-type]


def test_every_rule_has_a_remedy() -> None:
    assert WORKER_REMEDIES.keys() == {rule for rule, _ in WORKER_FILTERS}
    assert CLUSTER_REMEDIES.keys() == set(CLUSTER_FILTERS)


def test_nothing_is_said_where_something_fits_or_nobody_is_there() -> None:
    assert worker_remedy(Request(), [worker("w1"), worker("w2", unusable="lost")]) == ""
    assert worker_remedy(Request(), []) == ""
    assert cluster_remedy(Request(), [cluster("c1")]) == ""


def test_the_least_memory_is_taken_away() -> None:
    request = Request(resources=Resources(memory_mib=400))
    found = worker_remedy(request, [worker("w1", SMALL), worker("w2", Resources(memory_mib=300))])
    assert found == "ask for 100 MiB less memory (300 MiB instead of 400 MiB), or free as much on worker w2"


def test_a_word_is_less_than_a_change() -> None:
    request = Request(resources=Resources(memory_mib=400))
    assert worker_remedy(request, [worker("w1", SMALL), worker("w2", unusable="cordoned")]) == (
        "let w2 take instances again: oak worker uncordon w2"
    )


def test_one_thing_is_less_than_two() -> None:
    request = Request(
        resources=Resources(memory_mib=400), ports=(PublishedPort(host_port=80, container_port=80),)
    )
    taken = frozenset({("tcp", 80)})
    found = worker_remedy(request, [worker("w1", SMALL, ports_taken=taken), worker("w2", ports_taken=taken)])
    assert found == "publish another port than 80, or remove what publishes it on worker w2"
    found = worker_remedy(request, [worker("w1", SMALL, ports_taken=taken)])
    assert "less memory" in found
    assert ", and publish another port" in found


@pytest.mark.parametrize(
    ("request_", "candidate", "said"),
    [
        (Request(virtualization="unikernel"), worker("w1"), "a runtime for 'unikernel'"),
        (Request(architectures=("arm64",)), worker("w1"), "build the image for amd64"),
        (Request(csi_drivers=("nfs",)), worker("w1"), "the CSI driver nfs"),
        (Request(), worker("w1", unusable="lost"), "bring worker w1 back"),
        (
            Request(constraints=(Constraint(kind=ConstraintKind.DIRECT, nodes=("w9",)),)),
            worker("w1"),
            "name worker w1",
        ),
        (
            Request(constraints=(Constraint(kind=ConstraintKind.ADDONS, needs=("gpu",)),)),
            worker("w1"),
            "the addon gpu",
        ),
    ],
)
def test_what_is_missing_is_named(request_: Request, candidate: WorkerCandidate, said: str) -> None:
    assert said in worker_remedy(request_, [candidate])


def test_clusters_are_known_by_their_largest_pieces() -> None:
    request = Request(resources=Resources(memory_mib=400))
    assert cluster_remedy(request, [cluster("c1", SMALL), cluster("c2", unusable="draining")]) == (
        "let c2 take instances again: oak cluster uncordon c2"
    )
    assert "300 MiB less memory (100 MiB instead of 400 MiB)" in cluster_remedy(
        request, [cluster("c1", SMALL), cluster("c2", pools=())]
    )
    only = Request(constraints=(Constraint(kind=ConstraintKind.CLUSTERS, allowed=("c9",)),))
    assert "name cluster c1" in cluster_remedy(only, [cluster("c1")])
