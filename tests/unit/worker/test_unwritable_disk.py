"""A worker whose disk is full starts nothing new, but follows its neighbours: where they are need not be on disk."""

from __future__ import annotations

import asyncio
from random import Random

from oakestra.control.clock import LoopClock
from oakestra.network.fake import FakeKernel, FakeNetwork
from oakestra.runtime.fake import FakeHost, FakeRuntime
from oakestra.simulation import virtual_time
from oakestra.worker.fake import FakeProber
from one_worker import SERVICE_IP, OneWorker, service

ELSEWHERE = ("10.18.9.2", "10.18.9.3")


def test_routes_change_though_nothing_can_be_written_and_the_next_agent_learns_them_again() -> None:
    async def story() -> None:
        host, kernel, clock = FakeHost(), FakeKernel(), LoopClock()
        async with asyncio.TaskGroup() as group:
            worker = OneWorker(
                runtime=lambda: FakeRuntime(host, clock=clock, random=Random(1)),
                network=lambda: FakeNetwork(kernel, random=Random(1)),
                prober=lambda _: FakeProber(),
                clock=clock,
                group=group,
            )
            worker.start()
            worker.assign(service())
            await asyncio.sleep(5.0)
            assert worker.now[service().id].ready
            worker.cell.full = True
            worker.reroute(*ELSEWHERE)
            await asyncio.sleep(15.0)
            assert leads_to(kernel) == set(ELSEWHERE)
            worker.assign(service(), service(2))
            await asyncio.sleep(15.0)
            assert service(2).id not in worker.now, "what cannot be remembered is not begun"
            await worker.kill()
            worker.start()
            worker.reroute(*ELSEWHERE[:1])
            await asyncio.sleep(15.0)
            assert worker.now[service().id].ready
            assert leads_to(kernel) == set(ELSEWHERE[:1])
            worker.cell.full = False
            await asyncio.sleep(30.0)
            assert worker.now[service(2).id].ready
            assert leads_to(kernel) == set(ELSEWHERE[:1])
            await worker.kill()
            worker.leave()

    virtual_time.run(story())


def leads_to(kernel: FakeKernel) -> set[str]:
    return {address.v4 for address in kernel.leads_to(SERVICE_IP)}
