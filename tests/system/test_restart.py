"""Agents are replaced while their machines are in use: nobody who is connected, or connects meanwhile, notices."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess

import pytest

from lab_fixture import Document, Fleet, client, direct, microservice, server, short, until
from lab_seen import containers
from lab_truth import until_true
from load import connections, requests
from oakestra.control import processes
from oakestra.lab import plan, power, record

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ADDRESSES = (f"10.30.89.{number}" for number in itertools.count(1))
PORT, PUBLISHED = 7, 8907


def echo(address: str) -> Document:
    """Return a server that says again what it hears, line by line, as long as anybody talks."""
    there = direct("c1", "w2")
    command = ["/bin/nc", "-ll", "-p", f"{PORT}", "-e", "/bin/cat"]
    known = {"addresses": {"rr_ip": address}, "port": f"{PUBLISHED}:{PORT}", "constraints": there}
    return microservice("echo") | known | {"cmd": command}


def test_nothing_fails_while_agents_are_restarted_and_rules_replaced(fleet: Fleet) -> None:
    web, talk = next(ADDRESSES), next(ADDRESSES)
    services = (
        server(web, port="8908:80", constraints=direct("c1", "w2")),
        echo(talk),
        client(web, constraints=direct("c1", "w1")),
        client(web, name="far", constraints=direct("c2")),
    )
    with fleet.application("busy", *services, counts={"server": 1, "echo": 1, "client": 1, "far": 1}):
        until_true(fleet)
        before = {found.instance: found.pid for found in containers(lab(fleet))}
        for each in ("client", "far"):
            fleet.until_greeted("busy", each)
        missed = unanswered(fleet)
        machine = fleet.hosts()["w2"]["address"]
        urls = (f"http://{web}/", f"http://{machine}:8908/")
        ends = (f"{talk}:{PORT}", f"{machine}:{PUBLISHED}")
        with requests(fleet, "w1", *urls) as asked, connections(fleet, "w1", *ends) as talked:
            for worker in ("w2", "w1"):
                replace_agent(fleet, worker, signal.SIGKILL)
                own = outdate_rules(fleet, worker)
                replace_agent(fleet, worker, signal.SIGTERM)
                until(lambda own=own, worker=worker: own in rules(fleet, worker))  # type: ignore[misc]
        until_true(fleet)
        assert {found.instance: found.pid for found in containers(lab(fleet))} == before
        assert unanswered(fleet) == missed, "neither by neighbours nor from the other site"
        print(f"{asked.asked} requests, {talked.asked} lines over {4 * len(ends)} connections, none failed")
        assert (list(asked.failed), list(talked.failed)) == ([], [])
        assert min(asked.asked, talked.asked) > 50


def unanswered(fleet: Fleet) -> list[str]:
    """Return what the clients have written of questions without an answer."""
    clients = [each for each in fleet.services("busy") if short(each) in ("client", "far")]
    return [line for each in clients for line in fleet.lines(each) if "no answer" in line]


def lab(fleet: Fleet) -> plan.Lab:
    found = record.read(fleet.name)
    assert found is not None
    return found


def replace_agent(fleet: Fleet, worker: str, order: int) -> None:
    """End an agent and wait until the next one is at work."""
    host = plan.host(lab(fleet), worker)
    old = power.running(lab(fleet), host)
    assert old is not None
    processes.kill(old.pid, order)
    until(lambda: (new := power.running(lab(fleet), host)) is not None and new.pid != old.pid)
    until(lambda: fleet.hosts()[worker]["trouble"] == "")


def rules(fleet: Fleet, worker: str) -> str:
    return fleet.lab("exec", worker, "nft", "list", "ruleset")


def outdate_rules(fleet: Fleet, worker: str) -> str:
    """Have a worker's rules look like another version's; return the words by which its agent knows its own."""
    there = rules(fleet, worker)
    (table,) = re.findall(r"table inet (oak_\w+)", there)
    (comment,) = re.findall(r'comment "(oakestra \w+)"', there)
    text = f"delete table inet {table}\n{there.replace(comment, 'oakestra 0')}"
    inside = ("nsenter", f"--net={plan.namespace_path(plan.host(lab(fleet), worker).namespace)}", "--")
    subprocess.run((*inside, "nft", "-f", "-"), input=text, text=True, check=True)
    return str(comment)
