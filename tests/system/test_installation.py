"""The main job on one machine: an SLA becomes running, reachable containers, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import Machine, Traces, a_machine, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
SERVERS = 3


@pytest.fixture(scope="module")
def traces() -> list[Traces]:
    return []


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, need_mosquitto: None) -> Iterator[Machine]:
    """Root, cluster, worker, and the example with three servers."""
    with a_machine(f"oakt-{os.getpid()}", tmp_path_factory.mktemp("home")) as machine:
        before = Traces.of(machine)
        machine.oak("up", "--installation", machine.name)
        machine.deploy_example(SERVERS)
        yield machine
        down = machine.oak("down", "--purge", "--installation", machine.name)
        assert "everything is removed" in down.stdout
        assert Traces.of(machine) == before


@pytest.fixture(scope="module")
def taken_port(machine: Machine) -> Iterator[None]:
    """Port 7777 of the machine belongs to another program."""
    with machine.listening(7777):
        yield


@pytest.fixture
def settled(machine: Machine) -> Machine:
    """The machine with everything ready, whatever an earlier test did to it."""
    machine.ready("example.server", SERVERS)
    machine.ready("example.client", 1)
    until(lambda: len(machine.pages(count=30)) == 30)  # a server that runs may not listen yet
    return machine


def answers(machine: Machine, url: str, count: int) -> Counter[str]:
    """Fetch a page so often, each over a connection of its own; count who answered."""
    return Counter(page.split()[0] for page in machine.pages(url, count))


def test_every_server_gets_its_share(settled: Machine) -> None:
    seen = answers(settled, "http://10.30.30.30/", 300)
    assert set(seen) == {f"server-{one['number']}" for one in settled.instances("example.server")}
    assert all(70 <= share <= 130 for share in seen.values()), seen


def test_an_instance_s_address_leads_to_that_instance_only(settled: Machine) -> None:
    chosen = settled.instances("example.server")[1]
    assert answers(settled, f"http://{chosen['address']['v4']}/", 20) == {f"server-{chosen['number']}": 20}


def test_the_client_reaches_the_server_and_is_seen_with_its_own_address(settled: Machine) -> None:
    own = settled.instances("example.client")[0]["address"]["v4"]
    log = until(lambda: [line for line in client_log(settled) if "greets" in line])
    assert log[-1].endswith(f"greets {own}")


def client_log(machine: Machine) -> list[str]:
    return machine.oak("service", "logs", "example.client").stdout.splitlines()


def test_a_killed_process_is_back_within_a_second(settled: Machine) -> None:
    before = settled.container_pids()
    number, pid = min(before.items())
    killed_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until(lambda: settled.container_pids().get(number, pid) != pid)
    assert time.monotonic() - killed_s < 5, "a second on a quiet machine"
    settled.ready("example.server", SERVERS)
    others = {key: value for key, value in before.items() if key != number}
    assert others.items() <= settled.container_pids().items()


@pytest.mark.parametrize("tier", ["worker", "cluster", "root", "broker", "supervisor"])
def test_killing_what_manages_them_touches_no_container(settled: Machine, tier: str) -> None:
    containers = settled.container_pids()
    services = [row["id"] for row in settled.json("service", "ls")]
    dead = settled.pid(tier)
    os.kill(dead, signal.SIGKILL)
    assert settled.pages(), "the data plane needs nobody"
    if tier == "supervisor":
        settled.oak("up", "--installation", settled.name)
    until(lambda: settled.pid(tier) != dead)
    until(lambda: settled.oak("status", "--installation", settled.name, check=False).returncode == 0)
    settled.ready("example.server", SERVERS)
    assert settled.container_pids() == containers
    assert [row["id"] for row in settled.json("service", "ls")] == services


def test_a_copy_of_root_s_records_is_put_back_while_everything_runs(settled: Machine, tmp_path: Path) -> None:
    containers, root = settled.container_pids(), settled.pid("root")
    copy, place = str(tmp_path / "copy.db"), ("--installation", settled.name)
    assert "has all that root knows" in settled.oak("root", "backup", copy, *place).stdout
    settled.oak("service", "deploy", "example.server")
    assert f"root has the records of {copy}" in settled.oak("root", "restore", copy, *place).stdout
    assert settled.pid("root") != root
    settled.ready("example.server", SERVERS + 1)  # what came after the copy is taken over
    assert containers.items() <= settled.container_pids().items()
    settled.oak("service", "scale", "example.server", str(SERVERS), "--wait")


def test_scaling_down_removes_everything_of_the_highest(settled: Machine) -> None:
    before = settled.container_pids()
    settled.oak("service", "scale", "example.server", "2", "--wait")
    until(lambda: len(settled.container_pids()) == len(before) - 1)
    numbers = [one["number"] for one in settled.instances("example.server")]
    settled.oak("service", "scale", "example.server", str(SERVERS), "--wait")
    again = {one["number"] for one in settled.ready("example.server", SERVERS)}
    assert again > set(numbers), "a number is not used twice"
    settled.oak("service", "undeploy", "example.server")
    until(lambda: len(settled.container_pids()) == 1)
    settled.oak("service", "scale", "example.server", str(SERVERS), "--wait")


def sla(service: dict[str, Any]) -> dict[str, Any]:
    whole = {"microservice_namespace": "t", "virtualization": "container", "memory": 8, **service}
    application = {"application_name": "bad", "application_namespace": "t", "microservices": [whole]}
    return {"sla_version": "v2.0", "customerID": "Admin", "applications": [application]}


IMAGE = "docker.io/oakestra/example:1"
TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"code": "127.0.0.1:1/nobody/nothing:1"}, "127.0.0.1:1"),
    "archive": ({"code": "oci-archive:/etc/passwd"}, "image_dirs"),
    "command": ({"code": IMAGE, "cmd": ["/no/such/program"]}, "/no/such/program"),
    "port": ({"code": IMAGE, "cmd": ["/bin/serve"], "port": "7777:80"}, "port 7777"),
    "memory": ({"code": IMAGE, "memory": 10**7}, "memory"),
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_is_named_and_the_rest_goes_on(
    settled: Machine, taken_port: None, tmp_path: Path, kind: str
) -> None:
    service, named = TROUBLE[kind]
    document = tmp_path / "bad.json"
    document.write_text(json.dumps(sla({"microservice_name": kind, **service})))
    settled.oak("app", "create", str(document))
    try:
        settled.oak("service", "deploy", f"bad.{kind}")
        until(lambda: named in " ".join(map(reasons, settled.instances(f"bad.{kind}"))))
        assert settled.pages()
    finally:
        settled.oak("app", "rm", "bad", "--wait")
    assert not settled.oak("service", "ls").stdout.count(f"bad.{kind}")


def reasons(instance: dict[str, Any]) -> str:
    verdicts = " ".join(verdict["refusal"] for verdict in instance["verdicts"])
    return f"{instance['reason']} {instance['placement_reason']} {verdicts}"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"memory": "much"}, "memory"),
        ({"microservice_name": "x" * 80}, "microservice_name"),
        ({"port": "no"}, "port"),
    ],
)
def test_a_bad_document_is_refused_naming_the_field(
    settled: Machine, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    document = tmp_path / "bad.json"
    document.write_text(json.dumps(sla({"microservice_name": "web", "code": IMAGE, **change})))
    refused = settled.oak("app", "create", str(document), check=False)
    assert refused.returncode == 1
    assert named in refused.stderr


def test_down_and_up_again_brings_back_what_ran(settled: Machine) -> None:
    settled.oak("down", "--installation", settled.name)
    assert not settled.container_pids()
    assert "oak" not in settled.enter("ip", "-br", "link").stdout
    settled.oak("up", "--installation", settled.name)
    settled.ready("example.server", SERVERS)
    until(settled.pages)
