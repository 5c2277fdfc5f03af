"""Processes and machines die one after the other, and afterwards everything is as it should be, everywhere."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab_fixture import Fleet, client, server, sleeper, until
from lab_seen import containers
from lab_truth import until_true
from oakestra.control import processes
from oakestra.control.installation import Installation
from oakestra.lab import power, record
from oakestra.lab.plan import Lab, hosts
from oakestra.lab.plan import host as host_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

ADDRESSES = (f"10.30.87.{number}" for number in itertools.count(1))
ROUNDS = int(os.environ.get("OAKESTRA_TEST_ROUNDS", "2"))  # noqa: TID251 - how the tests run is not a tier's configuration
"""Of killing everything in turn. A long run by hand is worth ten."""
LOST_AFTER_S = 30
"""So long what is on a machine waits for it: to boot and to start an agent takes a part of that, even where all is slow."""
STEADY = {"server": 8, "client": 4, "sleep": 14}
FLOWING = 4
"""Instances that come and go while processes die: thirty are there in the mean."""
AGENTS = [(f"w{number}", "agent") for number in range(1, 7)]
ORCHESTRATORS = [("c1", "cluster"), ("c1", "broker"), ("c2", "cluster"), ("c2", "broker"), ("root", "root")]


@pytest.fixture(scope="module")
def populated(shared_fleet: Fleet) -> Iterator[Fleet]:
    """Thirty instances in two clusters."""
    shared_fleet.heal()
    with thirty(shared_fleet):
        yield shared_fleet
    until_true(shared_fleet)


@pytest.fixture
def town(populated: Fleet, fleet: Fleet) -> Fleet:
    """The thirty instances, all as it should be, whatever an earlier test did to them."""
    until_true(populated)
    return fleet


@contextmanager
def thirty(fleet: Fleet) -> Iterator[None]:
    address = next(ADDRESSES)
    waits: dict[str, Any] = {"disconnect": {"lost_after_s": LOST_AFTER_S}}
    services = (
        server(address, memory=8, **waits),
        client(address, period_s=1.0, memory=8, vcpus=0, **waits),
        sleeper("sleep", **waits),
        sleeper("flow", **waits),
    )
    with fleet.application("town", *services, counts={**STEADY, "flow": FLOWING}):
        until_true(fleet)
        yield


def lab_of(fleet: Fleet) -> Lab:
    lab = record.read(fleet.name)
    assert lab is not None
    return lab


def pids(fleet: Fleet, *services: str) -> dict[str, int]:
    """Return the first process of every instance of these services of the town; of all if none is named."""
    return {
        found.instance: found.pid
        for found in containers(lab_of(fleet))
        if not services or found.instance.split(".")[1] in services
    }


# --- processes ----------------------------------------------------------------------------------------------------


def test_every_process_is_killed_in_turn_and_nothing_is_lost_doubled_or_left(town: Fleet) -> None:
    lab, counts = lab_of(town), itertools.cycle((FLOWING + 2, FLOWING - 2))
    for number in range(ROUNDS):
        begun_s = time.monotonic()
        before = pids(town, *STEADY)
        for (host, what), count in zip([*AGENTS, *ORCHESTRATORS], counts, strict=False):
            town.scale("town.flow", count)
            kill(lab, host, what)
        town.lab("kill", "root", "supervisor")
        town.scale("town.flow", FLOWING)
        until_true(town)
        assert pids(town, *STEADY) == before, "only agents and orchestrators died"
        kill_containers(town, number)
        print(f"round {number + 1}: {time.monotonic() - begun_s:.1f} s")


def kill(lab: Lab, host: str, what: str) -> None:
    """Kill a process and wait until there is another."""
    killed = power.kill(lab, host_of(lab, host), what)

    def another() -> bool:
        now = power.running(lab, host_of(lab, host), what)
        return now is not None and now.pid != killed.pid

    until(another)


def kill_containers(fleet: Fleet, number: int) -> None:
    """Kill one container's process, and the conmon of another, then what runs on without it: both are back, alone."""
    lab = lab_of(fleet)
    chosen = sorted(found.instance for found in containers(lab) if found.instance.startswith("town.s"))
    first, second = (chosen[(2 * number + each) % len(chosen)] for each in (0, 1))
    before = {found.instance: found for found in containers(lab)}
    processes.kill(before[first].pid)
    processes.kill(before[second].conmon)
    until(lambda: processes.look(before[second].conmon) is None)
    until(lambda: pids(fleet).get(first, before[first].pid) != before[first].pid)
    assert pids(fleet)[second] == before[second].pid, "a container does not need its conmon to run"
    processes.kill(before[second].pid)
    until_true(fleet)
    changed = {name for name, pid in pids(fleet).items() if before[name].pid != pid}
    assert changed == {first, second}
    restarts = {f"town.{one['service']}.{one['number']}": one["restart"] for one in fleet.instances("town")}
    assert all(restarts[name] for name in changed)


