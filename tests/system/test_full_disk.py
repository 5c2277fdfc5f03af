"""A worker's disk fills up: what runs goes on, what cannot start is told why or starts elsewhere, and room heals all."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab_fixture import SETTINGS, Fleet, Oak, a_lab, client, direct, server, sleeper, until
from lab_seen import containers
from lab_truth import until_true
from load import requests
from oakestra.control import processes
from oakestra.control.installation import Installation
from oakestra.lab import record

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SIZE = "24m"
ADDRESSES = (f"10.30.88.{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def small(need_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A cluster of two workers, of which the first has a small disk of its own."""
    name = f"f{os.getpid() % 10**7}"
    place = Installation(f"lab-{name}/w1").state
    place.mkdir(mode=0o700, parents=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", name, str(place)), check=True)
    with a_lab(name, Oak(tmp_path_factory.mktemp("home"), SETTINGS), clusters=1, workers=2) as made:
        yield made
    assert str(place) not in Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def full(fleet: Fleet) -> Iterator[None]:
    """Leave no byte on the small disk."""
    filler = Installation(f"lab-{fleet.name}/w1").state / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


def pids(fleet: Fleet) -> dict[str, int]:
    lab = record.read(fleet.name)
    assert lab is not None
    return {found.instance: found.pid for found in containers(lab)}


def test_what_runs_goes_on_and_what_cannot_start_says_why(small: Fleet) -> None:
    address = next(ADDRESSES)
    here = direct("c1", "w1")
    services = [server(address, constraints=here), client(address, constraints=direct("c1", "w2"))]
    services += [sleeper("bound", constraints=here), sleeper("free")]
    counts = {"server": 2, "client": 1, "bound": 1, "free": 0}
    with small.application("disk", *services, counts=counts):
        small.oak.run("login", small.root.url, "--password", small.root_password)
        until_true(small)
        before = pids(small)
        with requests(small, "w2", f"http://{address}/") as seen, full(small):
            small.scale("disk.bound", 3)
            small.scale("disk.free", 6)
            until(lambda: len(ready(small, "free")) == 6)
            assert {one["worker"] for one in ready(small, "free")} == {"w2"}, "that has room"
            until(lambda: "is full" in small.oak.run("explain", "disk.bound.1").stdout)
            until(lambda: "is full" in small.oak.run("worker", "ls", "-o", "wide").stdout)
            small.lab("kill", "w1", "agent")
            until(lambda: small.hosts()["w1"]["trouble"] == "")
            assert {name: pids(small)[name] for name in before} == before
            crashed = "disk.bound.0"
            processes.kill(before.pop(crashed))
            until(lambda: "is full" in small.oak.run("explain", crashed).stdout)
        until_true(small)
        assert seen.asked > 20
        assert not seen.failed
        assert {name: pids(small)[name] for name in before} == before
    until_true(small)


def ready(fleet: Fleet, service: str) -> list[dict[str, object]]:
    return [one for one in fleet.instances("disk") if one["service"] == service and one["ready"]]
