"""`oak exec` and health checks through a whole fleet: from the command line to a container and back."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from lab_fixture import Fleet, client, direct, server, until
from oak_terminal import Terminal, in_terminal
from oakestra.lab import power, record
from oakestra.lab.plan import host as host_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESSES = (f"10.30.79.{number}" for number in itertools.count(1))
"""One for each test: an address rests for a while before somebody else gets it."""
SICK = "/tmp/sick"
CHECK = {
    "exec": {"command": ["test", "!", "-e", SICK]},
    "interval_s": 1,
    "timeout_s": 20,
    "unhealthy_threshold": 2,
    "restart_after_s": 2,
}


@pytest.fixture
def shop(fleet: Fleet) -> Iterator[Fleet]:
    """Two servers, which are well until told otherwise, and a client."""
    address = next(ADDRESSES)
    services = (server(address, health_check=CHECK), client(address, period_s=0.1))
    with fleet.application("shop", *services, counts={"server": 2, "client": 1}):
        yield fleet


def test_a_command_is_run_where_the_instance_is(shop: Fleet) -> None:
    done = shop.oak.run("exec", "server.1", "--", "sh", "-c", "hostname; echo no >&2; exit 42", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, "server-1\n", "no\n")
    many = shop.oak.run("exec", "server.0", "--", "seq", "1", "300000").stdout
    assert many.split() == [str(number) for number in range(1, 300_001)], "more than a window of pieces"
    done = shop.oak.run("exec", "server.0", "--", "nothing", check=False)
    assert done.returncode == 1
    assert "the command 'nothing' is not in the image" in done.stderr
    done = shop.oak.run("exec", "server.0", "--timeout", "5s", "--", "sleep", "1000", check=False)
    assert (done.returncode, done.stderr) == (124, "oak: the command did not end within 5 s and was killed\n")


def test_while_an_instance_is_updated_where_it_is_the_one_that_serves_is_asked(fleet: Fleet) -> None:
    """Its successor runs on the same worker, and is not well."""
    here = server(next(ADDRESSES), environment=["COLOUR=red"], constraints=direct("c1", "w1"))
    with fleet.application("town", here, counts={"server": 1}):
        never = '{"environment": ["COLOUR=blue"], "health_check": {"exec": {"command": ["/bin/false"]}}}'
        fleet.oak.run("service", "update", "town.server", "-f", fleet.home_file("change.json", never))
        until(lambda: [worker["instances"] for worker in fleet.live() if worker["name"] == "w1"] == [2])
        for _ in range(20):
            assert fleet.oak.run("exec", "town.server.0", "--", "sh", "-c", "echo $COLOUR").stdout == "red\n"


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
        assert asking.wait(timeout=90) == 130
    until(lambda: sleeping() == "0\n")


@contextmanager
def shell(shop: Fleet) -> Iterator[Terminal]:
    """Type at a shell in an instance."""
    words = shop.oak.command("exec", "-it", "server.0", "--", "sh")
    with in_terminal(words, {**shop.oak.variables, "TERM": "vt100"}, columns=80) as shown:
        shown.type("echo pid=$$=\r")
        shown.until(lambda text: re.search(r"pid=\d+=", text))
        assert shown.raw
        yield shown


def is_there(shop: Fleet, shown: Terminal) -> bool:
    """Tell whether the shell is still in the instance."""
    found = re.search(r"pid=(\d+)=", shown.text)
    assert found is not None
    return (
        shop.oak.run("exec", "server.0", "--", "test", "-d", f"/proc/{found[1]}", check=False).returncode == 0
    )


def test_megabytes_are_piped_through_a_command(shop: Fleet) -> None:
    sent = Random(1).randbytes(8_000_001)
    words = shop.oak.command("exec", "-i", "server.0", "--", "cat")
    done = subprocess.run(
        words, env=shop.oak.variables, input=sent, capture_output=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout == sent, done.stderr) == (0, True, b"")
    words = shop.oak.command("exec", "-i", "server.1", "--", "sh", "-c", "head -c 5; exit 3")
    done = subprocess.run(
        words, env=shop.oak.variables, input=sent, capture_output=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, sent[:5], b""), "what is not read is dropped"


def test_a_shell_in_an_instance_is_like_one_here(shop: Fleet) -> None:
    with shell(shop) as shown:
        shown.type("stty size; echo $TERM; hostname\r")
        shown.until(lambda text: "24 80\r\nvt100\r\nserver-0\r\n" in text)
        shown.resize(31, 101)
        shown.type("stty size\r")
        shown.until(lambda text: "31 101\r\n" in text)
        shown.type('echo be""gun; sleep 7777\r')
        shown.until(lambda text: "begun\r\n" in text)
        shown.type("\x03")
        shown.until(lambda text: "/ # " in text.rpartition("^C")[2])  # what is typed before is dropped
        shown.type("echo code=$?=\r")
        shown.until(lambda text: "code=130=\r\n" in text)
        shown.type("exit 7\r")
        assert shown.end() == 7
        assert not shown.raw
    assert not is_there(shop, shown)


def test_a_terminal_that_is_gone_takes_the_shell_along(shop: Fleet) -> None:
    with shell(shop) as shown:
        assert is_there(shop, shown)
        shown.process.kill()
        until(lambda: not is_there(shop, shown))


def test_an_agent_that_dies_ends_the_session_with_a_sentence(shop: Fleet) -> None:
    """Soon, though nobody types anything; and the next agent leaves nothing of it."""
    (instance,) = (one for one in shop.instances("shop") if (one["service"], one["number"]) == ("server", 0))
    lab = record.read(shop.name)
    assert lab is not None
    with shell(shop) as shown:
        began_s = time.monotonic()
        power.kill(lab, host_of(lab, instance["worker"]), "agent")
        assert shown.end() == 1
        assert not shown.raw
        assert "how the command ended is not known: its end was lost" in shown.text
        assert "or its worker's agent started again and ended it" in shown.text
        print(f"told after {time.monotonic() - began_s:.1f} s")
    until(lambda: not is_there(shop, shown))


def test_an_instance_that_is_not_well_is_left_out_and_started_again(shop: Fleet) -> None:
    shop.oak.run("exec", "server.0", "--", "touch", SICK)
    until(lambda: any(one["restart"] for one in shop.instances("shop") if one["service"] == "server"))
    found = shop.until_ready("shop", 3)
    restarts = {(one["service"], one["number"]): one["restart"] for one in found}
    assert restarts == {("server", 0): 1, ("server", 1): 0, ("client", 0): 0}
    assert shop.oak.run("exec", "server.0", "--", "ls", "/tmp").stdout == ""
    told = shop.oak.run("explain", "server.0").stdout
    assert "its health check failed 2 times in a row: test ended with exit code 1" in told
