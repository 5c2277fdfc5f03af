"""Work out what a lab is made of: hosts, names, addresses, programs, and what the kernel still lacks. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, ip_network

from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program
from oakestra.lab.faults import Faults
from oakestra.model.errors import Invalid, NotFound, Unavailable

DEFAULT_NAME = "demo"
HOSTS_MAX = 250
SWITCH = "switch"
OUTSIDE = "outside"
"""The switch's port to the machine that the lab runs on."""
POOL = ip_network("198.18.0.0/15")
"""For testing networks (RFC 2544), so nobody's real network is hidden by a lab."""
_PREFIX = "oaklab-"
_NAME = re.compile(r"[a-z0-9]{1,8}")
"""No dashes, so that no lab's objects can be taken for another's; short, as a link's name has 15 characters."""
_ROOT = 2
"""Last byte of root's address; 1 is the machine itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What was asked for, and what has been done to it since."""

    name: str
    clusters: int
    workers: int
    """Of each cluster."""
    network: str
    """A /24, written out."""
    boots: Mapping[str, int] = field(default_factory=dict)
    """How often a host was rebooted; those that are missing never were."""
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine of the lab: one tier in a network namespace."""

    name: str
    tier: str
    installation: str
    namespace: str
    address: str
    above: str = ""
    """Address of the host that it joins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the kernel has of a lab."""

    namespaces: frozenset[str] = frozenset()
    """Those that are really there, not only their names."""
    switch: bool = False
    """Whether there is one, in its namespace."""
    ports: frozenset[str] = frozenset()
    """Links that the switch forwards between. Joining one is the last step: what it leads to is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines for `ip -batch` in a network namespace; none: the machine's own."""

    namespace: str = ""
    lines: tuple[str, ...]
    may_fail: bool = False
    """Removes what may be gone already."""


def installation(name: str) -> str:
    """Return the installation of a lab; those of its hosts are below it."""
    return f"lab-{name}"


def prefix(name: str) -> str:
    """Return how the names of all network namespaces of a lab begin."""
    return f"{_PREFIX}{name}-"


def link(name: str) -> str:
    """Return the name of the machine's own link to a lab."""
    return f"{_PREFIX}{name}"


def named_in(namespaces: Sequence[str], links: Sequence[str], installations: Sequence[str]) -> frozenset[str]:
    """Return the labs that these names belong to."""
    words = [
        name.removeprefix(_PREFIX).partition("-")[0]
        for name in (*namespaces, *links)
        if name.startswith(_PREFIX)
    ]
    words += [name.removeprefix("lab-") for name in installations if name.startswith("lab-")]
    return frozenset(word for word in words if _NAME.fullmatch(word))


def check_name(name: str) -> None:
    """Raise `Invalid` if no lab can have that name."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} cannot name a lab: use up to 8 lower-case letters and digits")


def check(lab: Lab) -> None:
    """Raise `Invalid` if there can be no such lab."""
    check_name(lab.name)
    if lab.clusters < 1 or lab.workers < 0:
        raise Invalid(
            f"a lab has 1 cluster or more, and 0 workers or more in each; asked for were {lab.clusters} and {lab.workers}"
        )
    count = 1 + lab.clusters * (1 + lab.workers)
    if count > HOSTS_MAX:
        raise Invalid(
            f"{lab.clusters} clusters of {lab.workers} workers are {count} hosts; a lab has at most {HOSTS_MAX}"
        )


def choose_network(taken: Sequence[str]) -> str:
    """Return the first /24 for labs that overlaps none of these networks. Raises `Unavailable` if there is none."""
    used = [ip_network(text, strict=False) for text in taken]
    busy = [network for network in used if isinstance(network, IPv4Network) and network.prefixlen > 0]
    for network in POOL.subnets(new_prefix=24):
        if not any(network.overlaps(other) for other in busy):
            return str(network)
    raise Unavailable(
        f"every network in {POOL} is in use on this machine; remove a lab: oak lab ls, oak lab down"
    )


def own_address(lab: Lab) -> str:
    """Return the machine's own address in the lab."""
    return _address(lab, 1)


def hosts(lab: Lab) -> tuple[Host, ...]:
    """Return every host: root, then the clusters, then the workers, cluster by cluster and numbered through."""
    root = _host(lab, "root", "root", _ROOT)
    clusters = [
        _host(lab, f"c{number}", "cluster", _ROOT + number, above=root.address)
        for number in range(1, lab.clusters + 1)
    ]
    first = _ROOT + lab.clusters
    workers = [
        _host(lab, f"w{number}", "worker", first + number, above=cluster.address)
        for index, cluster in enumerate(clusters)
        for number in range(index * lab.workers + 1, (index + 1) * lab.workers + 1)
    ]
    return (root, *clusters, *workers)


def host(lab: Lab, name: str) -> Host:
    """Return the host of that name. Raises `NotFound` naming those there are."""
    found = hosts(lab)
    for known in found:
        if known.name == name:
            return known
    names = " ".join(known.name for known in found)
    raise NotFound(f"the lab {lab.name} has no host {name!r}; it has: {names}")


