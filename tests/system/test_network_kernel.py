"""Whatever is applied after whatever: a real kernel then holds that, and nothing else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_bench import Worker, fleet
from network_overlays import SUBNET, overlays
from oakestra.model.address import Backend, Route, RouteKind, host_address, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId
from oakestra.model.service import InstanceAddress
from oakestra.network import Overlay, rules
from oakestra.network.names import Names
from oakestra.network.netlink import NETFILTER, ROUTE, Netlink, nft
from oakestra.network.netlink import route as rt
from oakestra.network.paths import Paths, paths
from oakestra.network.rules import Elements

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lasting(
    tmp_path_factory: pytest.TempPathFactory, need_program: Callable[[str, str], str]
) -> Iterator[Worker]:
    need_program("nft", "nftables")
    with fleet(tmp_path_factory.mktemp("kernel"), 1) as made:
        worker = made.workers[0]
        worker.subnet, worker.index, worker.underlay_v4 = SUBNET, 7, "198.18.0.11"
        yield worker


@given(st.lists(overlays(), min_size=2, max_size=4))
@settings(max_examples=40)
def test_the_kernel_holds_what_was_applied_last(lasting: Worker, story: list[Overlay]) -> None:
    for overlay in story:
        lasting.prepare(overlay)
        lasting.apply(overlay)
        groups = lasting.machine.do(lambda: _groups(lasting))
        wanted = {name: found for name, found in rules.elements(overlay, groups).items() if found}
        assert lasting.machine.do(lambda: _elements(lasting)) == wanted
        assert lasting.machine.do(lambda: _paths(lasting)) == paths(overlay)
        lasting.restart()


def _groups(worker: Worker) -> dict[OrganizationId, int]:
    assert worker.network._plane is not None
    return worker.network._plane._groups


def _elements(worker: Worker) -> Elements:
    with contextlib.closing(Netlink(NETFILTER)) as netlink:
        table = Names.of(worker.id).table
        found = {name: nft.elements(netlink, table, name) for name in rules.SETS}
    return {name: elements for name, elements in found.items() if elements}


def _paths(worker: Worker) -> Paths:
    with contextlib.closing(Netlink(ROUTE)) as netlink:
        tunnel = rt.link(netlink, Names.of(worker.id).tunnel)
        if tunnel is None:
            return Paths()
        return Paths(
            forwarding={
                mac: (host, port)
                for mac, host, port in rt.forwarding(netlink, tunnel.index, default_port=50103)
            },
            neighbours=dict(rt.neighbours(netlink, tunnel.index)),
            routes={
                route.destination: route.gateway
                for family in (socket.AF_INET, socket.AF_INET6)
                for route in rt.routes(netlink, family)
                if route.device == tunnel.index and route.gateway is not None
            },
        )


def test_a_service_may_have_a_thousand_backends(lasting: Worker) -> None:
    everywhere = [host_address(worker_subnet(100 + number // 50), 2 + number % 50) for number in range(1000)]
    address = InstanceAddress(v4="10.30.9.9", v6="fdff::909")
    for size in (1000, 999, 33, 1000):
        backends = tuple(Backend(slot=slot, address=each) for slot, each in enumerate(everywhere[:size]))
        route = Route(service=ServiceId("s"), kind=RouteKind.ROUND_ROBIN, address=address, backends=backends)
        overlay = lasting.overlay([route])
        lasting.prepare(overlay)
        lasting.apply(overlay)
        found = lasting.machine.do(lambda: _elements(lasting))
        assert len(found["be4"]) == len(found["be6"]) == size
        assert list(found["svc4"].values()) == [f"rr4_{size}"]
        lasting.restart()
