"""The comparison of a lab with what it should be notices what is left, doubled, missing or unasked for."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lab_fixture import Fleet, client, direct, server, until
from lab_truth import differences, until_true
from oakestra.control.installation import Installation
from oakestra.lab import plan, record
from oakestra.runtime.oci.rootfs import unmount

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESSES = (f"10.30.86.{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def used(shared_fleet: Fleet) -> Iterator[Fleet]:
    """A fleet in which something runs in both clusters, and all is true."""
    shared_fleet.heal()
    address = next(ADDRESSES)
    services = (
        server(address, port="8086:80", constraints=direct("c1", "w1")),
        client(address, constraints=direct("c2")),
    )
    with shared_fleet.application("truth", *services, counts={"server": 1, "client": 2}):
        until_true(shared_fleet)
        yield shared_fleet
    until_true(shared_fleet)


def home(fleet: Fleet, host: str) -> Installation:
    lab = record.read(fleet.name)
    assert lab is not None
    return Installation(plan.host(lab, host).installation)


@contextmanager
def a_mount(fleet: Fleet) -> Iterator[None]:
    place = home(fleet, "w1").state / "worker" / "instances"
    subprocess.run(("mount", "--bind", str(place), str(place)), check=True)
    try:
        yield
    finally:
        unmount(place)


@contextmanager
def an_element(fleet: Fleet) -> Iterator[None]:
    table = fleet.lab("exec", "w1", "nft", "list", "tables").split()[2]
    element = ("element", "inet", table, "hosts4", "{ 10.18.99.1 }")
    fleet.lab("exec", "w1", "nft", "add", *element)
    yield
    with contextlib.suppress(AssertionError):  # the agent noticed and put its table back
        fleet.lab("exec", "w1", "nft", "delete", *element)


@contextmanager
def a_row(fleet: Fleet) -> Iterator[None]:
    store = home(fleet, "c1").state / "cluster" / "cluster.db"
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as rows:
        rows.execute("INSERT INTO withdrawals SELECT 'left', body FROM workers LIMIT 1")
        yield
        rows.execute("DELETE FROM withdrawals WHERE key = 'left'")


@contextmanager
def a_link(fleet: Fleet) -> Iterator[None]:
    fleet.lab("exec", "w2", "ip", "link", "add", "left", "type", "bridge")
    yield
    fleet.lab("exec", "w2", "ip", "link", "delete", "left")


@contextmanager
def a_process(fleet: Fleet) -> Iterator[None]:
    with subprocess.Popen(
        fleet.oak.command("lab", "exec", "--name", fleet.name, "w3", "sleep", "1000"),
        env=fleet.oak.variables,
    ) as left:
        yield
        left.kill()


@contextmanager
def a_directory(fleet: Fleet) -> Iterator[None]:
    left = home(fleet, "w2").logs / "instances" / "77"
    left.mkdir()
    yield
    left.rmdir()


@contextmanager
def a_wish(fleet: Fleet) -> Iterator[None]:
    fleet.asked["truth.server"] = 2
    yield
    fleet.asked["truth.server"] = 1


BREAKS: dict[str, tuple[Callable[[Fleet], AbstractContextManager[None]], str]] = {
    "mount": (a_mount, "w1: mount "),
    "element": (an_element, "w1: nft hosts4 10.18.99.1 is there, should be 0 times"),
    "row": (a_row, "c1: row of a withdrawal "),
    "link": (a_link, "w2: link left is there"),
    "process": (a_process, "w3: process stranger: sleep 1000 is there"),
    "directory": (a_directory, "w2: log directory 77 is there"),
    "wish": (a_wish, "root: truth.server has 1 instances, asked for were 2"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_what_is_left_or_missing_is_named(used: Fleet, kind: str) -> None:
    broken, named = BREAKS[kind]
    with broken(used):
        until(lambda: any(said.startswith(named) for said in differences(used)))
    until_true(used)
