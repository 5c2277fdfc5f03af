"""What a lab's machines really have: processes, mounts, links, rules, files and rows, each as a bag of words.

Looks from outside, at the kernel and the disk; asks no tier. What should be there, `lab_truth` says.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oakestra.control import processes
from oakestra.control.installation import Installation
from oakestra.lab import plan
from oakestra.lab.plan import Host, Lab
from oakestra.lab.remains import is_named
from oakestra.network.names import PREFIX
from oakestra.runtime.oci.linux.cgroups import hierarchies

Document = dict[str, Any]
Facts = dict[str, Counter[str]]
"""By kind: how often each thing is there."""
OWN_LINKS = {"lo", "eth0"}
_LOOK = "nft -j list ruleset; echo; ip -j link; echo; bridge -j fdb"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """One machine of a lab."""

    facts: Facts
    desired: Document = field(default_factory=dict)
    """A worker's own file."""
    pids: Mapping[int, int] = field(default_factory=dict)
    """The first process of each container that runs on a worker, by its number there."""
    rows: Mapping[str, tuple[Document, ...]] = field(default_factory=dict)
    """Of an orchestrator's store, by table."""


def look(lab: Lab) -> dict[str, HostSeen]:
    """Return what every host has, and under the empty name, what belongs to none of them."""
    found = {host.name: _look(host) for host in plan.hosts(lab)}
    found[""] = HostSeen(facts=_of_all(lab))
    for host, what in _processes(lab, found):
        found[host].facts.setdefault("process", Counter())[what] += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container that runs."""

    worker: str
    instance: str
    """Application, service and number."""
    pid: int
    conmon: int


def containers(lab: Lab) -> tuple[Container, ...]:
    """Return every container that runs, by what its worker wrote down."""
    return tuple(
        found for host in plan.hosts(lab) if host.tier == "worker" for found in _containers(host)
    )  # fmt: skip


def _containers(host: Host) -> Iterator[Container]:
    state = Installation(host.installation).state / "worker"
    pids = _first_processes(host)
    for row in desired(host).get("instances", ()):
        if row["number"] not in pids:
            continue
        application, _, service, _ = row["spec"]["name"].split(".")
        with contextlib.suppress(FileNotFoundError):  # it goes while one looks
            yield Container(
                worker=host.name,
                instance=f"{application}.{service}.{row['key'][1]}",
                pid=pids[row["number"]],
                conmon=int((state / "instances" / str(row["number"]) / "conmon.pid").read_text()),
            )


def _of_all(lab: Lab) -> Facts:
    names = Path("/run/netns").glob(f"{plan.prefix(lab.name)}*")
    return {"network namespace": Counter(path.name for path in names)}


def _look(host: Host) -> HostSeen:
    if host.tier != "worker":
        return HostSeen(facts=_mounts(host), rows=rows(host))
    pids = _first_processes(host)
    return HostSeen(
        facts={**_mounts(host), **_files(host), **_kernel(host), **_cgroups(host, pids)},
        desired=desired(host),
        pids=pids,
    )


# --- disk --------------------------------------------------------------------------------------------------------


def _mounts(host: Host) -> Facts:
    home = Installation(host.installation)
    points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = [
        point
        for point in points
        if any(parent in point.parents for parent in (home.state, home.runtime, home.logs))
    ]
    return {"mount": Counter(map(str, ours))}


def _files(host: Host) -> Facts:
    home = Installation(host.installation)
    state, runtime = home.state / "worker", home.runtime / "worker"
    places = {
        "bundle": state / "instances",
        "half an image": state / "images" / "work",
        "state of runc": runtime / "runc",
        "exit code": runtime / "exits",
        "namespace file": runtime / "netns",
        "log directory": home.logs / "instances",
    }
    return {kind: Counter(_names(place)) for kind, place in places.items()}


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are all we need
    except FileNotFoundError:
        return []


def _json(path: Path) -> Document:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}


def rows(host: Host) -> dict[str, tuple[Document, ...]]:
    """Return everything in an orchestrator's store at one moment, by table."""
    path = Installation(host.installation).state / host.tier / f"{host.tier}.db"
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    with contextlib.closing(store):
        store.execute("BEGIN")
        tables = [row[0] for row in store.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            table: tuple(json.loads(body) for (body,) in store.execute(f"SELECT body FROM {table}"))
            for table in tables
            if table not in ("epoch", "events")
        }


def desired(host: Host) -> Document:
    """Return what a worker has written down that it should run."""
    return _json(Installation(host.installation).state / "worker" / "desired.json")


# --- kernel ------------------------------------------------------------------------------------------------------


