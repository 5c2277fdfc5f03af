"""What is thought of an instance after its probes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oakestra.model.service import CheckKind, HealthCheck
from oakestra.scheduling.backoff import FORGIVEN_AFTER_S
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

PASSED, UNCLEAR = Probed(Verdict.PASSED), Probed(Verdict.UNCLEAR, "no sockets left")
CHECK = HealthCheck(
    kind=CheckKind.TCP, port=80, healthy_threshold=2, unhealthy_threshold=3, start_period_s=10.0
)


def failed(detail: str = "port 80: connection refused") -> Probed:
    return Probed(Verdict.FAILED, detail)


def go_through(course: Course, *story: tuple[float, Probed], check: HealthCheck = CHECK) -> Course:
    for now_s, probed in story:
        course = after(course, check, probed, now_s=now_s)
    return course


def test_it_is_healthy_after_so_many_passes_in_a_row() -> None:
    course = begin(healthy=False, now_s=0.0)
    assert course.health is Health.STARTING
    assert not go_through(course, (1.0, PASSED), (2.0, failed()), (3.0, PASSED)).healthy
    assert go_through(course, (1.0, PASSED), (2.0, failed()), (3.0, PASSED), (4.0, PASSED)) == Course(
        health=Health.HEALTHY, since_s=4.0, passed=2
    )


def test_failures_while_it_starts_do_not_count_but_are_told() -> None:
    course = go_through(
        begin(healthy=False, now_s=0.0), *[(float(n), failed(f"answer {n}")) for n in range(1, 10)]
    )
    assert course.health is Health.STARTING
    assert course.reason == "its health check does not pass yet: answer 1"


def test_after_its_start_period_it_is_unhealthy_like_any_other() -> None:
    course = go_through(begin(healthy=False, now_s=0.0), (9.0, failed()), (10.0, failed()), (11.0, failed()))
    assert course.health is Health.STARTING
    course = go_through(course, (12.0, failed("port 80: connection refused")))
    assert (course.health, course.since_s) == (Health.UNHEALTHY, 12.0)
    assert course.reason == "its health check failed 3 times in a row: port 80: connection refused"


def test_a_healthy_one_stays_so_until_enough_failures_in_a_row() -> None:
    course = begin(healthy=True, now_s=0.0)
    course = go_through(
        course, (1.0, failed()), (2.0, failed()), (3.0, PASSED), (4.0, failed()), (5.0, failed())
    )
    assert (course.healthy, course.reason) == (True, "")
    course = go_through(course, (6.0, failed()))
    assert course.health is Health.UNHEALTHY
    course = go_through(course, (7.0, PASSED), (8.0, PASSED))
    assert (course.healthy, course.since_s, course.reason) == (True, 8.0, "")


def test_what_a_prober_could_not_find_out_changes_nothing() -> None:
    course = go_through(begin(healthy=True, now_s=0.0), (1.0, failed()), (2.0, failed()))
    assert go_through(course, *[(float(n), UNCLEAR) for n in range(3, 100)]) == course
    starting = begin(healthy=False, now_s=0.0)
    told = replace(starting, reason="its health check could not be made: no sockets left")
    assert go_through(starting, (100.0, UNCLEAR), (200.0, UNCLEAR)) == told


def test_it_is_given_up_when_it_was_unhealthy_for_long() -> None:
    check = replace(CHECK, restart_after_s=30.0)
    course = go_through(
        begin(healthy=True, now_s=0.0), (1.0, failed()), (2.0, failed()), (3.0, failed()), (4.0, failed())
    )
    assert gives_up_at_s(course, check) == 33.0
    assert gives_up_at_s(course, replace(check, restart_after_s=None)) is None
    assert gives_up_at_s(go_through(course, (5.0, PASSED), (6.0, PASSED)), check) is None
    assert gives_up_at_s(begin(healthy=False, now_s=0.0), check) is None


@pytest.mark.parametrize(("for_s", "proven"), [(FORGIVEN_AFTER_S - 1, False), (FORGIVEN_AFTER_S, True)])
def test_only_one_that_was_healthy_for_long_has_its_crashes_forgiven(for_s: float, proven: bool) -> None:  # noqa: FBT001 - what is expected
    course = go_through(begin(healthy=True, now_s=0.0), *[(for_s, failed())] * 3)
    assert course.proven is proven
    again = go_through(course, (1000.0, PASSED), (1001.0, PASSED), *[(1002.0, failed())] * 3)
    assert again.proven is proven, "what it showed once stays shown in this run"


def test_it_is_probed_often_only_while_it_starts() -> None:
    check = replace(CHECK, interval_s=20.0)
    course = begin(healthy=False, now_s=0.0)
    assert pause_s(course, check, now_s=5.0) == 1.0
    assert pause_s(course, replace(check, interval_s=0.5), now_s=5.0) == 0.5
    assert pause_s(course, check, now_s=10.0) == 20.0
    assert pause_s(begin(healthy=True, now_s=0.0), check, now_s=5.0) == 20.0
