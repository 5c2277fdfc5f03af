"""Every cluster has worker subnets of its own, and more of them before they run out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.address import SUBNETS_MAX
from oakestra.root.addresses import SUBNETS_LEASED, Lease, around, first_lease, grown


def indexes(lease: Lease) -> set[int]:
    first, count = lease
    return set(range(first, first + count))


def test_five_clusters_may_have_a_thousand_workers_each() -> None:
    leases: list[Lease] = []
    for _ in range(5):
        lease = first_lease(leases, None)
        assert lease is not None
        leases.append(lease)
    for lease in leases:
        others = [other for other in leases if other != lease]
        assert grown(lease, others, used=1000)[1] >= 1000


def test_a_cluster_keeps_what_it_had_when_root_forgot_it() -> None:
    assert first_lease([(0, 64)], (4096, 256)) == (4096, 256)
    assert first_lease([(4160, 64)], (4096, 256)) != (4096, 256), "somebody else has some of it"


def test_a_cluster_that_forgot_what_it_had_gets_what_its_workers_have() -> None:
    """Found by seed 2354: root and a cluster lost their records together, and two workers got one subnet."""
    others = [(128, 64), (8192, 64)]
    assert around({4097, 4170}, (0, 64), others) == (4096, 128)
    assert around({4097, 3}, (0, 64), others) == (0, 64), "it has some of its own"
    assert around({140}, (0, 64), others) == (0, 64), "somebody else has some of it"
    assert around((), (0, 64), others) == (0, 64)


def test_nothing_is_given_when_nothing_is_left() -> None:
    assert first_lease([(0, SUBNETS_MAX)], None) is None


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40))
def test_no_subnet_is_leased_twice(used: list[int]) -> None:
    leases: list[Lease] = []
    for wanted in used:
        lease = first_lease(leases, None)
        if lease is None:
            continue
        assert lease[1] == SUBNETS_LEASED
        leases.append(grown(lease, leases, used=wanted))
        assert leases[-1][1] >= SUBNETS_LEASED
    taken = [index for lease in leases for index in indexes(lease)]
    assert len(taken) == len(set(taken))
    assert max(taken) < SUBNETS_MAX
