"""A machine that was cut off returns with what was replaced, and the service's policy says which of the two stays."""

from __future__ import annotations

import pytest

from lab_fixture import Document, Fleet, client, direct, server, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ADDRESS = "10.30.93.1"


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
        fleet.oak.run("login", fleet.root.url, "--password", fleet.root_password)
        fleet.oak.run("exec", "server.0", "--", "sh", "-c", "echo original > /tmp/mark")
        home = the_server(fleet)["worker"]
        fleet.lab("cut", home)
        until(lambda: the_server(fleet)["worker"] != home and the_server(fleet)["ready"], 60)
        fleet.until_greeted("back")
        assert mark(fleet) == ""
        fleet.lab("heal", home)
        until(lambda: the_server(fleet)["worker"] == home and the_server(fleet)["ready"], 60)
        assert mark(fleet) == "original\n"
        assert the_server(fleet)["restart"] == 0
        fleet.until_greeted("back")
        until(lambda: sum(worker["instances"] for worker in fleet.live()) == 2)
