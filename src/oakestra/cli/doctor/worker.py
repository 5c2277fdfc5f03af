"""Judge whether a worker can run on a machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network

from oakestra.cli.doctor.facts import Cgroups, Firewall, Port, Route, WorkerFacts
from oakestra.cli.doctor.finding import Finding, ok, problem, warning
from oakestra.cli.doctor.machine import (
    Appetite,
    Need,
    judge_machine,
    judge_peer,
    judge_port,
    judge_programs,
)
from oakestra.model.address import OVERLAY_NETWORK_V4
from oakestra.network.names import is_some_workers

MEMORY = Appetite(needed_mib=48, easy_mib=192)
"""The agent takes 20 MiB, the rest is for instances."""
DISK = Appetite(needed_mib=160, easy_mib=1024)
"""Images are refused when less than 128 MiB would be left."""
DEFAULT_ROUTE_BITS = 8
"""A route to an eighth of the world or more (0.0.0.0/1 of a VPN) says where the rest goes, not who has an address."""
NEEDS = (
    Need(name="runc", package="runc", purpose="no container can be started", since=(1, 0)),
    Need(name="conmon", package="conmon", purpose="no container can be started", since=(2, 0, 25)),
    Need(name="nft", package="nftables", purpose="instances get no network"),
    Need(
        name="openssl",
        package="openssl",
        purpose="encrypted links to a cluster will need it; nothing does yet",
        since=(1, 1),
        later=True,
    ),
)
KERNEL: Mapping[str, tuple[str, str]] = {
    "overlayfs": ("no container gets its files", "modprobe overlay"),
    "veth": ("instances get no network", "modprobe veth"),
    "bridge": ("the worker's own addresses in the overlay have no device", "modprobe bridge"),
    "vxlan": ("instances do not reach other workers", "modprobe vxlan"),
    "nf_tables": (  # tried with the worker's own rules, so an old `nft` shows here as well
        "services have no addresses and instances are not told apart",
        "modprobe -a nf_tables nft_chain_nat nft_ct nft_fib_inet nft_masq nft_numgen nft_reject_inet",
    ),
}
"""By what the kernel must have: what does not work without it, and the modules that bring it."""
LATER = "tun"
"""Nothing needs it yet."""


def judge(facts: WorkerFacts) -> Iterator[Finding]:
    """Yield what there is to say."""
    yield _judge_rights(facts)
    yield from judge_machine(facts.machine, memory=MEMORY, disk=DISK)
    yield from judge_programs(facts.programs, NEEDS)
    yield _judge_cgroups(facts.cgroups)
    if facts.machine.superuser:
        yield from _judge_what_root_sees(facts)
    yield from _judge_cluster(facts)
    yield _judge_name_servers(facts.name_servers)


def _judge_what_root_sees(facts: WorkerFacts) -> Iterator[Finding]:
    yield from _judge_kernel(facts.attempts)
    yield from _judge_forwarding(facts.forwarding)
    yield from _judge_routes(facts.routes)
    yield from map(_judge_firewall, facts.firewalls)
    yield _judge_tunnel(facts.tunnel)
    for leftover in facts.leftovers:
        yield warning(
            f"{leftover.what} of a worker that is not installed here any more",
            "it takes room and may answer in another's place",
            f"sudo {leftover.removal}",
        )


def _judge_rights(facts: WorkerFacts) -> Finding:
    if facts.machine.superuser:
        return ok("root rights")
    return problem(
        "no root rights",
        "a worker makes containers and their network, which only root may; most of what it needs was not looked at",
        "sudo oak doctor worker",
    )


def _judge_kernel(attempts: Mapping[str, str]) -> Iterator[Finding]:
    able = [name for name, trouble in attempts.items() if not trouble]
    if able:
        yield ok(f"the kernel has {', '.join(able)}")
    for name, trouble in attempts.items():
        if trouble and name == LATER:
            yield warning(
                f"the kernel has no {name}: {trouble}",
                "encryption on kernels without WireGuard will need it; nothing does yet",
                f"sudo modprobe {name}",
            )
        elif trouble:
            meaning, modules = KERNEL[name]
            yield problem(f"the kernel has no usable {name}: {trouble}", meaning, f"sudo {modules}")


def _judge_cgroups(cgroups: Cgroups) -> Finding:
    if not cgroups.mode:
        return problem(
            "no control groups are mounted",
            "no container can be started",
            "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    missing = [name for name in ("memory", "cpu", "pids") if name not in cgroups.controllers]
    if not missing:
        return ok(f"control groups {cgroups.mode} limit memory, CPU and processes")
    return warning(
        f"control groups {cgroups.mode} have no {', '.join(missing)}",
        "limits of services on that are not enforced: one can take all there is",
        "add `cgroup_enable=memory` to the kernel's command line (on a Raspberry Pi in cmdline.txt) and boot again"
        if "memory" in missing
        else "use a kernel that has it",
    )


def _judge_forwarding(forwarding: Mapping[str, str]) -> Iterator[Finding]:
    for protocol, trouble in forwarding.items():
        if trouble:
            yield problem(
                f"this machine cannot be made to forward {protocol}: {trouble}",
                "instances reach nothing but this machine",
                "outside a container /proc/sys can be written; in one, run it with --privileged",
            )
    able = [protocol for protocol, trouble in forwarding.items() if not trouble]
    if able:
        yield ok(f"{' and '.join(able)} can be forwarded")


def _judge_routes(routes: tuple[Route, ...]) -> Iterator[Finding]:
    overlay = ip_network(OVERLAY_NETWORK_V4)
    taken = [
        route
        for route in routes
        if not is_some_workers(route.device)
        and ip_network(route.destination).prefixlen >= DEFAULT_ROUTE_BITS
        and ip_network(route.destination).overlaps(overlay)
    ]
    for route in taken:
        yield problem(
            f"this machine has a route to {route.destination} on {route.device}, which overlaps {overlay}",
            "those are the addresses of the overlay network: the worker refuses to run beside it",
            f"sudo ip route delete {route.destination} dev {route.device}, or give that network other addresses",
        )
    if not taken:
        yield ok(f"nobody else uses the overlay's addresses, {overlay}")


def _judge_firewall(firewall: Firewall) -> Finding:
    if firewall.command and firewall.command_found:
        return ok(
            f"the firewall drops what it forwards ({firewall.chain}); the worker has it let instances through"
        )
    meaning = "packets from and to instances are dropped there, whatever our own rules say"
    if firewall.command:
        return problem(
            f"the firewall drops what it forwards ({firewall.chain}), and {firewall.command} is missing",
            meaning,
            "sudo apt-get install iptables",
        )
    table, _, chain = firewall.chain.rpartition(" ")
    return problem(
        f"the firewall drops what it forwards ({firewall.chain})",
        meaning,
        f"sudo nft insert rule {table} {chain} iifname 'oak*' accept\n"
        f"sudo nft insert rule {table} {chain} oifname 'oak*' accept",
    )


def _judge_tunnel(port: Port) -> Finding:
    finding = judge_port(port)
    if port.holder and not port.ours:
        return problem(finding.what, "instances do not reach other workers", finding.remedy)
    return finding


def _judge_cluster(facts: WorkerFacts) -> Iterator[Finding]:
    if not facts.machine.installed:
        if facts.machine.superuser:  # others cannot know
            yield ok(
                "no cluster yet: `sudo oak up` starts all here, `sudo oak worker join HOST` joins one elsewhere"
            )
        return
    for peer in facts.cluster:
        yield from judge_peer(
            peer,
            meaning="instances go on, but nothing new comes from the cluster, and it hears nothing",
            remedy="on the cluster's machine: oak status\n"
            "it must listen on an address that leads here: sudo oak cluster join ROOT --listen 0.0.0.0\n"
            "to join another cluster: sudo oak worker join HOST",
        )


def _judge_name_servers(servers: tuple[str, ...]) -> Finding:
    if servers:
        return ok(f"instances ask {', '.join(servers)} for names")
    return warning(
        "every name server in /etc/resolv.conf is on loopback",
        "instances cannot look up names: their loopback is another one",
        "name a server that the whole machine reaches in /etc/resolv.conf: nameserver 192.0.2.53",
    )
