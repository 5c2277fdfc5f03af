"""Health checks of real containers: asked over the real network and inside, by a worker on a machine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import oci_bench
from network_bench import Machine
from oakestra.control.clock import SystemClock
from oakestra.control.processes import arguments
from oakestra.model.container import ContainerSeen
from oakestra.model.instance import InstanceStatus, Phase
from oakestra.model.service import CheckKind, HealthCheck, Resources, ServiceSpec
from oakestra.network.linux import LinuxNetwork
from oakestra.worker.health.probes import MachineProber
from oci_bench import IMAGE, Bench, until
from one_worker import OneWorker, service

pytestmark = pytest.mark.root

PORT = 8080
WEB = "mkdir -p /tmp/www; echo well > /tmp/www/health; httpd -p 8080 -h /tmp/www; sleep 1000"
QUICK = {"interval_s": 0.1, "unhealthy_threshold": 2, "restart_after_s": 0.5}
HTTP = HealthCheck(kind=CheckKind.HTTP, port=PORT, path="/health", **QUICK)  # type: ignore[arg-type]
EXEC = HealthCheck(kind=CheckKind.EXEC, command=("test", "-e", "/tmp/www/health"), **QUICK)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A machine with a worker, real containers and a real network."""

    worker: OneWorker
    bench: Bench
    networks: list[LinuxNetwork] = field(default_factory=list)

    async def until_ready(self, spec: ServiceSpec, *, restart: int = 0) -> InstanceStatus:
        def ready() -> InstanceStatus | None:
            seen = self.worker.now.get(spec.id)
            return seen if seen is not None and seen.ready and seen.restart == restart else None

        found: InstanceStatus = await until(ready)
        return found

    async def container(self) -> ContainerSeen:
        (found,) = await self.bench.agent().observe()
        return found

    async def file(self, path: str) -> Path:
        """Return a file in the only container, as this machine sees it."""
        return Path(f"/proc/{(await self.container()).pid}/root{path}")

    def told(self) -> list[str]:
        return [status.reason for _, status in self.worker.statuses]


@pytest.fixture
def machine(need_program: Callable[[str, str], str]) -> Iterator[Machine]:
    for program, package in (("runc", "runc"), ("conmon", "conmon"), ("nft", "nftables"), ("ip", "iproute2")):
        need_program(program, package)
    made = Machine()
    yield made
    made.close()


def act(machine: Machine, story: Callable[[Scene], Awaitable[None]]) -> None:
    """Live a story on a machine; nothing of it is left afterwards."""

    async def live(bench: Bench) -> None:
        networks: list[LinuxNetwork] = []

        def network() -> LinuxNetwork:
            networks.append(LinuxNetwork(bench.worker, runtime_dir=bench.root / "run"))
            return networks[-1]

        async with asyncio.TaskGroup() as group:
            worker = OneWorker(
                runtime=bench.agent, network=network, prober=MachineProber, clock=SystemClock(), group=group
            )
            worker.start()
            try:
                await story(Scene(worker, bench))
            finally:
                await worker.kill()
                bench.close_agents()
                await networks[-1].remove()
                for each in networks:
                    each.close()
                worker.leave()

    with oci_bench.bench() as bench:
        for tool in ("httpd", "test"):
            (bench.root / "layer/bin" / tool).symlink_to("busybox")
        machine.live(live(bench))


def web(check: HealthCheck, script: str = WEB) -> ServiceSpec:
    command = ("sh", "-c", script)
    return service(1, image=IMAGE, command=command, health_check=check, resources=Resources(memory_mib=32))


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        (HTTP, "GET :8080/health answered 404"),
        (EXEC, "test ended with exit code 1"),
    ],
    ids=["http", "exec"],
)
def test_a_service_that_fails_its_check_is_not_ready_and_started_again(
    machine: Machine, check: HealthCheck, detail: str
) -> None:
    async def story(scene: Scene) -> None:
        spec = web(check)
        scene.worker.assign(spec)
        await scene.until_ready(spec)
        first = await scene.container()
        (await scene.file("/tmp/www/health")).unlink()
        await until(lambda: not scene.worker.now[spec.id].ready)
        failed = f"its health check failed 2 times in a row: {detail}"
        assert failed in scene.told()
        await scene.until_ready(spec, restart=1)
        assert f"its last run was ended because {failed}" in scene.told()
        assert (await scene.container()).pid != first.pid

    act(machine, story)


def test_a_service_is_ready_only_once_somebody_listens(machine: Machine) -> None:
    async def story(scene: Scene) -> None:
        check = HealthCheck(kind=CheckKind.TCP, port=PORT, interval_s=0.1)
        spec = web(check, f"while [ ! -e /tmp/begin ]; do sleep 0.02; done; {WEB}")
        scene.worker.assign(spec)
        waiting = "its health check does not pass yet: port 8080: connection refused"
        await until(lambda: waiting in scene.told())
        assert scene.worker.now[spec.id].phase is Phase.RUNNING
        assert not any(status.ready for _, status in scene.worker.statuses)
        (await scene.file("/tmp/begin")).touch()
        await scene.until_ready(spec)

    act(machine, story)


def test_a_new_agent_goes_on_routing_to_who_was_well(machine: Machine) -> None:
    """Although its check fails from then on: it becomes unready only by what the new agent sees."""

    async def story(scene: Scene) -> None:
        spec = web(HTTP)
        scene.worker.assign(spec)
        await scene.until_ready(spec)
        process = (await scene.container()).pid
        await scene.worker.kill()
        scene.bench.close_agents()
        before = len(scene.worker.statuses)
        scene.worker.statuses.append((0.0, InstanceStatus(key=scene.worker.now[spec.id].key)))
        scene.worker.start()
        await scene.until_ready(spec)
        assert (await scene.container()).pid == process
        assert [status.ready for _, status in scene.worker.statuses[before + 1 :]] == [True]

    act(machine, story)


def test_a_check_that_hangs_fails_and_is_left_behind_nowhere(machine: Machine) -> None:
    async def story(scene: Scene) -> None:
        hangs = HealthCheck(
            kind=CheckKind.EXEC, command=("sh", "-c", "sleep 999 & sleep 998"), interval_s=0.1, timeout_s=2.0,
            unhealthy_threshold=1, start_period_s=0.0, restart_after_s=None,
        )  # fmt: skip
        spec = web(hangs)
        scene.worker.assign(spec)
        said = "its health check failed once: sh did not end within 2 s and was killed"
        await until(lambda: said in scene.told())
        await scene.worker.kill()
        scene.bench.close_agents()
        alone = (await scene.container()).pid
        others = scene.bench.cgroups.pids(1) - {alone}
        assert not [line for line in map(arguments, others) if "sleep" in line and "1000" not in line]

    act(machine, story)
