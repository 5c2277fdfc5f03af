"""What a worker makes of health: who is ready, who is routed to, who is started again. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import msgspec
import pytest

from oakestra.control.clock import LoopClock
from oakestra.model.instance import InstanceStatus, Phase
from oakestra.model.service import CheckKind, HealthCheck, RestartPolicy, ServiceSpec
from oakestra.network.fake import FakeKernel, FakeNetwork
from oakestra.runtime.fake import FakeHost, FakeRuntime
from oakestra.simulation import virtual_time
from oakestra.worker.desired import Desired
from oakestra.worker.fake import FakeProber
from oakestra.worker.health.course import Probed, Verdict
from oakestra.worker.plan import GiveUp, given_up
from one_worker import SERVICE_IP, OneWorker, service

FAILED = Probed(Verdict.FAILED, "port 80: connection refused")
CHECK = HealthCheck(
    kind=CheckKind.TCP,
    port=80,
    interval_s=5.0,
    unhealthy_threshold=3,
    start_period_s=30.0,
    restart_after_s=30.0,
)
CHECKED, UNCHECKED = service(1, health_check=CHECK), service(2)


@dataclass
class Scene:
    """A worker in virtual time, with everything a test may turn."""

    worker: OneWorker
    host: FakeHost
    kernel: FakeKernel
    prober: FakeProber = field(default_factory=FakeProber)

    def now(self, spec: ServiceSpec = CHECKED) -> InstanceStatus:
        return self.worker.now[spec.id]

    def routed(self) -> int:
        """Return to how many instances the service IP leads."""
        return len(self.kernel.leads_to(SERVICE_IP))

    async def another_agent(self) -> None:
        await self.worker.kill()
        self.worker.start()
        await asyncio.sleep(2.0)

    def kept(self) -> Desired:
        """Return what is on disk."""
        assert self.worker.cell.value is not None
        return msgspec.json.decode(self.worker.cell.value, type=Desired)


def act(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def live() -> None:
        host, kernel, clock, prober = FakeHost(), FakeKernel(), LoopClock(), FakeProber()
        async with asyncio.TaskGroup() as group:
            worker = OneWorker(
                runtime=lambda: FakeRuntime(host, clock=clock, random=Random(1)),
                network=lambda: FakeNetwork(kernel, random=Random(1)),
                prober=lambda _: prober,
                clock=clock,
                group=group,
            )
            worker.start()
            await story(Scene(worker, host, kernel, prober))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    virtual_time.run(live())


def test_only_who_passed_a_check_is_ready_and_who_has_none_is_at_once() -> None:
    async def story(scene: Scene) -> None:
        scene.prober.shown[1] = FAILED
        scene.worker.assign(CHECKED, UNCHECKED)
        await asyncio.sleep(5.0)
        assert scene.now(UNCHECKED).ready
        assert (scene.now().phase, scene.now().ready) == (Phase.RUNNING, False)
        assert scene.now().reason == "its health check does not pass yet: port 80: connection refused"
        assert scene.routed() == 1
        scene.prober.shown.clear()
        await asyncio.sleep(1.5)
        assert (scene.now().ready, scene.now().reason) == (True, "")
        assert scene.routed() == 2
        assert set(scene.prober.asked) == {1}

    act(story)


def test_an_unhealthy_one_is_not_routed_to_at_once_and_started_again_later() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED, UNCHECKED)
        await asyncio.sleep(400.0)
        assert scene.routed() == 2
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(16.0)
        assert (scene.now().phase, scene.now().ready, scene.now().restart) == (Phase.RUNNING, False, 0)
        assert scene.now().reason == "its health check failed 3 times in a row: port 80: connection refused"
        assert scene.routed() == 1, "the cluster has not said so yet, but here it is known"
        await asyncio.sleep(30.0)
        assert scene.now().restart == 1
        assert (
            "its last run was ended because its health check failed 3 times in a row: port 80: connection refused"
            in [status.reason for _, status in scene.worker.statuses if status.restart == 1]
        )
        assert scene.kept().instances[0].crashes == 1, "it had been well for long"
        scene.prober.shown.clear()
        await asyncio.sleep(2.0)
        assert (scene.now().ready, scene.now().restart) == (True, 1)
        assert scene.host.starts == 3

    act(story)


def test_one_that_recovers_in_time_is_routed_to_again() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(30.0)
        assert scene.routed() == 0
        scene.prober.shown.clear()
        await asyncio.sleep(6.0)
        assert (scene.now().ready, scene.now().restart, scene.routed()) == (True, 0, 1)

    act(story)


def test_one_that_never_gets_well_is_started_again_ever_later() -> None:
    """Each run takes 30 s to start, 3 failures, 30 s of patience; then comes a growing back-off."""

    async def story(scene: Scene) -> None:
        scene.prober.shown[1] = FAILED
        scene.worker.assign(CHECKED)
        await asyncio.sleep(3600.0)
        assert scene.kept().instances[0].crashes == scene.now().restart
        begun: dict[int, float] = {}
        for at_s, status in scene.worker.statuses:
            begun.setdefault(status.restart, at_s)
        gaps = [later - earlier for earlier, later in pairwise(begun.values())]
        assert min(gaps) > 60
        assert max(gaps) > 110, "the back-off came to its limit"
        assert not any(status.ready for _, status in scene.worker.statuses)
        assert any("will be started again" in status.reason for _, status in scene.worker.statuses)

    act(story)


@pytest.mark.parametrize(
    ("policy", "phase"), [(RestartPolicy.NEVER, Phase.FAILED), (RestartPolicy.ON_FAILURE, Phase.RUNNING)]
)
def test_the_restart_policy_counts_for_health_too(policy: RestartPolicy, phase: Phase) -> None:
    """Even when the process, asked to end, ends with exit code 0: it was ended because it failed."""

    async def story(scene: Scene) -> None:
        spec = service(1, health_check=CHECK, restart=policy)
        scene.worker.assign(spec)
        await asyncio.sleep(10.0)
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(55.0)
        assert scene.now().phase is phase
        assert scene.now().restart == (0 if policy is RestartPolicy.NEVER else 1)
        if phase is Phase.FAILED:
            assert scene.now().reason.startswith("was ended because its health check failed 3 times")
            assert scene.host.containers == {}

    act(story)


def test_a_check_may_say_that_nothing_is_started_again_for_it() -> None:
    async def story(scene: Scene) -> None:
        spec = service(1, health_check=replace(CHECK, restart_after_s=None))
        scene.worker.assign(spec)
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(3600.0)
        assert (scene.now().phase, scene.now().ready, scene.now().restart) == (Phase.RUNNING, False, 0)

    act(story)


def test_a_new_agent_goes_on_routing_to_who_was_well() -> None:
    """It becomes unready only when the new agent saw it fail as often as it takes."""

    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        scene.prober.shown[1] = FAILED
        before = len(scene.worker.statuses)
        await scene.another_agent()
        assert [status.ready for _, status in scene.worker.statuses[before:]] in ([], [True])
        assert scene.routed() == 1
        await asyncio.sleep(15.0)
        assert not scene.now().ready

    act(story)


def test_a_new_agent_does_not_route_to_who_was_not_well() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(20.0)
        before = len(scene.worker.statuses)
        await scene.another_agent()
        assert not any(status.ready for _, status in scene.worker.statuses[before:])
        assert scene.routed() == 0

    act(story)


def test_a_new_agent_finishes_ending_what_was_given_up() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        await scene.worker.kill()
        (instance,) = scene.kept().instances
        step = GiveUp(number=1, crashes=1, reason="was ended because it was not well")
        given_up_then = replace(scene.kept(), instances=(given_up(instance, step),))
        scene.worker.cell.value = msgspec.json.encode(given_up_then)
        scene.worker.start()
        await asyncio.sleep(5.0)
        assert (scene.now().ready, scene.now().restart) == (True, 1)
        assert "its last run was ended because it was not well" in [
            status.reason for _, status in scene.worker.statuses
        ]

    act(story)


def test_an_agent_that_lost_its_file_goes_on_routing_to_what_runs() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        await scene.worker.kill()
        scene.worker.cell.value = None
        scene.prober.lasts_s = 1000.0
        before = len(scene.worker.statuses)
        scene.worker.start()
        await asyncio.sleep(10.0)
        assert all(status.ready for _, status in scene.worker.statuses[before:])
        assert scene.now().ready

    act(story)


def test_a_container_that_is_made_anew_has_to_show_that_it_is_well() -> None:
    """Its agent died, and somebody removed the container: what it was once found to be means nothing now."""

    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        await scene.worker.kill()
        scene.host.containers.clear()
        scene.prober.shown[1] = FAILED
        before = len(scene.worker.statuses)
        scene.worker.start()
        await asyncio.sleep(10.0)
        assert scene.now().phase is Phase.RUNNING
        assert not any(status.ready for _, status in scene.worker.statuses[before:])

    act(story)


def test_health_counts_although_the_disk_is_full() -> None:
    async def story(scene: Scene) -> None:
        scene.worker.assign(CHECKED)
        await asyncio.sleep(10.0)
        scene.worker.cell.full = True
        scene.prober.shown[1] = FAILED
        await asyncio.sleep(20.0)
        assert (scene.now().ready, scene.routed()) == (False, 0)
        scene.worker.cell.full = False
        await asyncio.sleep(60.0)
        assert scene.now().restart == 1

    act(story)


def test_a_prober_that_hangs_holds_nothing_up() -> None:
    async def story(scene: Scene) -> None:
        scene.prober.lasts_s = 10_000.0
        scene.worker.assign(*[service(n, health_check=CHECK) for n in range(1, 40)], service(50))
        await asyncio.sleep(20.0)
        assert scene.now(service(50)).ready
        assert len(scene.prober.asked) < 20
        scene.worker.assign(service(51))
        await asyncio.sleep(5.0)
        assert scene.now(service(51)).ready

    act(story)


def test_what_is_attached_has_its_addresses_although_it_never_runs() -> None:
    async def story(scene: Scene) -> None:
        scene.host.unmakeable[UNCHECKED.image] = "no device"
        scene.worker.assign(UNCHECKED)
        await asyncio.sleep(5.0)
        assert scene.now(UNCHECKED).phase is Phase.ATTACHED
        assert [source.instance for source in scene.kernel.overlay.sources]

    act(story)
