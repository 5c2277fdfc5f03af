"""Compare what a lab has with what it should have: what users asked for, and where root says that it is.

Works out from first principles, not from the tiers' own code, what each machine must have and nothing else; tells
every difference in words.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface

from lab_fixture import Fleet, short
from lab_seen import Document, Facts, HostSeen, look
from oakestra.lab import plan, record
from oakestra.lab.plan import Lab
from oakestra.network.names import Names

SETTLED_S = 60.0
TUNNEL_PORT = 50103
_CHANGING = (OSError, ValueError, KeyError, sqlite3.Error, subprocess.CalledProcessError)
"""What comes of looking while a host boots, a worker is not known to live, or a file is being replaced."""
_PREFIXES = {"v4": 26, "v6": 64}
"""Of a worker's subnet."""


@dataclass(frozen=True, slots=True)
class Said:
    """What root's API says."""

    services: Sequence[Document]
    workers: Mapping[str, Document]
    """Those that live, by name."""

    @property
    def instances(self) -> list[Document]:
        """Every instance, with its service and a name that people know it by."""
        return [
            {**one, "of": service, "called": f"{known_as(service)}.{one['number']}"}
            for service in self.services
            for one in service["instances"]
        ]

    def on(self, worker: str) -> list[Document]:
        return [one for one in self.instances if one["worker"] == worker]


def known_as(service: Document) -> str:
    """Return application and service."""
    return f"{service['name'].split('.')[0]}.{short(service)}"


def until_true(fleet: Fleet, *, timeout_s: float = SETTLED_S) -> None:
    """Wait until all is as it should be; fail telling every difference there is."""
    end_s = time.monotonic() + timeout_s
    while found := differences(fleet):
        assert time.monotonic() < end_s, "\n".join([f"not as it should be after {timeout_s} s:", *found])
        time.sleep(0.1)


def differences(fleet: Fleet) -> list[str]:
    """Return everything in a fleet that is missing, too much, doubled or not well, each in a sentence."""
    lab = record.read(fleet.name)
    assert lab is not None, "the lab is up"
    said = Said(
        services=fleet.ask(lambda: fleet.root.get("/api/v1/services/")),
        workers={worker["name"]: worker for worker in fleet.live()},
    )
    try:
        seen = look(lab)
        return [*_unmet(fleet.asked, said), *_compared(seen, _wanted(lab, said, seen))]
    except _CHANGING as error:
        return [f"cannot be looked at: {error!r}"]


def _compared(seen: Mapping[str, HostSeen], wanted: Mapping[str, Facts]) -> Iterator[str]:
    for host, facts in wanted.items():
        there = {kind: bag for kind, bag in seen[host].facts.items() if bag}
        for kind in sorted(facts.keys() | there.keys()):
            found, right = there.get(kind, Counter()), facts.get(kind, Counter())
            for thing in sorted(found.keys() | right.keys()):
                if found[thing] != right[thing]:
                    count = {0: "is not there", 1: "is there"}.get(
                        found[thing], f"is there {found[thing]} times"
                    )
                    yield f"{host or 'lab'}: {kind} {thing} {count}, should be {right[thing]} times"


def _unmet(asked: Mapping[str, int], said: Said) -> Iterator[str]:
    """Yield what users asked for and root does not have, and the other way round."""
    counts = {known_as(service): len(service["instances"]) for service in said.services}
    for name in sorted(asked.keys() | counts.keys()):
        if asked.get(name) != counts.get(name):
            yield f"root: {name} has {counts.get(name)} instances, asked for were {asked.get(name)}"
    for one in said.instances:
        if not (one["wanted"] and one["ready"] and one["worker"] in said.workers):
            why = one["reason"] or one["placement_reason"]
            yield f"root: {one['called']} is {one['phase']} at {one['worker'] or 'no worker'}: {why}"
    for name, worker in said.workers.items():
        if worker["instances"] != len(said.on(name)):
            yield f"root: {name} is said to hold {worker['instances']} instances, {len(said.on(name))} are there"
        if worker["trouble"]:
            yield f"root: {name} is in trouble: {worker['trouble']}"


# --- what should be -----------------------------------------------------------------------------------------------


