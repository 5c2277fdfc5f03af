"""`oak exec` and health checks through a whole fleet: from the command line to a container and back."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab_fixture import Fleet, client, server, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ADDRESSES = (f"10.30.79.{number}" for number in itertools.count(1))
"""One for each test: an address rests for a while before somebody else gets it."""
SICK = "/tmp/sick"
CHECK = {
    "exec": {"command": ["test", "!", "-e", SICK]},
    "interval_s": 1,
    "unhealthy_threshold": 2,
    "restart_after_s": 2,
}


@pytest.fixture
def shop(fleet: Fleet) -> Iterator[Fleet]:
    """Two servers, which are well until told otherwise, and a client."""
    address = next(ADDRESSES)
    services = (server(address, health_check=CHECK), client(address, period_s=0.1))
    with fleet.application("shop", *services, counts={"server": 2, "client": 1}):
        password = Path(f"/var/lib/oakestra/lab-{fleet.name}/root/root/admin.password").read_text().strip()
        fleet.oak.run("login", fleet.root.url, "--password", password)
        yield fleet


def test_a_command_is_run_where_the_instance_is(shop: Fleet) -> None:
    done = shop.oak.run("exec", "server.1", "--", "sh", "-c", "hostname; echo no >&2; exit 42", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, "server-1\n", "no\n")
    many = shop.oak.run("exec", "server.0", "--", "seq", "1", "300000").stdout
    assert many.split() == [str(number) for number in range(1, 300_001)], "more than a window of pieces"
    done = shop.oak.run("exec", "server.0", "--", "nothing", check=False)
    assert done.returncode == 1
    assert "the command 'nothing' is not in the image" in done.stderr
    done = shop.oak.run("exec", "server.0", "--timeout", "1s", "--", "sleep", "1000", check=False)
    assert (done.returncode, done.stderr) == (124, "oak: the command did not end within 1 s and was killed\n")


def test_who_goes_away_takes_the_command_along(shop: Fleet) -> None:
    def sleeping() -> str:
        return shop.oak.run(
            "exec", "server.0", "--", "sh", "-c", "ps | grep -c 'sleep 7[7]77'", check=False
        ).stdout

    words = shop.oak.command("exec", "server.0", "--", "sh", "-c", "echo begun; sleep 7777")
    with subprocess.Popen(words, env=shop.oak.variables, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "begun\n"
        assert sleeping() != "0\n"
        asking.send_signal(signal.SIGINT)
        assert asking.wait(timeout=30) == 130
    until(lambda: sleeping() == "0\n")


def test_an_instance_that_is_not_well_is_left_out_and_started_again(shop: Fleet) -> None:
    shop.oak.run("exec", "server.0", "--", "touch", SICK)
    until(lambda: any(one["restart"] for one in shop.instances("shop") if one["service"] == "server"))
    found = shop.until_ready("shop", 3)
    restarts = {(one["service"], one["number"]): one["restart"] for one in found}
    assert restarts == {("server", 0): 1, ("server", 1): 0, ("client", 0): 0}
    assert shop.oak.run("exec", "server.0", "--", "ls", "/tmp").stdout == ""
    told = shop.oak.run("explain", "server.0").stdout
    assert "its health check failed 2 times in a row: test ended with exit code 1" in told
