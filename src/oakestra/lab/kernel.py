"""Have the kernel make what a lab is made of, and see what it has. Speaks with `ip` and `nft`; leaves no process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from oakestra.control import processes
from oakestra.lab.faults import rules
from oakestra.lab.plan import SWITCH, Batch, Lab, Seen, hosts, link, missing, namespace_path, prefix
from oakestra.model.errors import Unavailable

NAMESPACES = Path("/run/netns")
_BRIDGE_FILTERS = "/proc/sys/net/bridge/bridge-nf-call-*"


def build(lab: Lab) -> None:
    """Make whatever is missing of the lab's network, and break what is to be broken. Repeating it changes nothing."""
    carry_out(missing(lab, look(lab.name)))
    _let_frames_pass(prefix(lab.name) + SWITCH)
    break_links(lab)


def look(name: str) -> Seen:
    """Return what the kernel has of a lab."""
    switch = prefix(name) + SWITCH
    there = frozenset(known for known in namespaces() if known.startswith(prefix(name)) and _is_bound(known))
    if switch not in there:
        return Seen(namespaces=there)
    there_too = {found["ifname"]: found.get("master") for found in _ask("-n", switch, "link", "show")}
    ports = frozenset(name for name, master in there_too.items() if master == SWITCH)
    return Seen(namespaces=there, switch=SWITCH in there_too, ports=ports)


def carry_out(batches: Sequence[Batch]) -> None:
    """Do all that `batches` say, in order. Raises `Unavailable` with what the kernel does not like."""
    for batch in batches:
        where = ("-n", batch.namespace) if batch.namespace else ()
        careless = ("-force",) if batch.may_fail else ()
        _run("ip", *where, *careless, "-batch", "-", said="\n".join(batch.lines), may_fail=batch.may_fail)


def remove(name: str) -> None:
    """Take every namespace of a lab, and the machine's own link to it, out of the kernel."""
    own = (link(name),) if link(name) in links() else ()
    carry_out(
        (
            *(Batch(lines=(f"link delete dev {known}",), may_fail=True) for known in own),
            *(
                Batch(lines=(f"netns delete {known}",))
                for known in namespaces()
                if known.startswith(prefix(name))
            ),
        )
    )


def break_links(lab: Lab) -> None:
    """Have the switch lose what it is to lose, and nothing else."""
    switch = prefix(lab.name) + SWITCH
    lines = tuple(
        f"link set dev {host.name} {'down' if host.name in lab.faults.unplugged else 'up'}"
        for host in hosts(lab)
    )
    carry_out((Batch(namespace=switch, lines=lines),))
    _run("nsenter", f"--net={namespace_path(switch)}", "nft", "-f", "-", said=rules(lab.faults))


def become(namespace: str, words: Sequence[str], *, installation: str) -> NoReturn:
    """Become another program, in a network namespace; `oak` is told which installation is its own there."""
    command = ("nsenter", f"--net={namespace_path(namespace)}", "--", *words)
    environment = {**os.environ, "OAKESTRA_INSTALLATION": installation}  # noqa: TID251 - passed on, not read
    os.execvpe(command[0], command, environment)  # noqa: S606 - there is no shell


def namespaces() -> tuple[str, ...]:
    """Return the names of this machine's network namespaces."""
    try:
        return tuple(sorted(os.listdir(NAMESPACES)))  # noqa: PTH208 - names are all we need
    except FileNotFoundError:
        return ()


def links() -> tuple[str, ...]:
    """Return the names of this machine's links."""
    return tuple(found["ifname"] for found in _ask("link", "show"))


def networks_in_use() -> tuple[str, ...]:
    """Return the networks that this machine has an address in or a way to."""
    routes = [route["dst"] for route in _ask("-4", "route", "show", "table", "all")]
    addresses = [
        f"{address['local']}/{address['prefixlen']}"
        for link in _ask("-4", "address", "show")
        for address in link.get("addr_info", ())
    ]
    return tuple(network for network in (*routes, *addresses) if network != "default")


def _let_frames_pass(switch: str) -> None:
    """Keep the switch's frames from packet filters, which could only drop them; where no kernel does that, do nothing."""
    script = f"for file in {_BRIDGE_FILTERS}; do [ ! -e $file ] || echo 0 > $file; done"
    _run("nsenter", f"--net={namespace_path(switch)}", "sh", "-c", script)


def _is_bound(name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (NAMESPACES / name).stat().st_dev != NAMESPACES.stat().st_dev
    return False


def _ask(*words: str) -> list[dict[str, Any]]:
    answer = _run("ip", "-j", *words)
    return list(json.loads(answer or "[]"))


def _run(*command: str, said: str = "", may_fail: bool = False) -> str:
    try:
        done = subprocess.run(
            command, input=said, capture_output=True, text=True, check=False, env={"PATH": processes.PATH}
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"{command[0]} is missing; install it: apt-get install iproute2 nftables util-linux"
        ) from error
    if done.returncode and not may_fail:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip()}\n{said}".rstrip())
    return done.stdout
