"""Look at the machine for a worker: kernel, control groups, routes, firewalls, and what other workers left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import AF_INET

from oakestra.cli.doctor import gather, kernel, ports
from oakestra.cli.doctor.facts import Cgroups, Firewall, Leftover, Peer, Port, Route, WorkerFacts
from oakestra.cluster.config import ClusterConfig
from oakestra.control.installation import Installation
from oakestra.model.ids import WorkerId
from oakestra.model.service import TransportProtocol
from oakestra.network import ground
from oakestra.network.names import PREFIX, Names, is_some_workers
from oakestra.network.netlink import NETFILTER, ROUTE, Netlink, nft
from oakestra.network.netlink import route as rt
from oakestra.runtime.oci.linux.cgroups import hierarchies
from oakestra.transport import tcp
from oakestra.worker.config import WorkerConfig

PROGRAMS = ("runc", "conmon", "nft", "openssl")
FORWARDING = {
    "IPv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "IPv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
CONTROLLERS = ("memory", "cpu", "pids")
ANYWHERE = "0.0.0.0"  # noqa: S104 - where the tunnel's socket is, whatever it is told
RESOLV_CONF = Path("/etc/resolv.conf")
CONTAINER_TAG_LENGTH = 6
"""Of a worker's id, so much is in the names of its containers."""
_FAMILIES = {1: "inet", 2: "ip", 7: "bridge", 10: "ip6"}
_IPTABLES = {("ip", "filter", "FORWARD"): "iptables-nft", ("ip6", "filter", "FORWARD"): "ip6tables-nft"}
"""Chains that the worker knows how to ask, and by which program."""


def worker_facts(config: WorkerConfig, *, installed: bool, path: str) -> WorkerFacts:
    """Look at what a worker needs; programs are looked for in `path`. Without root rights, only at some of it."""
    host, port = tcp.split(config.cluster, ClusterConfig().api_port)
    facts = WorkerFacts(
        machine=gather.machine("worker", config.state_dir, installed=installed),
        programs=gather.programs(PROGRAMS, path),
        cgroups=cgroups(Path("/proc/self/mountinfo").read_text()),
        tunnel=Port(setting="tunnel_port", number=config.tunnel_port, address=ANYWHERE, protocol="UDP"),
        cluster=(gather.ask("the cluster", host, port), _broker(host)),
        name_servers=ground.name_servers(RESOLV_CONF),
    )
    return _with_what_root_sees(facts, config, path) if facts.machine.superuser else facts


def _with_what_root_sees(facts: WorkerFacts, config: WorkerConfig, path: str) -> WorkerFacts:
    own = _id(config.state_dir / "key")
    return replace(
        facts,
        attempts=kernel.attempts(gather.existing(config.state_dir), nft=shutil.which("nft", path=path) or ""),
        forwarding=forwarding(),
        routes=tuple(_routes()),
        firewalls=tuple(_firewalls(path)),
        tunnel=_tunnel(config.tunnel_port, own),
        leftovers=() if facts.machine.missing_packages else tuple(_leftovers(config.runtime_dir, own)),
    )


def cgroups(mountinfo: str) -> Cgroups:
    """Return what control groups there are, by what is mounted."""
    found = hierarchies(mountinfo)
    controllers = frozenset(name for name in CONTROLLERS if found.controlled_by(name) is not None)
    legacy = any(name in found.by_controller for name in CONTROLLERS)
    mode = "hybrid" if legacy and found.unified else "v1" if legacy else "v2" if found.unified else ""
    return Cgroups(mode=mode, controllers=controllers)


def forwarding(files: Mapping[str, Path] = FORWARDING) -> Mapping[str, str]:
    """Return by protocol why the machine cannot be made to forward; nothing of a protocol that it does not have."""
    found: dict[str, str] = {}
    for protocol, file in files.items():
        if not file.exists():
            continue
        found[protocol] = ""
        if file.read_text().strip() != "1" and not os.access(file, os.W_OK):
            found[protocol] = f"{file} cannot be written"
    return found


def _routes() -> Iterator[Route]:
    with closing(Netlink(ROUTE)) as netlink:
        devices = {link.index: link.name for link in rt.links(netlink)}
        for route in rt.routes(netlink, AF_INET):
            yield Route(destination=str(route.destination), device=devices.get(route.device, "?"))


def _firewalls(path: str) -> Iterator[Firewall]:
    for chain in _chains():
        if chain.hook != nft.HOOK_FORWARD or chain.policy != nft.POLICY_DROP:
            continue
        family = _FAMILIES.get(chain.family, str(chain.family))
        command = _IPTABLES.get((family, chain.table, chain.name), "")
        yield Firewall(
            chain=f"{family} {chain.table} {chain.name}",
            command=command,
            command_found=bool(command) and shutil.which(command, path=path) is not None,
        )


def _chains() -> list[nft.Chain]:
    try:
        with closing(Netlink(NETFILTER)) as netlink:
            return list(nft.chains(netlink))
    except OSError:  # a kernel without nf_tables, which is told by what was tried
        return []


def _tunnel(number: int, own: str) -> Port:
    found = ports.look("tunnel_port", ANYWHERE, number, ours=lambda _: False, protocol=TransportProtocol.UDP)
    for link in _links():
        if found.holder and link.vxlan_port == number and is_some_workers(link.name):
            ours = bool(own) and link.name == Names.of(WorkerId(own)).tunnel
            return replace(found, holder=f"the tunnel of a worker, {link.name}", ours=ours)
    return found


def _links() -> tuple[rt.Link, ...]:
    with closing(Netlink(ROUTE)) as netlink:
        return tuple(rt.links(netlink))


def _broker(host: str) -> Peer:
    return gather.connect("the cluster's broker", host, ClusterConfig().mqtt_port)


def _leftovers(runtime_dir: Path, own: str) -> Iterator[Leftover]:
    known = {Names.of(WorkerId(id)) for id in _ids()}
    for link in _links():
        if is_some_workers(link.name) and not any(link.name.startswith(names.links) for names in known):
            yield Leftover(what=f"the link {link.name}", removal=f"ip link delete {link.name}")
    tables = {(_FAMILIES.get(chain.family, ""), chain.table) for chain in _chains()}
    for family, table in sorted(tables):
        if table.startswith(f"{PREFIX}_") and not any(table == names.table for names in known):
            yield Leftover(
                what=f"the packet rules {family} {table}", removal=f"nft delete table {family} {table}"
            )
    for state in sorted(runtime_dir.glob("runc/oak-*")):
        if not own or state.name.split("-")[1] != own[:CONTAINER_TAG_LENGTH]:
            removal = f"runc --root {state.parent} delete --force {state.name}"
            yield Leftover(what=f"the container {state.name}", removal=removal)


def _ids() -> Iterator[str]:
    """Yield the id of every worker that is installed on this machine."""
    everything = Installation().state.parent
    for key in (*everything.glob("*/worker/key"), *everything.glob("*/*/worker/key")):
        yield _id(key)


def _id(key: Path) -> str:
    """Return the id of the worker that has its key there; empty if there is none."""
    if not key.exists():
        return ""
    try:
        from oakestra.worker.service import worker_id
    except ImportError:  # a package is missing, which is told as well
        return ""
    return str(worker_id(key.read_text().strip()))