def _kernel(host: Host) -> Facts:
    done = subprocess.run(
        ("nsenter", f"--net={plan.namespace_path(host.namespace)}", "--", "sh", "-c", _LOOK),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rules, links, forwarding = (json.loads(part) for part in _parts(done.stdout))
    ways = [entry for entry in forwarding if "dst" in entry]
    return {
        "link": Counter(link["ifname"] for link in links if link["ifname"] not in OWN_LINKS),
        "way through the tunnel": Counter(entry["dst"] for entry in ways),
        **_rules(rules["nftables"]),
    }


def _parts(text: str) -> Iterator[str]:
    decoder = json.JSONDecoder()
    while text := text.strip():
        _, end = decoder.raw_decode(text)
        yield text[:end]
        text = text[end:]


def _rules(found: list[Document]) -> Facts:
    facts: Facts = {"nft table": Counter(one["table"]["name"] for one in found if "table" in one)}
    for one in found:
        listed = one.get("map") or one.get("set")
        if listed and listed["table"].startswith(f"{PREFIX}_"):
            elements = [_element(element) for element in listed.get("elem", ())]
            facts[f"nft {listed['name']}"] = Counter(elements)
    return facts


def _element(element: Any) -> str:
    """Return an element as words: fields of a key, and after an arrow what it leads to."""
    match element:
        case [key, value]:
            return f"{_element(key)} -> {_element(value)}"
        case {"concat": fields}:
            return " ".join(map(_element, fields))
        case {"goto": {"target": chain}}:
            return str(chain)
        case {"elem": {"val": value}}:
            return _element(value)
        case _:
            return str(element)


def _cgroups(host: Host, pids: Mapping[int, int]) -> Facts:
    """Return the containers' cgroups, and who is in one without being of the container."""
    groups, strangers = set(), Counter[str]()
    for point in hierarchies(Path("/proc/self/mountinfo").read_text()).mount_points:
        for worker in (point / "oakestra" / host.installation).glob("*/"):
            for directory, _, _ in os.walk(worker):
                name = str(Path(directory).relative_to(worker))
                if name != ".":
                    groups.add(name)
                    strangers.update(_strangers(Path(directory), name, pids))
    return {"cgroup": Counter(groups), "stranger in a cgroup": Counter(set(strangers))}


def _strangers(group: Path, name: str, pids: Mapping[int, int]) -> Iterator[str]:
    with contextlib.suppress(OSError):
        first = pids.get(int(name)) if name.isdecimal() else None
        for pid in (group / "cgroup.procs").read_text().split():
            if first is None or _room(int(pid), "pid") != _room(first, "pid"):
                yield f"{name}: {' '.join(processes.arguments(int(pid)))}"


def _first_processes(host: Host) -> dict[int, int]:
    states = (Installation(host.installation).runtime / "worker" / "runc").glob("*/state.json")
    found = {}
    for state in states:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(state.read_text())
            if processes.is_running(told["init_process_pid"], told["init_process_start"]):
                found[int(state.parent.name.rpartition("-")[2])] = int(told["init_process_pid"])
    return found


# --- processes ---------------------------------------------------------------------------------------------------


def _processes(lab: Lab, found: Mapping[str, HostSeen]) -> Iterator[tuple[str, str]]:
    """Yield every process of the lab but those in containers, with its host."""
    hosts = plan.hosts(lab)
    rooms = {_inode(Path(plan.namespace_path(host.namespace))): host.name for host in hosts}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):  # noqa: PTH208 - the same
        arguments = processes.arguments(pid)
        if not arguments or processes.look(pid) is None:
            continue
        started = [host for host in hosts if is_named(arguments, host.installation)]
        keeper = _keeps(arguments, found)
        if started:
            yield started[0].name, started[0].tier
        elif is_named(arguments, plan.installation(lab.name)):
            yield "", "supervisor"
        elif keeper is not None:
            yield keeper
        elif (host := rooms.get(_room(pid, "net"))) is not None:
            program = Path(arguments[0]).name
            yield host, "broker" if program == "mosquitto" else f"stranger: {' '.join(arguments)}"


def _keeps(arguments: tuple[str, ...], found: Mapping[str, HostSeen]) -> tuple[str, str] | None:
    """Return which container a conmon or a runc has to do with."""
    program = Path(arguments[0]).name
    if program not in ("conmon", "runc"):
        return None
    for argument in arguments:
        words = argument.split("-")
        if words[0] == PREFIX and len(words) == 3:  # oak-<worker>-<number>
            for host, seen in found.items():
                if seen.desired.get("worker", "-").startswith(words[1]):
                    return host, f"{program} of {words[2]}"
    return None


def _room(pid: int, kind: str) -> tuple[int, int] | None:
    return _inode(Path(f"/proc/{pid}/ns/{kind}"))


def _inode(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
