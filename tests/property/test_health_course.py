"""Whatever probes show, health follows the thresholds and cannot flap faster than they allow."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.service import CheckKind, HealthCheck
from oakestra.worker.health.course import (
    Course,
    Health,
    Probed,
    Verdict,
    after,
    begin,
    gives_up_at_s,
    pause_s,
)

checks = st.builds(
    HealthCheck,
    kind=st.just(CheckKind.TCP),
    port=st.just(80),
    interval_s=st.floats(0.1, 30),
    start_period_s=st.sampled_from([0.0, 5.0, 60.0]),
    healthy_threshold=st.integers(1, 4),
    unhealthy_threshold=st.integers(1, 4),
    restart_after_s=st.none() | st.floats(0, 60),
)
verdicts = st.lists(st.sampled_from(Verdict), max_size=60)


def courses(check: HealthCheck, verdicts: list[Verdict], *, healthy: bool) -> list[tuple[float, Course]]:
    """Return what was thought at the beginning and after each probe, with the time."""
    now_s = 0.0
    found = [(now_s, begin(healthy=healthy, now_s=now_s))]
    for verdict in verdicts:
        now_s += pause_s(found[-1][1], check, now_s=now_s)
        found.append((now_s, after(found[-1][1], check, Probed(verdict, "x"), now_s=now_s)))
    return found


@given(checks, verdicts, st.booleans())
def test_health_follows_the_last_probes(check: HealthCheck, shown: list[Verdict], healthy: bool) -> None:  # noqa: FBT001 - drawn
    """Never healthy when the last so many probes that said anything failed; never unhealthy when as many passed."""
    for length, (_, course) in enumerate(courses(check, shown, healthy=healthy)):
        clear = [verdict for verdict in shown[:length] if verdict is not Verdict.UNCLEAR]
        if clear[-check.unhealthy_threshold :] == [Verdict.FAILED] * check.unhealthy_threshold:
            assert not course.healthy
        if clear[-check.healthy_threshold :] == [Verdict.PASSED] * check.healthy_threshold:
            assert course.healthy
        assert (course.reason == "") or not course.healthy
        assert course.reason or course.health is not Health.UNHEALTHY


@given(checks, verdicts, st.booleans())
def test_flapping_is_bounded(check: HealthCheck, shown: list[Verdict], healthy: bool) -> None:  # noqa: FBT001 - drawn
    """Between becoming healthy and ceasing to be lie as many probes as the threshold says, and the other way round."""
    found = courses(check, shown, healthy=healthy)
    turns = [n for n, (before, now) in enumerate(pairwise(found), 1) if before[1].healthy != now[1].healthy]
    for begun, ended in pairwise(turns):
        was_healthy = found[begun][1].healthy
        assert ended - begun >= (check.unhealthy_threshold if was_healthy else check.healthy_threshold)


@given(checks, verdicts, st.booleans())
def test_nothing_is_given_up_but_for_failures(
    check: HealthCheck,
    shown: list[Verdict],
    healthy: bool,  # noqa: FBT001 - drawn
) -> None:
    for length, (now_s, course) in enumerate(courses(check, shown, healthy=healthy)):
        at_s = gives_up_at_s(course, check)
        if at_s is not None:
            assert shown[:length].count(Verdict.FAILED) >= check.unhealthy_threshold
            assert at_s >= course.since_s
            starting = not healthy and Verdict.PASSED not in shown[:length]
            assert now_s >= check.start_period_s or not starting


@given(checks, st.integers(0, 5))
def test_one_that_never_passes_is_unhealthy_in_bounded_time(check: HealthCheck, more: int) -> None:
    count = int(check.start_period_s / min(check.interval_s, 1.0)) + 2 + check.unhealthy_threshold + more
    assert courses(check, [Verdict.FAILED] * count, healthy=False)[-1][1].health is Health.UNHEALTHY
