"""A fleet is kept up to date while somebody uses it: machines are drained, services updated, and nobody notices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab_fixture import Fleet, client, direct, server, sleeper, until
from load import requests

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESSES = (f"10.30.83.{number}" for number in itertools.count(1))
CHECK = {"http": {"port": 80, "path": "/"}, "interval_s": 1}
QUICK = {"monitor_s": 1}


@contextmanager
def shop(fleet: Fleet, servers: int = 3) -> Iterator[str]:
    """Servers in the first cluster, and a client on one of its workers, so that the address leads somewhere there."""
    address = next(ADDRESSES)
    services = (
        server(address, health_check=CHECK, update_policy=QUICK, constraints=direct("c1")),
        client(address, constraints=direct("c1", "w1")),
    )
    with fleet.application("shop", *services, counts={"server": servers, "client": 1}):
        fleet.until_greeted(
            "shop"
        )  # ready is what root knows; the client's machine hears of it a moment later
        yield address


@pytest.fixture
def uncordoned(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, whose workers all take instances again when the test is over."""
    yield fleet
    fleet.oak.run("worker", "uncordon", *fleet.names("worker"))
    fleet.oak.run("cluster", "uncordon", *fleet.names("cluster"))


def test_no_request_fails_while_a_worker_is_drained_and_a_service_updated(uncordoned: Fleet) -> None:
    fleet = uncordoned
    with shop(fleet) as address, requests(fleet, "w1", f"http://{address}/") as seen:
        drained = next(one["worker"] for one in fleet.instances("shop") if one["worker"] != "w1")
        said = fleet.oak.run("worker", "drain", drained, "--wait").stdout
        assert f"{drained} is empty" in said
        assert drained not in {one["worker"] for one in fleet.until_ready("shop", 4)}
        fleet.oak.run("worker", "uncordon", drained)
        rolled = fleet.oak.run("service", "update", "shop.server", "--env", "COLOUR=blue", "--wait").stdout
        assert "3 of 3 updated (done)" in rolled
    assert seen.asked > 100
    assert not seen.failed


def test_no_request_fails_while_a_site_is_drained_and_users_are_at_another(uncordoned: Fleet) -> None:
    fleet, address = uncordoned, next(ADDRESSES)
    services = (
        server(address, health_check=CHECK, update_policy=QUICK),
        client(address, constraints=direct("c2", "w4")),
    )
    with fleet.application("shop", *services, counts={"server": 3, "client": 1}):
        fleet.until_greeted("shop")
        assert "c1" in {one["cluster"] for one in fleet.instances("shop")}, "spread over both"
        with requests(fleet, "w4", f"http://{address}/") as seen:
            said = fleet.oak.run("cluster", "drain", "c1", "--wait").stdout
            assert "c1 is empty" in said
        assert {one["cluster"] for one in fleet.until_ready("shop", 4)} == {"c2"}
        until(lambda: not any(worker["instances"] for worker in fleet.live() if worker["cluster"] == "c1"))
    assert seen.asked > 100
    assert not seen.failed


def test_an_update_that_never_gets_well_goes_back_by_itself(uncordoned: Fleet) -> None:
    fleet = uncordoned
    with shop(fleet) as address, requests(fleet, "w1", f"http://{address}/") as seen:
        change = fleet.home_file(
            "change.json", '{"cmd": ["/bin/false"], "health_check": {"tcp": {"port": 80}}}'
        )
        failed = fleet.oak.run("service", "update", "shop.server", "-f", change, "--wait", check=False)
        assert failed.returncode == 1
        assert "rolled back: instance" in failed.stderr
        (service,) = [found for found in fleet.services("shop") if found["name"].split(".")[2] == "server"]
        assert service["spec"]["command"] == ["/bin/serve"]
        fleet.until_ready("shop", 4)
    assert not seen.failed


def test_a_rollback_is_an_update_like_any_other(uncordoned: Fleet) -> None:
    fleet = uncordoned
    with shop(fleet, servers=2):
        fleet.oak.run("service", "update", "shop.server", "--env", "A=1", "--wait")
        fleet.oak.run("service", "rollback", "shop.server", "--wait")
        (service,) = [found for found in fleet.services("shop") if found["name"].split(".")[2] == "server"]
        assert (service["spec"]["environment"], service["spec"]["revision"]) == ([], 2)
        refused = fleet.oak.run("service", "rollback", "shop.server", check=False)
        assert "no revision to go back to" in refused.stderr


def test_a_cordoned_worker_keeps_what_it_has_and_gets_nothing_new(uncordoned: Fleet) -> None:
    fleet = uncordoned
    with shop(fleet, servers=3):
        held = {one["number"]: one["worker"] for one in fleet.instances("shop") if one["service"] == "server"}
        fleet.oak.run("worker", "cordon", "w2")
        until(lambda: any(worker["availability"] == "cordoned" for worker in fleet.live()))
        fleet.oak.run("service", "scale", "shop.server", "6", "--wait")
        after = {
            one["number"]: one["worker"] for one in fleet.instances("shop") if one["service"] == "server"
        }
        assert held.items() <= after.items()
        assert "w2" not in {worker for number, worker in after.items() if number not in held}


def test_a_job_that_is_done_is_not_done_again_where_its_worker_is_drained_or_lost(uncordoned: Fleet) -> None:
    fleet = uncordoned
    job = sleeper("job", one_shot=True, cmd=["/bin/sh", "-c", "date +%s%N; echo done"])
    with fleet.application("work", job, counts={}):
        fleet.scale("work.job", 2)
        until(lambda: [one["phase"] for one in fleet.instances("work")] == ["COMPLETED"] * 2)
        done = fleet.instances("work")
        (service,) = fleet.services("work")
        told = fleet.ask(lambda: fleet.lines(service))
        place = done[0]["worker"]
        assert f"{place} is draining" in fleet.oak.run("worker", "drain", place, "--wait").stdout
        fleet.lab("cut", place)
        until(lambda: place not in {worker["name"] for worker in fleet.live()})
        fleet.heal()
        until(lambda: fleet.ask(lambda: fleet.lines(service)) == told)
        assert [(one["phase"], one["attempt"], one["worker"]) for one in fleet.instances("work")] == [
            (one["phase"], one["attempt"], one["worker"]) for one in done
        ]


def test_a_worker_that_is_gone_for_good_can_be_forgotten(uncordoned: Fleet) -> None:
    fleet = uncordoned
    with shop(fleet):
        busy = next(one["worker"] for one in fleet.instances("shop"))
        refused = fleet.oak.run("worker", "rm", busy, check=False)
        assert "move them away first" in refused.stderr