def _wanted(lab: Lab, said: Said, seen: dict[str, HostSeen]) -> dict[str, Facts]:
    """Return what every host should have. Rows and what a worker desires become facts of what is seen, too."""
    hosts = plan.hosts(lab)
    found: dict[str, Facts] = {
        "": {
            "process": Counter(["supervisor"]),
            "network namespace": Counter(
                [plan.prefix(lab.name) + plan.SWITCH, *(host.namespace for host in hosts)]
            ),
        }
    }
    for host in hosts:
        match host.tier:
            case "root":
                seen[host.name].facts.update(_root_rows(seen[host.name], said))
                found[host.name] = _root(said, [each.name for each in hosts if each.tier == "cluster"])
            case "cluster":
                seen[host.name].facts.update(_cluster_rows(seen[host.name]))
                workers = [each.name for each in hosts if each.above == host.address]
                found[host.name] = _cluster(host.name, said, workers)
            case _:
                seen[host.name].facts["desired"] = _desired(seen[host.name])
                found[host.name] = _worker(host.name, host.installation, said, seen)
    return found


def _root(said: Said, clusters: Sequence[str]) -> Facts:
    return {
        "process": Counter(["root"]),
        "row of a slot": Counter(_placed(one) for one in said.instances),
        "row of a service": Counter(known_as(service) for service in said.services),
        "row of an application": Counter({service["name"].split(".")[0] for service in said.services}),
        "row of a cluster": Counter(clusters),
    }


def _root_rows(root: HostSeen, said: Said) -> Facts:
    names = {service["id"]: known_as(service) for service in said.services}
    used = {one["address"]["v4"] for one in said.instances}
    return {
        "row of a slot": Counter(
            f"{names.get(row['slot'][0], row['slot'][0])}.{row['slot'][1]} {row['placement']}"
            + (f", set aside in {row['aside']['cluster']}" if row["aside"] else "")
            + ("" if row["wanted"] else " not wanted any more")
            for row in root.rows["slots"]
        ),
        "row of a service": Counter(
            names.get(row["spec"]["id"], row["spec"]["id"]) for row in root.rows["services"]
        ),
        "row of an application": Counter(
            row["application"]["name"] + (" deleted" if row["application"]["deleted"] else "")
            for row in root.rows["applications"]
        ),
        "row of a cluster": Counter(row["name"] for row in root.rows["clusters"]),
        "row of a withdrawal": Counter(map(json.dumps, root.rows["withdrawals"])),
        "address in quarantine and in use": Counter(
            row["address"]["v4"] for row in root.rows["quarantine"] if row["address"]["v4"] in used
        ),
    }


def _cluster(name: str, said: Said, workers: Sequence[str]) -> Facts:
    here = [one for one in said.instances if one["cluster"] == name]
    return {
        "process": Counter(["cluster", "broker"]),
        "row of a slot": Counter(f"{_attempt(one)} at {one['worker_id']}" for one in here),
        "row of a service": Counter({one["of"]["id"] for one in here}),
        "row of a worker": Counter(workers),
    }


def _cluster_rows(cluster: HostSeen) -> Facts:
    return {
        "row of a slot": Counter(map(_slot_row, cluster.rows["slots"])),
        "row of a service": Counter(row["id"] for row in cluster.rows["services"]),
        "row of a worker": Counter(row["name"] for row in cluster.rows["workers"]),
        "row of a withdrawal": Counter(map(json.dumps, cluster.rows["withdrawals"])),
    }


def _slot_row(row: Document) -> str:
    service, number, placement = row["placed"]
    leaving = f", leaving {row['leaving']['worker']}" if row["leaving"] else ""
    aside = f", set aside at {row['aside']['worker']}" if row["aside"] else ""
    return f"{service}.{number} {placement}.{row['attempt']} at {row['worker']}{leaving}{aside}"


def _placed(one: Document) -> str:
    return f"{one['called']} {one['placement']}"


def _attempt(one: Document) -> str:
    return f"{one['of']['id']}.{one['number']} {one['placement']}.{one['attempt']}"


# --- a worker -----------------------------------------------------------------------------------------------------


def _desired(worker: HostSeen) -> Counter[str]:
    return Counter(map(_own_words, worker.desired.get("instances", ())))


def _own_words(row: Document) -> str:
    service, number, placement, attempt = row["key"]
    words = [f"{service}.{number} {placement}.{attempt} restart {row['restart']}"]
    words += ["withdrawn"] if row["withdrawn"] else []
    words += [f"ended: {row['outcome']['reason']}"] if row["outcome"] else []
    return " ".join(words)


