"""A root with an API on loopback, served by a thread, for clients that speak HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from oakestra.model.ids import ClusterId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.machine import Capacity, InstanceUsage, MachineUsage
from oakestra.model.service import InstanceAddress, Resources
from oakestra.root.state import ClusterRecord, ClusterView, slot_key
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.transport.http_listener import listen, serve
from oakestra.transport.http_server import application
from oakestra.wire.native import ClusterReport, Version, WorkerSummary
from root_api import RootApi, start_api

CLUSTER, WORKER = ClusterId("c" * 24), WorkerId("d" * 24)
STARTED_WITHIN_S = 60.0

PUBLISHED_PORT = 10000
"""Published clients know no other."""

T = TypeVar("T")


def own_loopback_address() -> str:
    """Return an address of this machine at which no other process tests."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255 or 1}"


@dataclass
class ServedRoot:
    """A root that answers at `url`; its state may be changed from the test's thread with `do`."""

    api: RootApi
    host: str
    url: str
    loop: asyncio.AbstractEventLoop

    def do(self, story: Callable[[RootApi], T]) -> T:
        """Change the state in the root's own thread."""

        async def run() -> T:
            return story(self.api)

        return self.wait_for(run())

    def wait_for(self, work: Awaitable[T]) -> T:
        """Run something in the root's own thread."""

        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(STARTED_WITHIN_S)


@contextmanager
def served_root(
    tmp_path: Path, *, host: str = "127.0.0.1", port: int = 0, password: str = "secret"
) -> Iterator[ServedRoot]:
    """Serve a root until the block ends; `password` is Admin's."""
    listener = listen(host, port)
    port = listener.getsockname()[1]
    started = threading.Event()
    box: dict[str, Any] = {}

    async def run() -> None:
        api = await start_api(tmp_path, password=password)
        serving = asyncio.ensure_future(serve(application(api.endpoints), listener))
        box.update(api=api, loop=asyncio.get_running_loop(), stop=serving.cancel)
        started.set()
        with suppress(asyncio.CancelledError):
            await serving

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(STARTED_WITHIN_S)
    try:
        yield ServedRoot(api=box["api"], host=host, url=f"http://{host}:{port}", loop=box["loop"])
    finally:
        box["loop"].call_soon_threadsafe(box["stop"])
        thread.join()


def let_cluster_join(api: RootApi) -> None:
    """Put a live cluster with one worker into the state, as joining and reporting would."""
    worker = WorkerSummary(
        id=WORKER, name="w1", host="192.0.2.8", live=True, instances=1,
        capacity=Capacity(
            resources=Resources(memory_mib=2048, vcpus=4, storage_mib=10240), architecture="amd64",
            virtualizations=("docker",),
        ),
        free=Resources(memory_mib=1536, vcpus=3, storage_mib=9216),
    )  # fmt: skip
    report = ClusterReport(version=Version(), applied=Version(), complete=True, workers=(worker,))
    api.state.clusters.put(
        CLUSTER, ClusterRecord(id=CLUSTER, name="east", key="k", location="48.1,11.5,1000", host="192.0.2.7")
    )
    api.state.views[CLUSTER] = ClusterView(
        last_seen_s=api.clock.uptime_s(), last_seen_wall_s=5.0, report=report, cpu_ratio=0.5,
        machines={WORKER: MachineUsage(cpu_ratio=0.25, memory_ratio=0.5, disk_ratio=0.1)},
    )  # fmt: skip


def let_run(
    api: RootApi, service: str, number: int = 0, *, phase: Phase = Phase.RUNNING, reason: str = ""
) -> None:
    """Put an instance on the worker, as placing and reporting would."""
    key = slot_key(Slot(api.state.services[service].spec.id, number))
    record = api.state.slots[key]
    instance = InstanceKey(record.slot.service, number, 1, 1)
    status = InstanceStatus(
        key=instance, phase=phase, ready=phase is Phase.RUNNING, worker=WORKER, reason=reason,
        namespace=InstanceAddress(v4="10.18.0.2"),
    )  # fmt: skip
    verdicts = (CandidateVerdict(name="east", score=0.75), CandidateVerdict(name="west", refusal="lost"))
    placed = replace(
        record, cluster=CLUSTER, placement=1, status=status, verdicts=verdicts,
        reason="east: the only cluster that fits",
    )  # fmt: skip
    api.state.slots.put(key, placed)
    api.state.usage[instance] = InstanceUsage(cpu_ratio=0.25, memory_bytes=10 << 20)


def let_be_unplaceable(api: RootApi, service: str, number: int = 0) -> None:
    """Say that no cluster will do, as root's plan would."""
    key = slot_key(Slot(api.state.services[service].spec.id, number))
    verdicts = (CandidateVerdict(name="east", refusal="64 MiB memory free, needs 4096"),)
    record = api.state.slots[key]
    reason = "1 cluster: 64 MiB memory free, needs 4096"
    api.state.slots.put(key, replace(record, reason=reason, verdicts=verdicts))


def let_be_gone(api: RootApi, service: str) -> None:
    """Forget a service's instances that nobody wants, as root does once they are seen gone."""
    for record in api.state.slots_of(api.state.services[service].spec.id):
        if not record.wanted:
            api.state.slots.remove(slot_key(record.slot))
