"""Decide from the probes of one run of an instance whether it does its work. Pure: time is handed in.

Must not know: how a probe is made, or what becomes of an instance that is not healthy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from oakestra.model.service import HealthCheck, InstanceAddress
from oakestra.scheduling.backoff import FORGIVEN_AFTER_S

STARTING_INTERVAL_S = 1.0
"""While it starts, an instance is probed at least this often, so that it is of use as soon as it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """One run of an instance, whose health is to be watched."""

    number: int
    restart: int
    address: InstanceAddress
    """On this machine."""
    check: HealthCheck
    healthy: bool
    """As far as an earlier agent knew."""


class Verdict(Enum):
    """What a probe showed."""

    PASSED = "passed"
    FAILED = "failed"
    UNCLEAR = "unclear"
    """It says nothing about the instance: the prober itself could not do its work."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe showed, in a sentence for people that begins small and has no end mark."""

    verdict: Verdict
    detail: str = ""


class Health(Enum):
    """What is thought of a run."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one run of an instance has been doing."""

    health: Health
    since_s: float
    """By `uptime_s`, when it became so."""
    passed: int = 0
    """In a row, as far as it matters."""
    failed: int = 0
    reason: str = ""
    """Why it is not healthy; empty while nothing is known against it."""
    proven: bool = False
    """It was healthy for so long that its earlier crashes are forgotten."""

    @property
    def healthy(self) -> bool:
        return self.health is Health.HEALTHY


def begin(*, healthy: bool, now_s: float) -> Course:
    """Return how a run begins; one that an earlier agent found healthy is so until the contrary is shown."""
    return Course(health=Health.HEALTHY if healthy else Health.STARTING, since_s=now_s)


def after(course: Course, check: HealthCheck, probed: Probed, *, now_s: float) -> Course:
    """Return what is thought after one more probe."""
    match probed.verdict:
        case Verdict.PASSED:
            return _passed(course, check, now_s)
        case Verdict.FAILED:
            return _failed(course, check, probed.detail, now_s)
        case Verdict.UNCLEAR:
            if course.healthy or course.reason:
                return course
            return replace(course, reason=f"its health check could not be made: {probed.detail}")


def pause_s(course: Course, check: HealthCheck, *, now_s: float) -> float:
    """Return how long to wait until the next probe."""
    return min(check.interval_s, STARTING_INTERVAL_S) if _forgives(course, check, now_s) else check.interval_s


def gives_up_at_s(course: Course, check: HealthCheck) -> float | None:
    """Return when the run is not worth waiting for any more; None while it is, or when it always is."""
    if course.health is not Health.UNHEALTHY or check.restart_after_s is None:
        return None
    return course.since_s + check.restart_after_s


def _passed(course: Course, check: HealthCheck, now_s: float) -> Course:
    passed = min(course.passed + 1, check.healthy_threshold)
    course = replace(course, passed=passed, failed=0)
    if course.healthy or passed < check.healthy_threshold:
        return course
    return replace(course, health=Health.HEALTHY, since_s=now_s, reason="")


def _failed(course: Course, check: HealthCheck, detail: str, now_s: float) -> Course:
    failed = 0 if _forgives(course, check, now_s) else min(course.failed + 1, check.unhealthy_threshold)
    course = replace(course, passed=0, failed=failed)
    if course.health is Health.STARTING and not course.reason:
        course = replace(course, reason=f"its health check does not pass yet: {detail}")
    if course.health is Health.UNHEALTHY or failed < check.unhealthy_threshold:
        return course
    times = "once" if failed == 1 else f"{failed} times in a row"
    return replace(
        course,
        health=Health.UNHEALTHY,
        since_s=now_s,
        reason=f"its health check failed {times}: {detail}",
        proven=course.proven or (course.healthy and now_s - course.since_s >= FORGIVEN_AFTER_S),
    )


def _forgives(course: Course, check: HealthCheck, now_s: float) -> bool:
    return course.health is Health.STARTING and now_s - course.since_s < check.start_period_s
