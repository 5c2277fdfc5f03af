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
_FAMILIES = {nft.INET: "inet", _AF_INET: "ip", _AF_INET6: "ip6"}
_COMMANDS = {_AF_INET: "iptables", _AF_INET6: "ip6tables"}
_LEGACY_TABLES = {
    _AF_INET: Path("/proc/thread-self/net/ip_tables_names"),
    _AF_INET6: Path("/proc/thread-self/net/ip6_tables_names"),
}


class OtherFirewalls:
    """Keeps our rules in every iptables that filters what is forwarded."""

    def __init__(self, netfilter: Netlink, names: Names) -> None:
        self._netfilter = netfilter
        self._names = names
        self._generation = -1
        self._warned: set[str] = set()

    def let_through(self) -> None:
        """Have each accept what comes from our links or goes to them. Starts no program while no rule changed."""
        generation = nft.generation(self._netfilter)
        if generation == self._generation and not any(_legacy()):
            return
        self._warn_of_others()
        for command in self._filtering():
            for direction in ("-i", "-o"):
                rule = _rule(self._names, direction)
                if not _run(command, "-C", "FORWARD", *rule):
                    _run(command, "-I", "FORWARD", *rule)
        self._generation = nft.generation(self._netfilter)

    def forget(self) -> None:
        """Take our rules out of each."""
        for command in self._filtering():
            for direction in ("-i", "-o"):
                while _run(command, "-D", "FORWARD", *_rule(self._names, direction)):
                    pass

    def _warn_of_others(self) -> None:
        """Say once which firewalls drop what they do not know and cannot be asked; their owner must do that."""
        for chain in nft.chains(self._netfilter):
            drops = chain.hook == nft.HOOK_FORWARD and chain.policy == nft.POLICY_DROP
            place = f"{_FAMILIES.get(chain.family, '?')} {chain.table} {chain.name}"
            if drops and chain.family in _FAMILIES and chain.name != "FORWARD" and place not in self._warned:
                self._warned.add(place)
                logger.warning(
                    "a firewall drops what this machine forwards unless told otherwise; "
                    "instances need it to accept their links",
                    extra={"chain": place, "links": f"{self._names.links}*"},
                )

    def _filtering(self) -> Iterator[str]:
        chains = {(chain.family, chain.table, chain.name) for chain in nft.chains(self._netfilter)}
        for family, command in _COMMANDS.items():
            if (family, "filter", "FORWARD") in chains:
                yield f"{command}-nft"
        yield from _legacy()


def _legacy() -> Iterator[str]:
    for family, command in _COMMANDS.items():
        if _lists_filter(_LEGACY_TABLES[family]):
            yield f"{command}-legacy"


def _rule(names: Names, direction: str) -> tuple[str, ...]:
    return (direction, f"{names.links}+", "-m", "comment", "--comment", names.table, "-j", "ACCEPT")


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
