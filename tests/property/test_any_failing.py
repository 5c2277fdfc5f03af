"""Whoever cannot run what: an instance ends where it can run, never goes in circles, and never to no purpose."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from oakestra.cluster.decisions import Remember
from oakestra.model.ids import WorkerId
from oakestra.scheduling.elsewhere import AVOIDED_S, FAILED_MAX, patience_s
from town import Town, service

STEP_S = 50.0
LONG_S = 2 * 3600.0

shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.sets(st.integers(0, 5)))


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_what_can_run_somewhere_runs_in_the_end_and_what_cannot_moves_ever_less_often(
    shape: tuple[int, int, set[int]],
) -> None:
    """Goal: safety and liveness. Method: hours of a perfect world in which some workers make nothing."""
    workers, count, numbers = shape
    town = Town()
    ids = [town.worker(number, 1000) for number in range(workers)]
    town.unable.update(ids[number] for number in numbers if number < workers)
    town.want(service(), count)
    left_s: dict[tuple[int, WorkerId | None], float] = {}
    moved_s: defaultdict[int, list[float]] = defaultdict(list)
    while town.now_s < LONG_S:
        before = {number: town.place(number) for number in range(count)}
        for number in range(count) if _moved(town) else ():
            after = town.place(number)
            if before[number] in (None, after):
                continue
            assert town.now_s - left_s.get((number, after), -AVOIDED_S) >= AVOIDED_S
            left_s[number, before[number]] = town.now_s
            moved_s[number].append(town.now_s)
        town.wait(STEP_S)
    able = set(ids) - town.unable
    if able:
        assert town.revisions() == {0: count}
        assert {town.place(number) for number in range(count)} <= able
    for times in moved_s.values():
        between = [later - before for before, later in itertools.pairwise(times)]
        assert all(waited >= patience_s(1 + n) for n, waited in enumerate(between[: workers - 2])), between
        assert all(waited >= patience_s(min(workers, 16) - 1) for waited in between[workers:]), between
    assert all(len(record.failed) <= min(workers, FAILED_MAX) for record in town.state.slots.values())


def _moved(town: Town) -> bool:
    """Make a pass; tell whether it moved anything because that failed."""
    return any(isinstance(one, Remember) and one.failed.followed_by for one in town.step())
