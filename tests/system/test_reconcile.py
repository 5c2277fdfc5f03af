"""A machine, or a site, that was cut off returns with what was replaced: the service's policy says which of the two stays."""

from __future__ import annotations

import pytest

import lab_truth
from lab_fixture import Document, Fleet, client, direct, server, until
from load import requests

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESS, ELSEWHERE = "10.30.93.1", "10.30.93.2"


def the_server(fleet: Fleet) -> Document:
    (found,) = [one for one in fleet.instances("back") if one["service"] == "server"]
    return found


def mark(fleet: Fleet) -> str:
    """Return what somebody wrote into the container that serves now; nothing if it is another one."""
    return fleet.oak.run("exec", "server.0", "--", "cat", "/tmp/mark", check=False).stdout


def test_the_original_goes_on_untouched_and_its_replacement_goes(fleet: Fleet) -> None:
    services = (
        server(ADDRESS, disconnect={"reconcile": "keep_original"}, constraints=direct("c1")),
        client(ADDRESS, constraints=direct("c2")),
    )
    with fleet.application("back", *services, counts={"server": 1, "client": 1}):
        fleet.oak.run("exec", "server.0", "--", "sh", "-c", "echo original > /tmp/mark")
        home = the_server(fleet)["worker"]
        fleet.lab("cut", home)
        until(lambda: the_server(fleet)["worker"] != home and the_server(fleet)["ready"])
        fleet.until_greeted("back")
        assert mark(fleet) == ""
        fleet.lab("heal", home)
        until(lambda: the_server(fleet)["worker"] == home and the_server(fleet)["ready"])
        assert mark(fleet) == "original\n"
        assert the_server(fleet)["restart"] == 0
        fleet.until_greeted("back")
        until(lambda: sum(worker["instances"] for worker in fleet.live()) == 2)


def test_a_sites_original_goes_on_untouched_and_no_request_is_lost_on_its_return(fleet: Fleet) -> None:
    """Users on its own side are led to it all the time, others to its replacement, and then to it again."""
    policy = {"reconcile": "keep_original", "lost_after_s": 10}
    services = (
        server(
            ELSEWHERE, health_check={"http": {"port": 80, "path": "/"}, "interval_s": 1}, disconnect=policy
        ),
        client(ELSEWHERE, "first", constraints=direct("c1", "w1")),
        client(ELSEWHERE, "second", constraints=direct("c2", "w4")),
    )
    with fleet.application("back", *services, counts={"server": 1, "first": 1, "second": 1}):
        fleet.until_greeted("back", "first")
        fleet.until_greeted("back", "second")
        fleet.oak.run("exec", "server.0", "--", "sh", "-c", "echo original > /tmp/mark")
        before = the_server(fleet)
        home = before["cluster"]
        near, far = ("w1", "w4") if home == "c1" else ("w4", "w1")
        with requests(fleet, near, f"http://{ELSEWHERE}/") as here:
            fleet.lab("cut", home, "root")
            until(lambda: the_server(fleet)["cluster"] != home and the_server(fleet)["ready"])
            assert mark(fleet) == ""
            fleet.until_greeted("back", "second" if home == "c1" else "first")
            with requests(fleet, far, f"http://{ELSEWHERE}/") as there:
                fleet.lab("heal", home, "root")
                until(lambda: the_server(fleet)["cluster"] == home and the_server(fleet)["ready"])
                until(lambda: sum(worker["instances"] for worker in fleet.live()) == 3)
        after = the_server(fleet)
        same = ("worker", "placement", "attempt", "restart")
        assert [after[key] for key in same] == [before[key] for key in same]
        assert after["restart"] == 0
        assert mark(fleet) == "original\n"
        told = fleet.oak.run("explain", "server.0").stdout
        assert "set_aside" in told
        assert f"{home} is back: the original is kept" in told
        lab_truth.until_true(fleet)
    assert (here.failed, there.failed) == ([], [])
    assert min(here.asked, there.asked) > 100