def _worker(name: str, installation: str, said: Said, seen: Mapping[str, HostSeen]) -> Facts:
    here, desired = said.on(name), seen[name].desired
    numbers = {tuple(row["key"]): str(row["number"]) for row in desired.get("instances", ())}
    mine = {
        _attempt(one): numbers.get((one["of"]["id"], one["number"], one["placement"], one["attempt"]), "?")
        for one in here
    }
    bag = Counter(mine.values())
    id = said.workers.get(name, {}).get("id", "")
    names = Names.of(id)
    others = _others(name, said, seen) if here else {}
    links = [names.gateway] if desired.get("subnets") else []
    links += [names.tunnel] if others else []
    return {
        "process": Counter(["worker", *(f"conmon of {number}" for number in mine.values())]),
        "desired": Counter(f"{_attempt(one)} restart {one['restart']}" for one in here),
        "mount": Counter(f"/run/oakestra/{installation}/worker/netns/{number}" for number in mine.values()),
        "bundle": bag,
        "state of runc": Counter(f"oak-{id[:6]}-{number}" for number in mine.values()),
        "namespace file": bag,
        "log directory": bag,
        "cgroup": bag,
        "link": Counter([*links, *(f"{names.instances}{number}" for number in mine.values())]),
        "way through the tunnel": Counter(said.workers[other]["host"] for other in others),
        "nft table": Counter([names.table] if desired.get("subnets") else []),
        **_elements(name, said, others),
    }


def _others(name: str, said: Said, seen: Mapping[str, HostSeen]) -> dict[str, Sequence[Document]]:
    """Return the subnets of the other workers that run something: all applications have one owner here."""
    return {
        other: seen[other].desired.get("subnets", ())
        for other in said.workers
        if other != name and said.on(other)
    }


def _elements(name: str, said: Said, others: Mapping[str, Sequence[Document]]) -> Facts:
    if not said.on(name):
        return {}
    found: Facts = {}
    for family in ("v4", "v6"):
        number = family[1]
        ways = dict(_ways(name, said, family))
        addresses = {one["namespace_address"][family]: one["address"][family] for one in said.instances}
        gateways = [
            _gateway(subnet[family].partition("/")[0], family) for subnets in others.values() for subnet in subnets
        ]  # fmt: skip
        found |= {
            f"nft svc{number}": Counter(f"{at} -> rr{number}_{len(ends)}" for at, ends in ways.items() if ends),
            f"nft be{number}": Counter(
                f"{at} {index} -> {end}" for at, ends in ways.items() for index, end in enumerate(ends)
            ),
            f"nft src{number}": Counter(f"{own} -> {seen_as}" for own, seen_as in addresses.items()),
            f"nft reach{number}": Counter(
                f"{address} 1" for address in {*ways, *addresses, *addresses.values()} if address
            ),
            f"nft pub{number}": Counter(_published(name, said, family)),
            f"nft hosts{number}": Counter(gateways),
        }  # fmt: skip
    hosts = [said.workers[other]["host"] for other in others]
    return found | {
        "nft peers4": Counter(hosts),
        "nft ends4": Counter(f"{host} {TUNNEL_PORT}" for host in hosts),
    }


def _ways(name: str, said: Said, family: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every service address and every instance's own, with the instances that it leads to from this worker.

    A worker lists those of its own cluster first.
    """
    cluster = said.workers[name]["cluster"]
    for service in said.services:
        placed = sorted(
            (one for one in said.instances if one["of"]["id"] == service["id"]),
            key=lambda one: (one["cluster"] != cluster, one["number"]),
        )
        ready = [one for one in placed if one["ready"]]
        if not placed:
            continue
        ends = tuple(one["namespace_address"][family] for one in ready)
        closest = sorted(ready, key=lambda one: one["worker"] != name)[:1]
        addresses = service["spec"]["addresses"]
        if addresses[f"round_robin_{family}"]:
            yield addresses[f"round_robin_{family}"], ends
        if addresses[f"closest_{family}"]:
            yield (
                addresses[f"closest_{family}"],
                tuple(one["namespace_address"][family] for one in closest),
            )
        for one in placed:
            own = (one["namespace_address"][family],) if one["ready"] else ()
            yield one["address"][family], own


def _published(name: str, said: Said, family: str) -> Iterator[str]:
    for one in said.on(name):
        for port in one["of"]["spec"]["ports"]:
            if port["host_port"]:
                target = f"{one['namespace_address'][family]} {port['container_port']}"
                yield f"{port['protocol']} {port['host_port']} -> {target}"


def _gateway(address: str, family: str) -> str:
    return str(ip_interface(f"{address}/{_PREFIXES[family]}").network[1])
