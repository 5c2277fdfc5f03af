"""A worker tells how often in a row an instance could not be got up, so that its cluster can try another worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from oakestra.control.clock import LoopClock
from oakestra.model.instance import Failures, Phase
from oakestra.network.fake import FakeKernel, FakeNetwork
from oakestra.runtime.fake import FakeHost, FakeRuntime
from oakestra.scheduling.backoff import FORGIVEN_AFTER_S
from oakestra.scheduling.elsewhere import CRASHES_MAX, STEPS_MAX
from oakestra.simulation import virtual_time
from oakestra.worker.fake import FakeProber
from one_worker import OneWorker, service

IMAGE = service().image


@asynccontextmanager
async def a_worker(host: FakeHost) -> AsyncIterator[OneWorker]:
    kernel, clock = FakeKernel(), LoopClock()
    async with asyncio.TaskGroup() as group:
        worker = OneWorker(
            runtime=lambda: FakeRuntime(host, clock=clock, random=Random(1)),
            network=lambda: FakeNetwork(kernel, random=Random(1)),
            prober=lambda _: FakeProber(),
            clock=clock,
            group=group,
        )
        worker.start()
        yield worker
        await worker.kill()
        worker.leave()


def told(story: Callable[[FakeHost, OneWorker], Awaitable[None]], host: FakeHost) -> None:
    async def play() -> None:
        async with a_worker(host) as worker:
            worker.assign(service())
            await story(host, worker)

    virtual_time.run(play())


def failures(worker: OneWorker) -> Failures | None:
    return worker.now[service().id].failures


async def runs(worker: OneWorker) -> None:
    """Wait until it runs; time is virtual."""
    while worker.now[service().id].phase is not Phase.RUNNING:  # noqa: ASYNC110 - it is told by reports alone
        await asyncio.sleep(0.1)


async def crash(host: FakeHost, worker: OneWorker) -> None:
    """Let its process end as soon as it runs."""
    await runs(worker)
    (number,) = host.containers
    host.end(number, 3, now_s=LoopClock().wall_s())
    assert worker.tier is not None
    worker.tier.wake()
    await asyncio.sleep(0.2)


def test_a_container_that_cannot_be_made_is_counted_until_it_can() -> None:
    async def story(host: FakeHost, worker: OneWorker) -> None:
        await asyncio.sleep(10.0)
        seen = failures(worker)
        assert seen is not None
        assert seen.steps >= STEPS_MAX
        assert (seen.crashes, seen.how) == (0, "could not create the container: no device")
        host.unmakeable.clear()
        await asyncio.sleep(60.0)
        assert worker.now[service().id].ready
        assert failures(worker) is None

    told(story, FakeHost(unmakeable={IMAGE: "no device"}))


def test_an_image_that_cannot_be_had_is_counted() -> None:
    async def story(host: FakeHost, worker: OneWorker) -> None:
        await asyncio.sleep(10.0)
        seen = failures(worker)
        assert seen is not None
        assert seen.steps >= STEPS_MAX
        assert seen.how.startswith("could not fetch the image: there is no image")

    told(story, FakeHost(missing={IMAGE}))


def test_ends_in_a_row_are_counted_and_forgiven_after_it_ran_well() -> None:
    async def story(host: FakeHost, worker: OneWorker) -> None:
        await asyncio.sleep(2.0)
        for _ in range(CRASHES_MAX):
            await crash(host, worker)
        assert failures(worker) == Failures(crashes=CRASHES_MAX, how="ended with exit code 3")
        assert worker.now[service().id].phase is Phase.STOPPED
        await runs(worker)
        await asyncio.sleep(FORGIVEN_AFTER_S + 1.0)
        await crash(host, worker)
        assert failures(worker) == Failures(crashes=1, how="ended with exit code 3")

    told(story, FakeHost())
