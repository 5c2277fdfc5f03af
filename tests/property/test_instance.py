"""Merging statuses gives the same answer whatever the network did to the reports."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, merge, order

small = st.integers(0, 2)
statuses = st.builds(
    InstanceStatus,
    key=st.builds(InstanceKey, st.just(ServiceId("s")), st.just(0), small, small),
    incarnation=small,
    restart=small,
    phase=st.sampled_from(Phase),
    sequence=small,
)


@given(statuses, statuses, statuses)
def test_merge_is_associative_and_commutative_in_what_counts(
    a: InstanceStatus, b: InstanceStatus, c: InstanceStatus
) -> None:
    assert order(merge(a, merge(b, c))) == order(merge(merge(a, b), c)) == order(merge(c, merge(b, a)))


@given(statuses)
def test_merge_is_idempotent(a: InstanceStatus) -> None:
    assert merge(a, a) == a


@given(st.lists(statuses, min_size=1), st.randoms())
def test_any_order_with_repeats_ends_the_same(reports: list[InstanceStatus], random: object) -> None:
    shuffled = [*reports, *reports]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = reports[0], shuffled[0]
    for report in reports[1:]:
        first = merge(first, report)
    for report in shuffled[1:]:
        second = merge(second, report)
    assert order(first) == order(second)
