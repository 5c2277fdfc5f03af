"""Probes are made beside the passes, a few at a time, and only news wakes the worker. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from oakestra.control.clock import LoopClock
from oakestra.model.service import CheckKind, HealthCheck, InstanceAddress
from oakestra.simulation import virtual_time
from oakestra.worker.fake import FakeProber
from oakestra.worker.health.course import Course, Health, Patient, Probed, Verdict
from oakestra.worker.health.watch import PROBES_MAX, STALLED_S, HealthWatch

CHECK = HealthCheck(kind=CheckKind.TCP, port=80, interval_s=5.0, timeout_s=2.0, start_period_s=20.0)
FAILED = Probed(Verdict.FAILED, "port 80: connection refused")


@dataclass
class Bench:
    """A watch, its prober, and how often it asked for a pass."""

    prober: FakeProber = field(default_factory=FakeProber)
    wakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = LoopClock()
        self.watch = HealthWatch(
            self.prober, clock=self.clock, wake=lambda: self.wakes.append(self.clock.uptime_s())
        )

    def look(self, *patients: Patient, network_trouble: str = "") -> Mapping[int, Course]:
        return self.watch.look(
            {patient.number: patient for patient in patients}, network_trouble=network_trouble
        )


def patient(
    number: int = 1, *, check: HealthCheck = CHECK, restart: int = 0, healthy: bool = False
) -> Patient:
    return Patient(
        number=number, restart=restart, address=InstanceAddress(v4="10.18.0.2"), check=check, healthy=healthy
    )


def watched(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def live() -> None:
        bench = Bench()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(bench.watch.run())
            await asyncio.sleep(0)
            await story(bench)
            running.cancel()

    virtual_time.run(live())


def test_a_new_run_is_probed_at_once_and_often_until_it_is_healthy() -> None:
    async def story(bench: Bench) -> None:
        bench.prober.shown[1] = FAILED
        assert bench.look(patient())[1].health is Health.STARTING
        await asyncio.sleep(3.5)
        assert len(bench.prober.asked) == 4
        del bench.prober.shown[1]
        await asyncio.sleep(1.0)
        assert bench.look(patient())[1].healthy
        asked = len(bench.prober.asked)
        await asyncio.sleep(10.0)
        assert len(bench.prober.asked) == asked + 2

    watched(story)


def test_only_news_wakes_the_worker() -> None:
    async def story(bench: Bench) -> None:
        bench.look(patient())
        await asyncio.sleep(101.0)
        bench.prober.shown[1] = FAILED
        await asyncio.sleep(100.0)
        assert bench.look(patient())[1].health is Health.UNHEALTHY
        assert bench.wakes == [0.0, 115.0], "healthy at its first probe, unhealthy at its third failure"

    watched(story)


def test_another_run_begins_anew_and_what_was_asked_before_does_not_count() -> None:
    async def story(bench: Bench) -> None:
        bench.prober.lasts_s = 1.0
        bench.look(patient())
        await asyncio.sleep(0.5)
        bench.prober.shown[1] = FAILED
        assert bench.look(patient(restart=1))[1].health is Health.STARTING
        await asyncio.sleep(0.6)
        assert bench.look(patient(restart=1))[1].health is Health.STARTING, "the first run's probe passed"
        assert bench.look() == {}
        await asyncio.sleep(5.0)
        asked = len(bench.prober.asked)
        await asyncio.sleep(50.0)
        assert len(bench.prober.asked) == asked, "nobody is asked who is not there any more"

    watched(story)


def test_a_changed_check_is_used_from_the_next_probe_on() -> None:
    async def story(bench: Bench) -> None:
        bench.look(patient(healthy=True))
        await asyncio.sleep(1.0)
        bench.prober.shown[1] = FAILED
        bench.look(patient(check=replace(CHECK, unhealthy_threshold=1)))
        await asyncio.sleep(5.0)
        assert not bench.look(patient(check=replace(CHECK, unhealthy_threshold=1)))[1].healthy

    watched(story)


def test_so_many_probes_at_once() -> None:
    async def story(bench: Bench) -> None:
        bench.prober.lasts_s = 1.0
        everybody = [patient(number) for number in range(1, 257)]
        bench.look(*everybody)
        await asyncio.sleep(0.5)
        assert len(bench.prober.asked) == PROBES_MAX
        await asyncio.sleep(256 / PROBES_MAX)
        assert set(bench.prober.asked) == set(range(1, 257))
        assert all(course.healthy for course in bench.look(*everybody).values())

    watched(story)


def test_failures_of_our_own_network_are_not_the_instances() -> None:
    async def story(bench: Bench) -> None:
        inside = patient(2, check=replace(CHECK, kind=CheckKind.EXEC, command=("true",)), healthy=True)
        both = (patient(healthy=True), inside)
        bench.prober.shown |= {1: FAILED, 2: FAILED}
        bench.look(*both, network_trouble="nft says no")
        await asyncio.sleep(100.0)
        found = bench.look(*both, network_trouble="")
        assert found[1].healthy
        assert not found[2].healthy, "a command inside needs no network"
        await asyncio.sleep(100.0)
        assert not bench.look(*both)[1].healthy

    watched(story)


def test_a_probe_that_comes_back_far_too_late_says_nothing() -> None:
    async def story(bench: Bench) -> None:
        bench.prober.shown[1] = FAILED
        bench.prober.lasts_s = CHECK.timeout_s + STALLED_S + 0.1
        bench.look(patient(healthy=True))
        await asyncio.sleep(100.0)
        assert bench.look(patient())[1].healthy
        bench.prober.lasts_s = CHECK.timeout_s
        await asyncio.sleep(100.0)
        assert not bench.look(patient())[1].healthy

    watched(story)


def test_without_a_prober_nothing_is_healthy_and_nothing_is_given_up() -> None:
    async def story(bench: Bench) -> None:
        watch = HealthWatch(None, clock=bench.clock, wake=lambda: None)
        watch.look({1: patient()}, network_trouble="")
        running = asyncio.ensure_future(watch.run())
        await asyncio.sleep(1000.0)
        course = watch.look({1: patient()}, network_trouble="")[1]
        assert course.health is Health.STARTING
        assert course.reason == "its health check could not be made: nobody on this worker makes them"
        running.cancel()

    watched(story)
