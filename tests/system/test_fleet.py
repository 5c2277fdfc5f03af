"""Ten applications on two clusters of three workers: spread over all of them, and every client reaches its server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab_fixture import Document, Fleet, client, direct, server, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

APPLICATIONS = 10
SERVICES = ("server", "first", "second")


def address(number: int) -> str:
    return f"10.30.78.{number}"


def name(number: int) -> str:
    return f"app{number}"


@pytest.fixture
def crowd(fleet: Fleet) -> Iterator[list[Document]]:
    """Ten applications of a server and two clients; yields their instances, each with its application."""
    with ExitStack() as stack:
        for number in range(APPLICATIONS):
            services = (
                server(address(number)),
                client(address(number), "first"),
                client(address(number), "second"),
            )
            stack.enter_context(fleet.application(name(number), *services, counts=dict.fromkeys(SERVICES, 1)))
        yield [
            {**instance, "application": name(number)}
            for number in range(APPLICATIONS)
            for instance in fleet.until_ready(name(number), len(SERVICES))
        ]


def test_applications_are_spread_and_every_client_reaches_its_server(
    fleet: Fleet, crowd: list[Document]
) -> None:
    workers = Counter(instance["worker"] for instance in crowd)
    assert set(workers) == set(fleet.names("worker"))
    assert max(workers.values()) - min(workers.values()) <= 2, workers
    at = {(one["application"], one["service"]): (one["cluster"], one["worker"]) for one in crowd}
    pairs = [
        (at[name(number), "server"], at[name(number), other], number, other)
        for number in range(APPLICATIONS)
        for other in SERVICES[1:]
    ]
    assert any(there[0] != here[0] for there, here, _, _ in pairs), "no pair lies across clusters"
    assert any(there[0] == here[0] and there[1] != here[1] for there, here, _, _ in pairs), (
        "none in one cluster"
    )
    addresses = {(one["application"], one["service"]): one["address"]["v4"] for one in crowd}
    assert len(set(addresses.values())) == len(crowd)
    for _, _, number, other in pairs:
        line = fleet.until_greeted(name(number), other)
        assert f"instance 0 of {name(number)}.t.server.t" in line
        assert line.endswith(f" greets {addresses[name(number), other]}")


def test_copies_of_one_service_share_its_requests_from_six_workers(fleet: Fleet) -> None:
    """Each worker holds one; a client is answered by all of them, wherever they are."""
    services = (server(address(20)), client(address(20), period_s=0.05))
    with fleet.application("copies", *services, counts={"server": 6, "client": 1}):
        servers = [one for one in fleet.instances("copies") if one["service"] == "server"]
        assert {one["worker"] for one in servers} == set(fleet.names("worker"))
        (asking,) = [
            service for service in fleet.services("copies") if service["name"].split(".")[2] == "client"
        ]
        answering = {f"server-{one['number']} " for one in servers}
        until(lambda: all(any(who in line for line in fleet.lines(asking)) for who in answering))


def test_a_service_goes_where_it_is_told_and_nowhere_else(fleet: Fleet) -> None:
    """`direct` names a cluster, and workers in it."""
    services = (
        server(address(30), constraints=direct("c2", "w5")),
        client(address(30), constraints=direct("c1")),
    )
    with fleet.application("told", *services, counts={"server": 2, "client": 2}):
        found = fleet.instances("told")
        assert {one["worker"] for one in found if one["service"] == "server"} == {"w5"}
        assert {one["cluster"] for one in found if one["service"] == "client"} == {"c1"}
        fleet.until_greeted("told")
