"""What the doctor says of a machine. The files in `doctor/` are what it says; look at a difference before taking it over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oakestra.cli.doctor import cluster, finding, root, worker
from oakestra.cli.doctor.facts import (
    Cgroups,
    ClusterFacts,
    Disk,
    Firewall,
    Leftover,
    Machine,
    Peer,
    Port,
    Program,
    RootFacts,
    Route,
    Store,
    WorkerFacts,
)
from oakestra.cli.doctor.finding import Finding, Level

GOLDEN = Path(__file__).parent / "doctor"
NOON_S = 1_800_000_000.0

MACHINE = Machine(
    superuser=True,
    python="/opt/oak/bin/python",
    memory_available_mib=900,
    memory_total_mib=2048,
    disk=Disk(path="/var/lib/oakestra", free_mib=9000, total_mib=30000),
    wall_s=NOON_S,
    code_wall_s=NOON_S - 1000,
    installed=True,
)
ILL = replace(
    MACHINE,
    missing_packages=("PyJWT", "starlette"),
    memory_available_mib=20,
    disk=replace(MACHINE.disk, free_mib=10),
    wall_s=12.0,
)
ROOT = RootFacts(
    machine=MACHINE,
    ports=(
        Port(setting="api_port", number=10000, address="127.0.0.1", holder="python (pid 7)", ours=True),
        Port(setting="grpc_port", number=50052, address="127.0.0.1"),
    ),
    store=Store(path="/var/lib/oakestra/default/root/root.db", exists=True),
    password_file="/var/lib/oakestra/default/root/admin.password",
    password_mode=0o600,
)
ILL_ROOT = RootFacts(
    machine=ILL,
    ports=(
        Port(setting="api_port", number=10000, address="127.0.0.1", holder="nginx (pid 42)"),
        Port(setting="grpc_port", number=52, address="10.1.2.3", refused="Cannot assign requested address"),
    ),
    store=replace(ROOT.store, trouble="database disk image is malformed"),
    password_file=ROOT.password_file,
    password_mode=0o644,
)
CLUSTER = ClusterFacts(
    machine=MACHINE,
    programs=(Program(name="mosquitto", path="/usr/sbin/mosquitto", version=(2, 0, 11)),),
    ports=(Port(setting="api_port", number=10100, address="0.0.0.0"),),
    store=Store(path="/var/lib/oakestra/default/cluster/cluster.db", exists=False),
    root=Peer(what="root", address="10.1.2.3:50052"),
)
ILL_CLUSTER = replace(
    CLUSTER,
    programs=(Program(name="mosquitto"),),
    root=replace(CLUSTER.root, trouble="Connection refused"),
)
WORKER = WorkerFacts(
    machine=MACHINE,
    programs=(
        Program(name="runc", path="/usr/sbin/runc", version=(1, 1, 5)),
        Program(name="conmon", path="/usr/bin/conmon", version=(2, 1, 6)),
        Program(name="nft", path="/usr/sbin/nft", version=(1, 0, 6)),
        Program(name="openssl", path="/usr/bin/openssl", version=(3, 0, 19)),
    ),
    attempts=dict.fromkeys(("overlayfs", "veth", "bridge", "vxlan", "nf_tables", "tun"), ""),
    cgroups=Cgroups(mode="v2", controllers=frozenset({"memory", "cpu", "pids"})),
    forwarding={"IPv4": "", "IPv6": ""},
    routes=(
        Route(destination="0.0.0.0/0", device="eth0"),
        Route(destination="10.18.0.0/26", device="oakabcdeg"),
        Route(destination="10.0.0.0/16", device="eth0"),
    ),
    firewalls=(Firewall(chain="ip filter FORWARD", command="iptables-nft", command_found=True),),
    tunnel=Port(setting="tunnel_port", number=50103, address="0.0.0.0", protocol="UDP"),
    cluster=(
        Peer(what="the cluster", address="10.1.2.3:10100", ahead_s=0.4),
        Peer(what="the cluster's broker", address="10.1.2.3:10003"),
    ),
    name_servers=("10.1.2.1", "10.1.2.2"),
)
ILL_WORKER = WorkerFacts(
    machine=ILL,
    programs=(
        Program(name="runc", path="/usr/sbin/runc", version=(0, 1, 1)),
        Program(name="conmon"),
        Program(name="nft", path="/usr/sbin/nft", said="Segmentation fault"),
        Program(name="openssl"),
    ),
    attempts={
        "overlayfs": "the kernel cannot mount overlayfs here",
        "veth": "",
        "bridge": "Operation not supported",
        "vxlan": "Operation not supported",
        "nf_tables": "Error: Could not process rule: No such file or directory",
        "tun": "No such file or directory",
    },
    cgroups=Cgroups(mode="v1", controllers=frozenset({"cpu", "pids"})),
    forwarding={"IPv4": "/proc/sys/net/ipv4/ip_forward cannot be written"},
    routes=(Route(destination="10.30.0.0/24", device="tun0"), Route(destination="10.0.0.0/8", device="eth1")),
    firewalls=(
        Firewall(chain="ip filter FORWARD", command="iptables-nft"),
        Firewall(chain="inet mine through"),
    ),
    tunnel=replace(WORKER.tunnel, holder="openvpn (pid 9)"),
    leftovers=(Leftover(what="the link oakzzzzzg", removal="ip link delete oakzzzzzg"),),
    cluster=(Peer(what="the cluster", address="10.1.2.3:10100", ahead_s=-7200.0),),
    name_servers=(),
)
HEALTHY = {"root": root.judge(ROOT), "cluster": cluster.judge(CLUSTER), "worker": worker.judge(WORKER)}
BROKEN = {
    "root": root.judge(ILL_ROOT),
    "cluster": cluster.judge(ILL_CLUSTER),
    "worker": worker.judge(ILL_WORKER),
}
MACHINES: Mapping[str, Mapping[str, Sequence[Finding]]] = {
    "healthy": {tier: tuple(findings) for tier, findings in HEALTHY.items()},
    "broken": {tier: tuple(findings) for tier, findings in BROKEN.items()},
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_doctor_says_what_it_said(name: str) -> None:
    assert finding.render(MACHINES[name]) + "\n" == (GOLDEN / f"{name}.txt").read_text()


def test_whoever_is_well_hears_only_that() -> None:
    assert {each.level for findings in MACHINES["healthy"].values() for each in findings} == {Level.OK}
    assert not finding.has_problems(MACHINES["healthy"])
    assert finding.summary(MACHINES["healthy"]) == "everything is fine"


def test_whatever_is_wrong_comes_with_what_it_means_and_what_to_type() -> None:
    assert finding.has_problems(MACHINES["broken"])
    for findings in MACHINES["broken"].values():
        for each in findings:
            said = (each.meaning, each.remedy)
            assert all(said) if each.level is not Level.OK else not any(said), each


def levels(findings: Sequence[Finding], word: str) -> list[Level]:
    found = [each.level for each in findings if word in each.what]
    assert found, f"nothing is said about {word}: {[each.what for each in findings]}"
    return found


WORKER_CASES: dict[str, tuple[dict[str, Any], str, Level]] = {
    "too old by a digit": (
        {"programs": (WORKER.programs[0], Program(name="conmon", path="/c", version=(2, 0, 24)), *WORKER.programs[2:])},
        "conmon", Level.PROBLEM,
    ),
    "just new enough": (
        {"programs": (WORKER.programs[0], Program(name="conmon", path="/c", version=(2, 0, 25)), *WORKER.programs[2:])},
        "conmon", Level.OK,
    ),
    "what nothing needs yet": (
        {"programs": (*WORKER.programs[:3], Program(name="openssl"))}, "openssl", Level.WARNING
    ),
    "no tun": ({"attempts": {"tun": "No such device"}}, "tun", Level.WARNING),
    "no vxlan": ({"attempts": {"vxlan": "Operation not supported"}}, "vxlan", Level.PROBLEM),
    "no memory limits": (
        {"cgroups": Cgroups(mode="v2", controllers=frozenset({"cpu", "pids"}))}, "control groups", Level.WARNING
    ),
    "no control groups": ({"cgroups": Cgroups(mode="")}, "control groups", Level.PROBLEM),
    "a VPN's half of the world": (
        {"routes": (Route(destination="0.0.0.0/1", device="tun0"),)}, "overlay's", Level.OK
    ),
    "another worker's route": (
        {"routes": (Route(destination="10.18.0.64/26", device="oakbbbbbg"),)}, "overlay's", Level.OK
    ),
    "a whole company in 10/8": (
        {"routes": (Route(destination="10.0.0.0/8", device="eth0"),)}, "10.0.0.0/8", Level.PROBLEM
    ),
    "our own tunnel": (
        {"tunnel": replace(WORKER.tunnel, holder="the tunnel of a worker", ours=True)}, "50103", Level.OK
    ),
    "another's tunnel": (
        {"tunnel": replace(WORKER.tunnel, holder="the tunnel of a worker")}, "50103", Level.PROBLEM
    ),
    "a clock two minutes off": (
        {"cluster": (Peer(what="the cluster", address="c", ahead_s=120.0),)}, "clock of", Level.WARNING
    ),
    "a clock two hours off": (
        {"cluster": (Peer(what="the cluster", address="c", ahead_s=-7200.0),)}, "clock of", Level.PROBLEM
    ),
    "little memory": ({"machine": replace(MACHINE, memory_available_mib=150)}, "available", Level.WARNING),
    "little disk": (
        {"machine": replace(MACHINE, disk=replace(MACHINE.disk, free_mib=500))}, "free at", Level.WARNING
    ),
    "a clock without a battery": ({"machine": replace(MACHINE, wall_s=0.0)}, "1970-01-01", Level.PROBLEM),
    "a clock in another time zone's file": (
        {"machine": replace(MACHINE, wall_s=MACHINE.code_wall_s - 3600)}, "the clock says", Level.OK
    ),
    "only loopback's name server": ({"name_servers": ()}, "name server", Level.WARNING),
}  # fmt: skip


@pytest.mark.parametrize("case", WORKER_CASES)
def test_a_worker_s_machine_is_judged(case: str) -> None:
    change, word, level = WORKER_CASES[case]
    assert levels(tuple(worker.judge(replace(WORKER, **change))), word) == [level]


def test_who_is_not_root_is_told_so_and_hears_nothing_that_nobody_looked_at() -> None:
    """Absence of facts is no fact: without root rights there are no routes, so nothing may be said of them."""
    unseen = replace(
        WORKER, machine=replace(MACHINE, superuser=False), attempts={}, routes=(), firewalls=(), forwarding={}
    )
    unseen = replace(unseen, machine=replace(unseen.machine, installed=False))
    findings = tuple(worker.judge(unseen))
    assert levels(findings, "root rights") == [Level.PROBLEM]
    for word in ("overlay's addresses", "forwarded", "the kernel has", "50103", "no cluster yet"):
        assert not [each for each in findings if word in each.what]


def test_who_never_joined_has_nobody_to_miss() -> None:
    fresh = replace(MACHINE, installed=False)
    alone = replace(ILL_CLUSTER, machine=fresh, programs=CLUSTER.programs)
    assert not finding.has_problems({"cluster": tuple(cluster.judge(alone))})
    lonely = replace(WORKER, machine=fresh, cluster=(Peer(what="the cluster", address="c", trouble="no"),))
    assert not finding.has_problems({"worker": tuple(worker.judge(lonely))})


ROOT_CASES: dict[str, tuple[dict[str, Any], str, Level]] = {
    "nobody may see who has it": (
        {"ports": (replace(ROOT.ports[1], holder="another program", hidden=True),)}, "only root may see", Level.WARNING
    ),
    "records of others": ({"store": replace(ROOT.store, hidden=True)}, "only root may look", Level.WARNING),
    "records from the future": (
        {"store": replace(ROOT.store, trouble="a newer version")}, "a newer version", Level.PROBLEM
    ),
    "somebody chose a password": ({"password_mode": None}, "chosen by somebody", Level.OK),
    "a root that never ran": (
        {"password_mode": None, "store": replace(ROOT.store, exists=False)}, "for the first time", Level.OK
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROOT_CASES)
def test_a_root_s_machine_is_judged(case: str) -> None:
    change, word, level = ROOT_CASES[case]
    assert levels(tuple(root.judge(replace(ROOT, **change))), word) == [level]


def test_programs_get_the_same_as_people() -> None:
    told = finding.document(MACHINES["broken"])
    assert len(told) == sum(map(len, MACHINES["broken"].values()))
    assert told[0] == {
        "tier": "root",
        "level": "problem",
        "what": "Python packages are missing: PyJWT starlette",
        "meaning": "the tier does not start",
        "remedy": "/opt/oak/bin/python -m pip install PyJWT starlette",
    }
    assert {each["level"] for each in told} == {"ok", "warning", "problem"}


def test_colours_are_for_terminals() -> None:
    assert "\x1b[31m✗\x1b[0m conmon is missing" in finding.render(MACHINES["broken"], coloured=True)
    assert "\x1b" not in finding.render(MACHINES["broken"])
