"""Names of things, ways to other workers, and what the machine says of itself."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from oakestra.model.address import Peer, worker_subnet
from oakestra.model.ids import WorkerId
from oakestra.network import Overlay, ground
from oakestra.network.names import Names, is_some_workers, tunnel_mac
from oakestra.network.paths import Paths, only_v4, paths

FIVE, LAST = 5, 16383


def peer(index: int, *, host: str = "198.18.0.15") -> Peer:
    return Peer(subnet_index=index, subnets=(worker_subnet(index),), host=host)


WAY = (IPv4Address("169.254.1.5"), IPv6Address("fe80::a12:5"))


def test_a_peer_is_a_neighbour_with_subnets() -> None:
    found = paths(Overlay(peers=(peer(FIVE),)))
    mac = bytes.fromhex("020a120005fe")
    assert found == Paths(
        forwarding={mac: ("198.18.0.15", 50103)},
        neighbours={WAY[0]: mac, WAY[1]: mac},
        routes={IPv4Network("10.18.1.64/26"): WAY[0], IPv6Network("fd18:0:0:5::/120"): WAY[1]},
    )


def test_the_last_subnet_index_has_its_names_too() -> None:
    found = paths(Overlay(peers=(peer(LAST),)))
    assert set(found.neighbours) == {IPv4Address("169.254.64.255"), IPv6Address("fe80::a12:3fff")}
    assert set(found.forwarding) == {tunnel_mac(LAST)}


def test_nobody_is_their_own_peer() -> None:
    assert paths(Overlay(subnet_index=FIVE, peers=(peer(FIVE),))) == Paths()
    assert paths(Overlay(peers=(peer(FIVE, host="worker.example"),))) == Paths()


def test_a_machine_without_ipv6_uses_the_rest() -> None:
    found = only_v4(paths(Overlay(peers=(peer(FIVE),))))
    assert set(found.neighbours) == {WAY[0]}
    assert {each.version for each in found.routes} == {4}


def test_names_are_a_workers_own_and_fit() -> None:
    names = Names.of(WorkerId("a" * 24))
    assert names == Names.of(WorkerId("a" * 24)) != Names.of(WorkerId("b" * 24))
    links = (names.gateway, names.tunnel, names.instance(999_999), names.unfinished(999_999))
    assert all(len(link) <= 15 and link.startswith(names.links) and is_some_workers(link) for link in links)
    assert len(set(links)) == 4
    assert not is_some_workers("eth0")
    assert not is_some_workers("oakestra0")


def test_numbers_are_read_back_from_names() -> None:
    names = Names("abcde")
    assert names.number(names.instance(17)) == 17
    for other in (names.unfinished(17), names.tunnel, names.gateway, Names("abcdf").instance(17), "eth0"):
        assert names.number(other) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ("192.0.2.1", "192.0.2.2")),
        ("# none\nsearch lan\nnameserver 127.0.0.1\nnameserver 192.0.2.1 # home\n", ("192.0.2.1",)),
        ("nameserver ::1\nnameserver fe80::1%eth0\nnameserver fd00::1\n", ("fd00::1",)),
        ("nameserver\n", ()),
    ],
)
def test_name_servers_are_those_an_instance_can_ask(
    tmp_path: Path, written: str, expected: tuple[str, ...]
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(written)
    assert ground.name_servers(path) == expected


def test_systemds_own_name_servers_stand_in_for_its_stub(tmp_path: Path) -> None:
    stub, upstream = tmp_path / "resolv.conf", tmp_path / "upstream.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    assert ground.name_servers(stub, upstream=upstream) == ()
    upstream.write_text("nameserver 192.0.2.7\n")
    assert ground.name_servers(stub, upstream=upstream) == ("192.0.2.7",)