def test_an_agent_dies_while_it_makes_or_removes_containers(town: Fleet) -> None:
    lab, before = lab_of(town), pids(town, *STEADY)
    for count in [FLOWING + 6, FLOWING] * ROUNDS:
        there = bundles(lab)
        town.scale("town.flow", count)
        busy = until(lambda there=there: {worker for worker, _ in bundles(lab) ^ there})  # type: ignore[misc]
        for worker in sorted(busy):
            kill(lab, worker, "agent")
    until_true(town)
    assert pids(town, *STEADY) == before


def bundles(lab: Lab) -> set[tuple[str, str]]:
    """Return what there is of containers on the disks of the workers, whole or not."""
    return {
        (host.name, bundle.name)
        for host in hosts(lab)
        if host.tier == "worker"
        for bundle in (Installation(host.installation).state / "worker" / "instances").glob("*")
    }


def test_everything_that_manages_dies_at_once(town: Fleet) -> None:
    lab, before = lab_of(town), pids(town)
    dead = [power.running(lab, host_of(lab, host), what) for host, what in [*AGENTS, *ORCHESTRATORS]]
    keeper = power.running(lab, host_of(lab, "root"), "supervisor")
    for process in [keeper, *dead]:
        assert process is not None
        processes.kill(process.pid)
    town.oak.run("lab", "up", "--name", town.name)  # what has no supervisor left is started by hand
    until_true(town)
    assert pids(town) == before


# --- machines -----------------------------------------------------------------------------------------------------


def on(fleet: Fleet, *workers: str) -> set[str]:
    return {found.instance for found in containers(lab_of(fleet)) if found.worker in workers}


def test_a_machine_that_reboots_has_again_what_it_had(town: Fleet) -> None:
    before, there = pids(town), on(town, "w2")
    town.lab("reboot", "w2")
    until_true(town)
    after = pids(town)
    assert {name for name in before if after.get(name) != before[name]} == there
    assert on(town, "w2") == there, "it was away for too short a time to be replaced"


def test_a_worker_that_was_cut_off_is_replaced_and_leaves_nothing(town: Fleet) -> None:
    begun_s, gone = time.monotonic(), on(town, "w3")
    town.lab("cut", "w3")
    until(lambda: elsewhere(town, "w3"))
    print(f"{len(gone)} instances were all ready elsewhere {time.monotonic() - begun_s:.1f} s after the cut")
    town.heal()
    until_true(town)


def elsewhere(fleet: Fleet, lost: str) -> bool:
    """Tell whether everything is ready, and nothing of it at a worker."""
    found = fleet.instances("town")
    return all(one["ready"] and one["worker"] != lost for one in found)


def test_a_cluster_that_was_cut_off_for_a_while_changes_nothing(town: Fleet) -> None:
    before = pids(town)
    town.lab("cut", "c1")
    until(lambda: silent_s(town, "c1") > 6)
    town.heal()
    until_true(town)
    assert pids(town) == before, "nothing is started again for it"


def silent_s(fleet: Fleet, cluster: str) -> float:
    (found,) = [one for one in fleet.root.get("/api/v1/clusters/") if one["name"] == cluster]
    return float(found["silent_s"])


def test_a_machine_that_boots_without_its_cluster_starts_what_it_had(town: Fleet) -> None:
    before, there = pids(town), on(town, "w1")
    town.lab("cut", "c1")
    town.lab("reboot", "w1")
    until(lambda: on(town, "w1") == there)
    town.heal()
    until_true(town)
    after = pids(town)
    assert {name for name in before if after.get(name) != before[name]} == there
