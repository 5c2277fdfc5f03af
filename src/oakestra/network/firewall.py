"""Other people's firewalls: ask them to let instances' packets through.

A packet that our rules accept is still dropped by a firewall that drops what it forwards, as Docker and ufw make
iptables do. iptables lives twice in one kernel, as nf_tables rules and in its own tables, and both are asked. What we
put there carries our name, and nothing else is touched.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

from oakestra.network.names import Names
from oakestra.network.netlink import Netlink, nft

logger = logging.getLogger(__name__)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AF_INET, _AF_INET6 = 2, 10
_COMMANDS = {
    _AF_INET: ("iptables", "/proc/thread-self/net/ip_tables_names"),
    _AF_INET6: ("ip6tables", "/proc/thread-self/net/ip6_tables_names"),
}


def let_through(netfilter: Netlink, names: Names) -> None:
    """Have every iptables that filters what is forwarded accept what comes from our links or goes to them."""
    for command in _filtering(netfilter):
        for direction in ("-i", "-o"):
            rule = _rule(names, direction)
            if not _run(command, "-C", "FORWARD", *rule):
                _run(command, "-I", "FORWARD", *rule)


def forget(netfilter: Netlink, names: Names) -> None:
    """Take our rules out of every iptables."""
    for command in _filtering(netfilter):
        for direction in ("-i", "-o"):
            while _run(command, "-D", "FORWARD", *_rule(names, direction)):
                pass


def _rule(names: Names, direction: str) -> tuple[str, ...]:
    return (direction, f"{names.links}+", "-m", "comment", "--comment", names.table, "-j", "ACCEPT")


def _filtering(netfilter: Netlink) -> Iterator[str]:
    """Yield the commands for those iptables that have a FORWARD chain."""
    chains = {(chain.family, chain.table, chain.name) for chain in nft.chains(netfilter)}
    for family, (command, legacy_tables) in _COMMANDS.items():
        if (family, "filter", "FORWARD") in chains:
            yield f"{command}-nft"
        if _lists_filter(Path(legacy_tables)):
            yield f"{command}-legacy"


def _lists_filter(path: Path) -> bool:
    try:
        return "filter" in path.read_text().split()
    except OSError:
        return False


def _run(command: str, *arguments: str) -> bool:
    try:
        done = subprocess.run(
            (command, "-w", *arguments), env={"PATH": _PATH}, capture_output=True, check=False
        )
    except FileNotFoundError:
        logger.warning(
            "a firewall may drop instances' packets and cannot be asked not to",
            extra={"missing_program": command},
        )
        return False
    return done.returncode == 0
