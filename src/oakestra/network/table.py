"""This worker's nftables table: adopted, changed, and put back when somebody took it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from oakestra.control.failpoints import Point, reach
from oakestra.model.address import Subnet
from oakestra.model.errors import Rejected, Unavailable
from oakestra.network import rules
from oakestra.network.names import Names
from oakestra.network.netlink import Netlink, NetlinkError, nft
from oakestra.network.rules import Elements

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Table:
    """Keeps the table equal to what is wanted, knowing what was last there."""

    def __init__(self, netfilter: Netlink, names: Names, *, tunnel_port: int) -> None:
        self._netfilter = netfilter
        self._names = names
        self._tunnel_port = tunnel_port
        self._subnets: tuple[Subnet, ...] = ()
        self._there: Elements = {}
        self._sizes: set[int] = set()
        self._generation = -1
        self._fingerprint = ""

    @property
    def published(self) -> frozenset[bytes]:
        """The keys of the ports that are published now."""
        return frozenset(self._there.get("pub4", ())) | frozenset(self._there.get("pub6", ()))

    def is_untouched(self) -> bool:
        """Tell whether nobody has changed any rule on the machine since we did."""
        return nft.generation(self._netfilter) == self._generation

    def look(self, subnets: Sequence[Subnet]) -> bool:
        """Take in what is there; False if there is no table of this version for these subnets, or somebody's
        hand was in it. Cheap when nobody changed any rule on the machine since the last look.
        """
        subnets = tuple(subnets)
        generation = nft.generation(self._netfilter)
        if generation == self._generation and subnets == self._subnets:
            return True
        wanted = rules.digest(self._names, subnets, tunnel_port=self._tunnel_port)
        if nft.comment(self._netfilter, self._names.table) != wanted:
            return False
        fingerprint = nft.fingerprint(self._netfilter, self._names.table)
        if self._fingerprint not in {"", fingerprint}:
            return False
        self._subnets, self._generation, self._fingerprint = subnets, generation, fingerprint
        self._there = {name: nft.elements(self._netfilter, self._names.table, name) for name in rules.SETS}
        self._sizes = self._sizes_there()
        return True

    def _sizes_there(self) -> set[int]:
        prefix = rules.chain_name(rules.FAMILIES[0], 0).removesuffix("0")
        return {
            int(chain.name.removeprefix(prefix))
            for chain in nft.chains(self._netfilter)
            if chain.table == self._names.table and chain.name.startswith(prefix)
        }

    def replace(self, subnets: Sequence[Subnet], wanted: Elements) -> None:
        """Put a fresh table, elements included, in the place of whatever is there, at once."""
        self._subnets = tuple(subnets)
        self._sizes = {*rules.READY_SIZES, *rules.missing_sizes(wanted, ())}
        self._load(
            rules.render_table(
                self._names,
                self._subnets,
                tunnel_port=self._tunnel_port,
                found=wanted,
                sizes=sorted(self._sizes),
            )
        )
        self._there = wanted

    def set(self, subnets: Sequence[Subnet], wanted: Elements) -> None:
        """Make the elements so, in one transaction; no message when they are. Somebody may have been at the table
        at any moment: then it is looked at afresh, and put back if need be.
        """
        if not self.look(subnets):
            self.replace(subnets, wanted)
            return
        try:
            self._change(wanted)
        except NetlinkError:
            self._generation = -1
            if self.look(subnets):
                self._change(wanted)
            else:
                self.replace(subnets, wanted)

    def _change(self, wanted: Elements) -> None:
        sizes = rules.missing_sizes(wanted, self._sizes)
        if sizes:
            self._load(rules.render_more_choosers(self._names, sizes))
            self._sizes.update(sizes)
        differences = rules.differences(self._there, wanted)
        removals = [nft.Change("remove", each.set, each.remove) for each in differences if each.remove]
        additions = [nft.Change("add", each.set, each.add) for each in differences if each.add]
        if not removals and not additions:
            return
        nft.transact(self._netfilter, self._names.table, [*removals, *additions])
        reach(Point.NETWORK_RULES_CHANGED)
        self._there = wanted
        self._generation += 1

    def remove(self) -> None:
        """Take the table away."""
        nft.delete_table(self._netfilter, self._names.table)
        self._generation, self._fingerprint = -1, ""

    def _load(self, text: str) -> None:
        try:
            done = subprocess.run(
                ("nft", "-f", "-"),
                input=text,
                env={"PATH": _PATH},
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise Rejected(
                "the program `nft` is missing, without which instances get no network; "
                "install the package nftables"
            ) from error
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise Unavailable(f"nft refused this worker's rules: {lines[0]}")
        reach(Point.NETWORK_TABLE_LOADED)
        self._generation = nft.generation(self._netfilter)
        self._fingerprint = nft.fingerprint(self._netfilter, self._names.table)
