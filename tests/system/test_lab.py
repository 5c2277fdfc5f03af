"""A lab does what it says: machines are killed, cut off and rebooted, and what can run runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lab_fixture import Fleet, client, direct, server, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESS = "10.30.77.1"
NAME = "lab"
COUNT = 3


@pytest.fixture
def pair(fleet: Fleet) -> Iterator[Fleet]:
    """Two servers and a client, which wait where they are for a machine that is long in coming back."""
    with a_pair(fleet, disconnect={"lost_after_s": 120}):
        yield fleet


@pytest.fixture
def hasty_pair(fleet: Fleet) -> Iterator[Fleet]:
    """The same, of which each is replaced as soon as its machine is lost."""
    with a_pair(fleet):
        yield fleet


@contextmanager
def a_pair(fleet: Fleet, **policy: Any) -> Iterator[None]:
    """The client is in the second cluster and the servers are in the first."""
    services = (
        server(ADDRESS, constraints=direct("c1"), **policy),
        client(ADDRESS, constraints=direct("c2"), **policy),
    )
    with fleet.application(NAME, *services, counts={"server": 2, "client": 1}):
        fleet.until_greeted(NAME)
        yield


def pids(fleet: Fleet) -> dict[str, dict[str, int | None]]:
    return {name: host["processes"] for name, host in fleet.hosts().items()}


def where(fleet: Fleet, service: str) -> list[str]:
    return [one["worker"] for one in fleet.instances(NAME) if one["service"] == service]


# --- what there is -----------------------------------------------------------------------------------------------


def test_status_tells_each_host(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    assert list(hosts) == ["root", "c1", "c2", "w1", "w2", "w3", "w4", "w5", "w6"]
    assert {host["tier"] for host in hosts.values()} == {"root", "cluster", "worker"}
    assert len({host["address"] for host in hosts.values()}) == len(hosts)
    assert all(pid for host in hosts.values() for pid in host["processes"].values())
    assert set(hosts["c2"]["processes"]) == {"cluster", "broker"}
    assert hosts["w6"]["address"] in fleet.lab("status")
    assert fleet.oak.json("lab", "status", "--name", fleet.name) == list(hosts.values())


def test_a_command_runs_in_a_hosts_network_and_oak_there_asks_that_host(fleet: Fleet) -> None:
    address = fleet.hosts()["w2"]["address"]
    assert f"inet {address}/24" in fleet.lab("exec", "w2", "ip", "address")
    assert "docker.io/oakestra/example:1" in fleet.lab(
        "exec", "w2", "--", *fleet.oak.command("worker", "image", "ls")
    )
    failed = fleet.oak.run("lab", "exec", "--name", fleet.name, "w2", "sh", "-c", "exit 7", check=False)
    assert failed.returncode == 7


def test_logs_are_those_of_the_host(fleet: Fleet) -> None:
    assert "cluster is up" in fleet.lab("logs", "c1", "-n", "10000")
    refused = fleet.oak.run("lab", "logs", "--name", fleet.name, "w7", check=False)
    assert refused.returncode == 1
    assert "no host 'w7'; it has: root c1 c2 w1" in refused.stderr


def test_up_again_changes_nothing(fleet: Fleet) -> None:
    fleet.lab("up")  # restarts what was started with other code than there is now
    before = pids(fleet)
    assert "is on every worker" in fleet.lab("up")
    assert pids(fleet) == before
    refused = fleet.oak.run("lab", "up", "--name", fleet.name, "--workers", "1", check=False)
    assert refused.returncode == 1
    assert "2 clusters of 3 workers" in refused.stderr


# --- processes die -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "victim", [("root",), ("c1",), ("c1", "broker"), ("c2",), ("w1", "agent")], ids=" ".join
)
def test_a_process_that_is_killed_comes_back_and_no_container_notices(
    pair: Fleet, victim: Sequence[str]
) -> None:
    host = victim[0]
    wanted, before = _places(pair), pids(pair)
    assert "killed" in pair.lab("kill", *victim)
    until(lambda: all(pids(pair)[host].values()) and pids(pair)[host] != before[host])
    pair.heal()
    assert not [one for one in pair.until_ready(NAME, COUNT) if one["restart"]]
    assert _places(pair) == wanted
    pair.until_greeted(NAME)
    after = pids(pair)
    assert {name for name in before if before[name] != after[name]} == {host}


def test_the_supervisor_dies_and_the_next_one_finds_everything_running(pair: Fleet) -> None:
    before = pids(pair)
    assert "the lab's supervisor" in pair.lab("kill", "root", "supervisor")
    pair.lab("kill", "w2")
    until(lambda: pids(pair)["w2"]["worker"] not in (None, before["w2"]["worker"]))
    after = pids(pair)
    assert {name for name in before if before[name] != after[name]} == {"w2"}
    pair.until_greeted(NAME)


# --- the network fails -------------------------------------------------------------------------------------------


def test_a_worker_that_is_cut_off_is_replaced_and_taken_back(hasty_pair: Fleet) -> None:
    pair = hasty_pair
    lost = where(pair, "server")[0]
    pair.lab("cut", lost)
    assert pair.hosts()[lost]["network"] == "cut off"
    until(lambda: lost not in where(pair, "server") and len(pair.until_ready(NAME, COUNT)) == COUNT)
    pair.until_greeted(NAME)
    pair.heal()
    pair.until_ready(NAME, COUNT)
    pair.until_greeted(NAME)


@pytest.mark.parametrize("lost", ["root", "c1"])
def test_without_a_tier_above_what_runs_goes_on(pair: Fleet, lost: str) -> None:
    wanted = _places(pair)
    pair.lab("cut", lost)
    until(lambda: pair.hosts()[lost]["trouble"])
    pair.heal()
    found = pair.until_ready(NAME, COUNT)
    assert _places(pair) == wanted
    assert not [one for one in found if one["restart"]]
    pair.until_greeted(NAME)


def test_two_hosts_are_cut_from_one_another_only(pair: Fleet) -> None:
    """The client asks both servers in turn; the answers that are left come from the other one."""
    (at,), servers = where(pair, "client"), where(pair, "server")
    pair.lab("cut", at, servers[0], "--one-way")
    assert "lost from" in pair.hosts()[at]["network"]
    addresses = {name: host["address"] for name, host in pair.hosts().items()}
    ping = ("busybox", "ping", "-c", "1", "-W", "20")
    briefly = (*ping[:-1], "1")
    assert pair.oak.run(
        "lab", "exec", "--name", pair.name, at, *briefly, addresses[servers[0]], check=False
    ).returncode
    pair.lab("exec", at, *ping, addresses[servers[1]])
    pair.lab("exec", at, *ping, addresses["root"])
    pair.lab("heal", at, servers[0])
    pair.lab("exec", at, *ping, addresses[servers[0]])


def test_some_packets_are_lost(fleet: Fleet) -> None:
    count = 400
    address = fleet.hosts()["w5"]["address"]
    fleet.lab("exec", "w4", "busybox", "ping", "-c", "1", address)  # they know each other's MAC from now on
    fleet.lab("cut", "w4", "w5", "--one-way", "--loss", "0.5")
    received = _datagrams_received(fleet, "w4", "w5", address, count)
    assert 0.35 * count < received < 0.65 * count
    fleet.lab("heal")
    assert _datagrams_received(fleet, "w4", "w5", address, count) == count


def _datagrams_received(fleet: Fleet, sender: str, receiver: str, address: str, count: int) -> int:
    """Send datagrams from one host to another; the receiver's kernel counts those to a port where nobody listens."""

    def unheard() -> int:
        said = fleet.lab("exec", receiver, "cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in said if line.startswith("Udp:"))
        return int(dict(zip(names, values, strict=True))["NoPorts"])

    code = (
        f"import socket; s = socket.socket(2, 2); [s.sendto(b'x', ('{address}', 9)) for _ in range({count})]"
    )
    before = unheard()
    fleet.lab("exec", sender, "python3", "-c", f"{code}")
    seen = [-1]

    def all_arrived() -> bool:
        seen.append(unheard())
        return seen[-1] == seen[-2]

    until(all_arrived)
    return seen[-1] - before


# --- machines die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["root", "c1", "w"])
def test_a_host_reboots_and_all_is_as_it_was(pair: Fleet, host: str) -> None:
    host = where(pair, "server")[0] if host == "w" else host
    before = pids(pair)
    wanted = _places(pair)
    pair.lab("exec", host, "ip", "link", "add", "mark", "type", "bridge")
    pair.lab("reboot", host)
    assert "mark" not in pair.lab("exec", host, "ip", "link")
    pair.heal()
    found = pair.until_ready(NAME, COUNT)
    assert _places(pair) == wanted
    assert {one["worker"] for one in found if one["restart"]} == ({host} & {one["worker"] for one in found})
    pair.until_greeted(NAME)
    after = pids(pair)
    assert {name for name in before if before[name] != after[name]} == {host}


def _places(fleet: Fleet) -> set[tuple[Any, ...]]:
    return {(one["service"], one["number"], one["worker"]) for one in fleet.instances(NAME)}
