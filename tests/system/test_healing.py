"""Real faults, and what users are promised about them."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from lab_fixture import Document, Fleet, client, direct, microservice, server, until
from lab_truth import until_true

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESSES = (f"10.30.85.{number}" for number in itertools.count(1))
SITE = ("c1", "w1", "w2", "w3")
"""All of the first cluster."""
LOSSY_S = 20


def events(fleet: Fleet, kind: str) -> list[Document]:
    lines = b"".join(fleet.root.stream("/api/v1/events", endless=False)).splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def test_lines_that_lose_a_fifth_each_way_delay_what_is_asked_for_and_nothing_more(fleet: Fleet) -> None:
    before = len(losses(fleet))
    address = next(ADDRESSES)
    services = (server(address), client(address, constraints=direct("c2")))
    for worker in fleet.names("worker"):
        fleet.lab("cut", worker, "--loss", "0.2")
    for cluster in fleet.names("cluster"):
        fleet.lab("cut", cluster, "root", "--loss", "0.2")
    end_s = time.monotonic() + LOSSY_S
    while (begun_s := time.monotonic()) < end_s:
        with fleet.application("lossy", *services, counts={"server": 6, "client": 1}):
            fleet.scale("lossy.server", 3)
            fleet.until_ready("lossy", 4)
            fleet.scale("lossy.server", 8)
            fleet.until_ready("lossy", 9)
        print(f"deployed, scaled twice and removed in {time.monotonic() - begun_s:.1f} s")
    assert not losses(fleet)[before:], "no worker was given up"
    fleet.heal()
    until_true(fleet)


def losses(fleet: Fleet) -> list[str]:
    """Return every time that a worker was given up."""
    reasons = [event["reason"] for event in events(fleet, "liveness")]
    return [reason for reason in reasons if reason.startswith("worker ") and reason.endswith(" is lost")]


def test_a_site_that_is_lost_is_replaced_and_its_return_doubles_nothing(fleet: Fleet) -> None:
    address = next(ADDRESSES)
    policy = {"disconnect": {"lost_after_s": 1}}
    services = (server(address, **policy), client(address, constraints=direct("c2")))
    with fleet.application("site", *services, counts={"server": 4, "client": 1}):
        first = {
            one["number"]: one["cluster"] for one in fleet.instances("site") if one["service"] == "server"
        }
        assert set(first.values()) == {"c1", "c2"}, "spread over both"
        for host in SITE:
            fleet.lab("cut", host)
        until(lambda: {one["cluster"] for one in fleet.instances("site") if one["ready"]} == {"c2"})
        fleet.until_ready("site", 5)
        fleet.until_greeted("site")
        fleet.heal()
        fleet.until_ready("site", 5)
        until_true(fleet)


def test_where_two_would_do_harm_there_are_never_two(fleet: Fleet) -> None:
    single = microservice("single", "/bin/serve", constraints=direct("c1"), disconnect={"replace": False})
    with fleet.application("one", single, counts={"single": 1}):
        (one,) = fleet.instances("one")
        fleet.lab("cut", one["worker"])
        until(lambda: any(not known["ready"] for known in fleet.instances("one")))
        (lost,) = fleet.instances("one")
        assert (lost["worker"], lost["attempt"]) == (one["worker"], one["attempt"])
        assert "is lost" in lost["reason"]
        fleet.heal()
        (back,) = fleet.until_ready("one", 1)
        assert (back["attempt"], back["restart"]) == (one["attempt"], one["restart"])
        until_true(fleet)
