"""An installation on a machine that systemd runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from booted import Booted, a_booted_machine
from machine import EXAMPLE, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
TIERS = ("root", "cluster", "worker")
NAME = 'site "A" $5 100%'
"""Everything in it means something to systemd."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, need_mosquitto: None) -> Iterator[Booted]:
    """Root, cluster, worker and the example, started with `oak up`; taking them down leaves nothing."""
    with a_booted_machine(f"oaks-{os.getpid()}", tmp_path_factory.mktemp("booted")) as machine:
        machine.oak("up", "--name", NAME)
        machine.enter(sys.executable, "-m", "oakestra.runtime.images.build", "--example", "/tmp/example.tar")
        machine.oak("worker", "image", "load", "/tmp/example.tar")
        machine.oak("app", "create", str(EXAMPLE))
        machine.oak("service", "scale", "example.server", "2", "--wait")
        yield machine
        assert "everything is removed" in machine.oak("down", "--purge").stdout
        places = ("/etc/systemd/system", "/run", "/var/log", "/var/lib/oakestra")
        files = machine.enter("find", *places, "-mindepth", "1", "-name", "oakestra*").stdout
        units = machine.enter("systemctl", "list-units", "--all", "--no-legend", "oakestra-*").stdout
        brokers = machine.enter("pgrep", "mosquitto", check=False).stdout
        assert (units, files, brokers, servers(machine)) == ("", "", "", [])


def servers(machine: Booted) -> list[str]:
    return machine.enter("pgrep", "-x", "serve", check=False).stdout.split()


def both_servers(machine: Booted) -> list[str]:
    """Return the example's servers once they are what they will be: the first moment of each is runc's own."""
    return until(lambda: found if len(found := servers(machine)) == 2 else [])


def main_pid(machine: Booted, tier: str) -> str:
    return machine.enter("systemctl", "show", "-P", "MainPID", f"oakestra-default-{tier}").stdout.strip()


def test_systemd_keeps_every_tier(machine: Booted) -> None:
    rows: list[dict[str, Any]] = machine.json("status")
    assert [row["name"] for row in rows] == ["systemd", *TIERS]
    assert [row["trouble"] for row in rows] == [""] * 4
    assert [str(row["pid"]) for row in rows[1:]] == [main_pid(machine, tier) for tier in TIERS]
    assert [cluster["name"] for cluster in machine.json("cluster", "ls")] == [NAME]


@pytest.mark.parametrize("tier", TIERS)
def test_a_killed_tier_comes_back_and_no_container_notices(machine: Booted, tier: str) -> None:
    before, dead = both_servers(machine), main_pid(machine, tier)
    machine.enter("kill", "-9", dead)
    until(lambda: main_pid(machine, tier) not in (dead, "0"))
    until(lambda: machine.oak("status", check=False).returncode == 0)
    assert servers(machine) == before


def test_restarting_the_worker_s_unit_touches_no_container(machine: Booted) -> None:
    before = both_servers(machine)
    machine.enter("systemctl", "restart", "oakestra-default-worker", "oakestra-default-cluster")
    until(lambda: machine.oak("status", check=False).returncode == 0)
    assert servers(machine) == before


def test_what_a_tier_says_is_in_the_journal(machine: Booted) -> None:
    journal = ("journalctl", "-u", "oakestra-default-root", "--no-pager")
    until(lambda: "root is up" in machine.enter(*journal).stdout)


def test_everything_is_back_after_a_power_cut(machine: Booted) -> None:
    machine.cut_power()
    machine.boot()
    until(lambda: machine.oak("status", check=False).returncode == 0)
    machine.ready("example.server", 2)
