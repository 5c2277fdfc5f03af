"""The doctor on a machine where something is broken for real: it names it, and what it says to type mends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import Machine, a_machine, until

from lab_fixture import Fleet
from oakestra.cli import doctor
from oakestra.cli.doctor.finding import Level
from oakestra.control import processes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
LISTEN = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which nothing runs."""
    with a_machine(f"oakd-{os.getpid()}", tmp_path) as machine:
        yield machine


def findings(machine: Machine, tier: str, *, code: int) -> list[dict[str, Any]]:
    """Ask the doctor; return what is not well."""
    said = machine.oak("doctor", tier, "--installation", machine.name, "-o", "json", check=False)
    assert said.returncode == code, said
    return [each for each in json.loads(said.stdout) if each["level"] != "ok"]


def traces(machine: Machine) -> tuple[str, ...]:
    """Return everything of a machine that looking at it might change."""
    commands = (("ip", "-br", "link"), ("ip", "route"), ("nft", "list", "ruleset"))
    seen = [machine.enter(*command).stdout for command in commands]
    places = (machine.installation.state, machine.installation.state.parent, Path("/var/lib"))
    scratch = [path for place in places for path in place.glob(".oak-doctor*")]
    forwards = machine.enter("cat", "/proc/sys/net/ipv4/ip_forward").stdout
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "oak-doctor" in line]
    return (*seen, forwards, *map(str, scratch), *mounts)


def test_a_machine_on_which_nothing_runs_is_fine_and_stays_as_it_is(
    machine: Machine, need_mosquitto: None
) -> None:
    before = traces(machine)
    said = machine.oak("doctor", "--installation", machine.name)
    assert "everything is fine" in said.stdout
    assert "the kernel has overlayfs, veth, bridge, vxlan, nf_tables, tun" in said.stdout
    assert traces(machine) == before


def test_an_installation_that_runs_is_fine_and_one_beside_it_is_not(
    machine: Machine, need_mosquitto: None
) -> None:
    machine.oak("up", "--installation", machine.name)
    said = machine.oak("doctor", "--installation", machine.name)
    assert "everything is fine" in said.stdout
    assert said.stdout.count("this tier has it") == 4, "two ports of root, two of the cluster"
    other = machine.oak("doctor", "--installation", f"{machine.name}-b", check=False)
    assert other.returncode == 1
    for port in (10000, 50052, 10100, 10003):
        assert f"TCP port {port} on 127.0.0.1 is taken by" in other.stdout


@pytest.mark.parametrize("host", ["root", "c1", "w1"])
def test_a_tier_that_nobody_wrote_down_is_known_by_its_command_line(fleet: Fleet, host: str) -> None:
    """The hosts of a lab are started by the lab; each finds its own tier, and whom that was told to join."""
    doctor = (sys.executable, "-m", "oakestra", "doctor")
    told = fleet.lab("exec", host, *doctor)
    tier = fleet.hosts()[host]["tier"]
    assert told.startswith(f"{tier}\n")
    assert told.rstrip().endswith("everything is fine")
    assert tier == "root" or " is reached at 198.18." in told


def test_a_peer_that_is_away_is_missed(machine: Machine, need_mosquitto: None) -> None:
    machine.oak("up", "--installation", machine.name)
    dead = [machine.pid(tier) for tier in ("supervisor", "cluster", "root")]
    for pid in dead:
        processes.kill(pid)
        until(lambda pid=pid: processes.look(pid) is None)  # type: ignore[misc]
    (root,) = findings(machine, "cluster", code=1)
    assert root["what"] == "root is not reached at 127.0.0.1:50052: Connection refused"
    (cluster,) = findings(machine, "worker", code=1)
    assert cluster["what"] == "the cluster is not reached at 127.0.0.1:10100: Connection refused"


def test_whoever_has_the_port_is_named(machine: Machine) -> None:
    with subprocess.Popen(
        ("nsenter", f"--net=/run/netns/{machine.name}", "--", sys.executable, "-c", LISTEN, "10000"),
        stdin=subprocess.PIPE,
    ) as squatter:
        until(lambda: ":10000" in machine.enter("ss", "-Hlnt").stdout)
        (taken,) = findings(machine, "root", code=1)
        assert f"(pid {squatter.pid})" in taken["what"]
        assert "api_port" in taken["remedy"]
        squatter.kill()
    assert findings(machine, "root", code=0) == []


def typed(machine: Machine, remedy: str) -> None:
    """Type what the doctor says, up to where it goes on in words."""
    for line in remedy.splitlines():
        machine.enter("sh", "-c", line.partition(", or ")[0].removeprefix("sudo "))


def route(machine: Machine) -> None:
    machine.enter("ip", "link", "add", "vpn", "type", "bridge")
    machine.enter("ip", "link", "set", "vpn", "up")
    machine.enter("ip", "route", "add", "10.20.0.0/16", "dev", "vpn")


def firewall(machine: Machine) -> None:
    machine.enter("nft", "add table inet mine")
    machine.enter("nft", "add chain inet mine f { type filter hook forward priority 0; policy drop; }")


def old_worker(machine: Machine) -> None:
    machine.enter("ip", "link", "add", "oakzzzzzg", "type", "bridge")


BROKEN = {
    "route": (route, "10.20.0.0/16 on vpn", "problem"),
    "left over": (old_worker, "oakzzzzzg", "warning"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_what_it_says_to_type_mends_it(machine: Machine, case: str) -> None:
    break_it, word, level = BROKEN[case]
    break_it(machine)
    (found,) = findings(machine, "worker", code=1 if level == "problem" else 0)
    assert word in found["what"]
    assert found["level"] == level
    typed(machine, found["remedy"])
    assert findings(machine, "worker", code=0) == []


def test_a_firewall_that_drops_is_named_and_the_rules_to_add_are_right(machine: Machine) -> None:
    """It goes on to drop what is not ours, so the doctor cannot see that it lets us through; nft can."""
    firewall(machine)
    (found,) = findings(machine, "worker", code=1)
    assert "inet mine f" in found["what"]
    typed(machine, found["remedy"])
    rules = machine.enter("nft", "list chain inet mine f").stdout
    assert 'iifname "oak*" accept' in rules
    assert 'oifname "oak*" accept' in rules


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    """Everything that Debian has but conmon."""
    for name in ("runc", "nft", "openssl"):
        (tmp_path / name).symlink_to(shutil.which(name, path=processes.PATH) or "")
    found = doctor.examine("worker", f"oakd-{os.getpid()}", None, path=str(tmp_path))
    (missing,) = [each for each in found if "conmon" in each.what]
    assert (missing.level, missing.what) == (Level.PROBLEM, "conmon is missing")
    assert missing.remedy == "sudo apt-get install conmon"