def flags(of: Host, *, memory_mib: int) -> dict[str, str | int]:
    """Return the settings that a host's tier is started with. A worker offers `memory_mib`."""
    common: dict[str, str | int] = {"installation": of.installation}
    everywhere = "0.0.0.0"  # noqa: S104 - of a namespace that only the lab can reach
    match of.tier:
        case "root":
            return common | {"listen": everywhere}
        case "cluster":
            return common | {"name": of.name, "root": of.above, "listen": everywhere}
        case _:
            return common | {
                "name": of.name,
                "cluster": of.above,
                "address": of.address,
                "memory_mib": memory_mib,
            }


def programs(
    lab: Lab,
    *,
    python: str,
    environment: Mapping[str, str],
    revision: str,
    memory_mib: int,
) -> tuple[Program, ...]:
    """Return what the lab's supervisor keeps running: one program for each host, named like it."""
    return tuple(
        Program(
            name=of.name,
            command=(python, "-m", "oakestra", of.tier, "start", *_words(flags(of, memory_mib=memory_mib))),
            log=str(Installation(of.installation).logs / f"{of.tier}.log"),
            environment=tuple(sorted({**environment, **_boot(lab, of)}.items())),
            netns=namespace_path(of.namespace),
            revision=revision,
        )
        for of in hosts(lab)
    )


def with_boot(programs: Sequence[Program], lab: Lab, of: Host) -> tuple[Program, ...]:
    """Return the programs with one host's told how often it was booted; the others stay as they are."""
    return tuple(
        replace(program, environment=tuple(sorted({**dict(program.environment), **_boot(lab, of)}.items())))
        if program.name == of.name
        else program
        for program in programs
    )


def for_tiers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the tiers of a lab are to know of the environment: their settings, not those of this command."""
    kept = ("OAKESTRA_ROOT_", "OAKESTRA_CLUSTER_", "OAKESTRA_WORKER_", "OAKESTRA_ADMIN_PASSWORD")
    return {name: value for name, value in environment.items() if name.startswith(kept)}


def namespace_path(name: str) -> str:
    """Return where `ip netns` keeps a network namespace."""
    return f"/run/netns/{name}"


def missing(lab: Lab, seen: Seen) -> tuple[Batch, ...]:
    """Return what to do so that the kernel has every host, the switch, and the machine's own link to it.

    A host that is only half there is made anew; one that is complete is left alone.
    """
    switch = prefix(lab.name) + SWITCH
    batches: list[Batch] = []
    ports = seen.ports if seen.switch else frozenset()
    if not seen.switch:
        batches += _switch(switch)
    if OUTSIDE not in ports:
        batches += _outside(lab, switch)
    for of in hosts(lab):
        if of.namespace not in seen.namespaces or of.name not in ports:
            batches += [*removal(lab, of), *_host_links(of, switch)]
    return tuple(batches)


def removal(lab: Lab, of: Host) -> tuple[Batch, ...]:
    """Return what takes a host out of the kernel."""
    return (
        Batch(namespace=prefix(lab.name) + SWITCH, lines=(f"link delete dev {of.name}",), may_fail=True),
        Batch(lines=(f"netns delete {of.namespace}",), may_fail=True),
    )


def _host(lab: Lab, name: str, tier: str, number: int, *, above: str = "") -> Host:
    return Host(
        name=name,
        tier=tier,
        installation=f"{installation(lab.name)}/{name}",
        namespace=prefix(lab.name) + name,
        address=_address(lab, number),
        above=above,
    )


def _address(lab: Lab, number: int) -> str:
    return str(ip_network(lab.network)[number])


def _mac(address: str) -> str:
    """Return a link's address: always the same, as a machine keeps its card when it reboots."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *IPv4Address(address).packed))


def _boot(lab: Lab, of: Host) -> dict[str, str]:
    """Return what tells a worker that its machine has booted since: what ran before does not run any more."""
    boot = f"{lab.name}/{lab.boots.get(of.name, 0)}"
    return {"OAKESTRA_WORKER_BOOT_ID": boot} if of.tier == "worker" else {}


def _words(values: Mapping[str, str | int]) -> tuple[str, ...]:
    return tuple(f"--{field.replace('_', '-')}={value}" for field, value in sorted(values.items()))


def _switch(switch: str) -> list[Batch]:
    return [
        Batch(lines=(f"netns delete {switch}",), may_fail=True),
        Batch(lines=(f"netns add {switch}",)),
        Batch(namespace=switch, lines=(f"link add {SWITCH} up type bridge",)),
    ]


def _outside(lab: Lab, switch: str) -> list[Batch]:
    own, address = link(lab.name), own_address(lab)
    return [
        Batch(lines=(f"link delete dev {own}",), may_fail=True),
        Batch(
            lines=(
                f"link add {own} address {_mac(address)} type veth peer name {OUTSIDE} netns {switch}",
                f"address add {address}/24 dev {own}",
                f"link set dev {own} up",
            )
        ),
        Batch(namespace=switch, lines=(f"link set dev {OUTSIDE} master {SWITCH} up",)),
    ]


def _host_links(of: Host, switch: str) -> list[Batch]:
    own_end = f"eth0 address {_mac(of.address)} netns {of.namespace}"
    return [
        Batch(
            lines=(
                f"netns add {of.namespace}",
                f"link add {own_end} type veth peer name {of.name} netns {switch}",
            )
        ),
        Batch(
            namespace=of.namespace,
            lines=("link set dev lo up", f"address add {of.address}/24 dev eth0", "link set dev eth0 up"),
        ),
        Batch(namespace=switch, lines=(f"link set dev {of.name} master {SWITCH} up",)),
    ]
