"""Every network keeps the promises of `Network`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Protocol

import pytest

from network_bench import ACME, Machine, Server
from oakestra.model.address import Backend, Route, RouteKind, host_address, worker_subnet
from oakestra.model.errors import Unavailable
from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.service import InstanceAddress, PublishedPort
from oakestra.network import Endpoint, Network, Overlay, Publication, Source
from oakestra.network.fake import FakeKernel, FakeNetwork
from oakestra.network.linux import LinuxNetwork

SUBNET = worker_subnet(7)
HERE = host_address(SUBNET, 2)
SEMANTIC = InstanceAddress(v4="10.30.0.1", v6="fdff::1")
PORT = PublishedPort(host_port=8080, container_port=80)
EMPTY = Overlay(subnets=(SUBNET,), subnet_index=7)
OVERLAY = Overlay(
    subnets=(SUBNET,),
    subnet_index=7,
    routes=(
        Route(
            service=ServiceId("web"),
            kind=RouteKind.INSTANCE,
            address=SEMANTIC,
            backends=(Backend(slot=0, address=HERE, local=True),),
            tenant=ACME,
        ),
    ),
    sources=(Source(namespace=HERE, instance=SEMANTIC, tenant=ACME),),
    publications=(Publication(port=PORT, namespace=HERE),),
)


class Host(Protocol):
    """A machine: agents come and go, it stays."""

    def agent(self) -> Network:
        """Return the network of a new agent."""

    def live(self, story: Awaitable[None]) -> None:
        """Run a story on this machine."""

    def program_on_port(self, port: int) -> contextlib.AbstractContextManager[None]:
        """Have another program listen there."""


class FakeHost:
    """Everything in memory."""

    def __init__(self) -> None:
        self._kernel = FakeKernel()

    def agent(self) -> Network:
        return FakeNetwork(self._kernel, random=Random(1))

    def live(self, story: Awaitable[None]) -> None:
        asyncio.run(_await(story))

    @contextlib.contextmanager
    def program_on_port(self, port: int) -> Iterator[None]:
        self._kernel.ports_taken[port] = "another program"
        yield
        del self._kernel.ports_taken[port]


class LinuxHost:
    """A kernel's network namespace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machine = Machine()
        self._agents: list[LinuxNetwork] = []

    def agent(self) -> Network:
        resolv_conf = self._folder / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.53\n")
        self._agents.append(
            LinuxNetwork(WorkerId("w" * 24), runtime_dir=self._folder, resolv_conf=resolv_conf)
        )
        return self._agents[-1]

    def live(self, story: Awaitable[None]) -> None:
        self._machine.live(_await(story))

    @contextlib.contextmanager
    def program_on_port(self, port: int) -> Iterator[None]:
        with contextlib.closing(Server("another program", self._machine, port=port)):
            yield

    def close(self) -> None:
        self.live(self.agent().remove())
        for agent in self._agents:
            agent.close()
        self._machine.close()


async def _await(story: Awaitable[None]) -> None:
    await story


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.root)])
def host(
    request: pytest.FixtureRequest, tmp_path: Path, need_program: Callable[[str, str], str]
) -> Iterator[Host]:
    if request.param == "fake":
        yield FakeHost()
        return
    need_program("nft", "nftables")
    with contextlib.closing(LinuxHost(tmp_path)) as found:
        yield found


def endpoint(number: int) -> Endpoint:
    return Endpoint(number=number, namespace=host_address(SUBNET, 1 + number), tenant=ACME)


def test_nothing_is_attached_before_the_machine_is_ready(host: Host) -> None:
    with pytest.raises(Unavailable, match="not ready"):
        host.live(_attach_only(host.agent()))


async def _attach_only(network: Network) -> None:
    await network.attach(endpoint(1))


def test_attaching_twice_gives_the_same_place(host: Host) -> None:
    async def story() -> None:
        network = host.agent()
        await network.prepare(EMPTY)
        assert await network.attached() == ()
        first = await network.attach(endpoint(1))
        other = await network.attach(endpoint(2))
        assert first != other
        assert await network.attach(endpoint(1)) == first
        assert await network.attached() == (1, 2)

    host.live(story())


def test_detaching_is_done_once_or_twice(host: Host) -> None:
    async def story() -> None:
        network = host.agent()
        await network.prepare(EMPTY)
        await network.attach(endpoint(1))
        await network.attach(endpoint(2))
        for _ in range(2):
            await network.detach(1)
            assert await network.attached() == (2,)
        await network.attach(endpoint(1))
        assert await network.attached() == (1, 2)

    host.live(story())


def test_a_new_agent_finds_what_the_last_one_made(host: Host) -> None:
    async def story() -> None:
        network = host.agent()
        await network.prepare(OVERLAY)
        path = await network.attach(endpoint(1))
        await network.apply(OVERLAY)
        after = host.agent()
        assert await after.attached() == (1,)
        await after.prepare(OVERLAY)
        assert await after.attach(endpoint(1)) == path
        assert (await after.apply(OVERLAY)).refused_ports == ()

    host.live(story())


def test_applying_the_same_again_changes_nothing(host: Host) -> None:
    async def story() -> None:
        network = host.agent()
        await network.prepare(EMPTY)
        await network.attach(endpoint(1))
        for overlay in (EMPTY, OVERLAY, OVERLAY, EMPTY, EMPTY):
            await network.prepare(overlay)
            assert (await network.apply(overlay)).refused_ports == ()
            assert await network.attached() == (1,)

    host.live(story())


def test_a_port_that_another_program_has_is_refused(host: Host) -> None:
    network = host.agent()
    refused: list[tuple[PublishedPort, str]] = []

    async def apply() -> None:
        await network.prepare(EMPTY)
        refused[:] = (await network.apply(OVERLAY)).refused_ports

    with host.program_on_port(PORT.host_port):
        host.live(apply())
    ((port, why),) = refused
    assert port == PORT
    assert "8080" in why
    assert "taken by" in why
    host.live(apply())
    assert not refused


def test_name_servers_are_never_loopbacks(host: Host) -> None:
    assert host.agent().name_servers() == ("192.0.2.53",)


def test_removing_leaves_nothing_attached(host: Host) -> None:
    async def story() -> None:
        network = host.agent()
        await network.prepare(OVERLAY)
        await network.attach(endpoint(1))
        await network.apply(OVERLAY)
        for _ in range(2):
            await network.remove()
            assert await network.attached() == ()
        await network.prepare(OVERLAY)
        await network.attach(endpoint(1))
        assert await network.attached() == (1,)

    host.live(story())


def test_removing_needs_no_preparing(host: Host) -> None:
    async def story() -> None:
        await host.agent().remove()

    host.live(story())
