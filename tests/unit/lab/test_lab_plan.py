"""What a lab is made of, and what makes it whole again wherever its making was cut off."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.lab.plan import (
    OUTSIDE,
    SWITCH,
    Batch,
    Lab,
    Seen,
    check,
    choose_network,
    flags,
    for_tiers,
    host,
    hosts,
    link,
    missing,
    named_in,
    own_address,
    prefix,
    programs,
    removal,
    with_boot,
)
from oakestra.model.errors import Invalid, NotFound, Unavailable

LAB = Lab(name="demo", clusters=2, workers=2, network="198.18.3.0/24")


class Refused(Exception):
    """The kernel does not like a line."""


@dataclass
class Kernel:
    """As much of a kernel as a lab's lines speak of: it refuses what is there already, or is not there."""

    namespaces: set[str] = field(default_factory=set)
    ends: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Each end of a cable, as (namespace, name), by the other one."""
    masters: dict[tuple[str, str], str] = field(default_factory=dict)
    bridges: set[tuple[str, str]] = field(default_factory=set)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)

    def carry_out(self, batches: tuple[Batch, ...], *, lines_max: int | None = None) -> None:
        left = lines_max
        for batch in batches:
            for line in batch.lines:
                if left == 0:
                    return
                left = None if left is None else left - 1
                try:
                    self._obey(batch.namespace, line.split())
                except Refused:
                    if not batch.may_fail:
                        raise

    def look(self, name: str) -> Seen:
        switch = prefix(name) + SWITCH
        ports = {
            end
            for (namespace, end), master in self.masters.items()
            if (namespace, master) == (switch, SWITCH)
        }
        return Seen(
            namespaces=frozenset(self.namespaces),
            switch=(switch, SWITCH) in self.bridges,
            ports=frozenset(ports),
        )

    def _obey(self, where: str, words: list[str]) -> None:
        match words:
            case ["netns", *rest]:
                self._obey_namespace(*rest)
            case ["link", "add", name, "up", "type", "bridge"]:
                self.bridges.add((where, name))
            case ["link", "add", name, "address", _, "type", "veth", "peer", "name", other, "netns", there]:
                self._plug((where, name), (there, other))
            case ["link", "add", name, "address", _, "netns", here, "type", "veth", "peer", "name", *rest]:
                self._plug((here, name), (rest[2], rest[0]))
            case ["link", "delete", "dev", name]:
                self._refuse_if((where, name) not in self.ends)
                self._unplug((where, name))
            case ["address", "add", address, "dev", name]:
                self._refuse_if((where, name) not in self.ends)
                self.addresses[where, name] = address
            case ["link", "set", "dev", name, "master", bridge, "up"]:
                self._refuse_if((where, name) not in self.ends or (where, bridge) not in self.bridges)
                self.masters[where, name] = bridge
            case ["link", "set", "dev", name, "up"]:
                self._refuse_if(name != "lo" and (where, name) not in self.ends)
            case _:
                raise AssertionError(words)

    def _obey_namespace(self, order: str, name: str) -> None:
        self._refuse_if((order == "add") == (name in self.namespaces))
        if order == "add":
            self.namespaces.add(name)
            return
        self.namespaces.discard(name)
        for end in [end for end in self.ends if end[0] == name]:
            self._unplug(end)
        self.bridges = {bridge for bridge in self.bridges if bridge[0] != name}

    def _plug(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        for end in (one, other):
            self._refuse_if(end in self.ends or bool(end[0] and end[0] not in self.namespaces))
        self.ends[one], self.ends[other] = other, one

    def _unplug(self, end: tuple[str, str]) -> None:
        for gone in (end, self.ends[end]):
            for known in (self.ends, self.masters, self.addresses):
                known.pop(gone, None)

    @staticmethod
    def _refuse_if(wrong: bool) -> None:  # noqa: FBT001
        if wrong:
            raise Refused


def complete(kernel: Kernel, lab: Lab) -> bool:
    switch = prefix(lab.name) + SWITCH
    wanted = {(of.namespace, "eth0"): (switch, of.name) for of in hosts(lab)}
    wanted["", link(lab.name)] = (switch, OUTSIDE)
    addresses = {(of.namespace, "eth0"): f"{of.address}/24" for of in hosts(lab)}
    addresses["", link(lab.name)] = f"{own_address(lab)}/24"
    both_ways = {**wanted, **{other: one for one, other in wanted.items()}}
    return kernel.ends == both_ways and kernel.addresses == addresses and len(kernel.masters) == len(wanted)


# --- what the kernel lacks ------------------------------------------------------------------------------------------


def test_a_lab_is_made_of_nothing_and_making_it_again_does_nothing() -> None:
    kernel = Kernel()
    kernel.carry_out(missing(LAB, kernel.look("demo")))
    assert complete(kernel, LAB)
    assert missing(LAB, kernel.look("demo")) == ()


@given(
    lines=st.lists(st.integers(0, 60), max_size=3),
    lost=st.sets(st.sampled_from(["root", "c2", "w3", SWITCH])),
)
def test_wherever_making_it_was_cut_off_the_next_time_completes_it(lines: list[int], lost: set[str]) -> None:
    """Also when namespaces were lost in between."""
    kernel = Kernel()
    for lines_max in lines:
        kernel.carry_out(missing(LAB, kernel.look("demo")), lines_max=lines_max)
        kernel.carry_out(
            tuple(Batch(lines=(f"netns delete oaklab-demo-{name}",), may_fail=True) for name in lost)
        )
    kernel.carry_out(missing(LAB, kernel.look("demo")))
    assert complete(kernel, LAB)
    assert missing(LAB, kernel.look("demo")) == ()


def test_a_host_that_is_complete_is_left_alone() -> None:
    kernel = Kernel()
    kernel.carry_out(missing(LAB, Seen()))
    kernel.carry_out(removal(LAB, host(LAB, "w2")))
    touched = missing(LAB, kernel.look("demo"))
    assert touched
    assert {line for batch in touched for line in batch.lines if "w2" not in line and "eth0" not in line} == {
        "link set dev lo up"
    }


# --- names and addresses -----------------------------------------------------------------------------------------------


def test_hosts_are_numbered_through_and_know_whom_they_join() -> None:
    found = {of.name: of for of in hosts(LAB)}
    assert list(found) == ["root", "c1", "c2", "w1", "w2", "w3", "w4"]
    assert [of.address for of in found.values()] == [f"198.18.3.{number}" for number in range(2, 9)]
    assert {name: of.above for name, of in found.items()} == {
        "root": "",
        "c1": found["root"].address,
        "c2": found["root"].address,
        "w1": found["c1"].address,
        "w2": found["c1"].address,
        "w3": found["c2"].address,
        "w4": found["c2"].address,
    }
    assert found["w3"].namespace == "oaklab-demo-w3"
    assert found["w3"].installation == "lab-demo/w3"


@given(clusters=st.integers(1, 20), workers=st.integers(0, 11))
def test_every_host_has_an_address_and_a_name_of_its_own(clusters: int, workers: int) -> None:
    lab = replace(LAB, clusters=clusters, workers=workers)
    check(lab)
    found = hosts(lab)
    assert len(found) == 1 + clusters + clusters * workers
    assert len({of.name for of in found}) == len({of.address for of in found}) == len(found)
    inside = list(ip_network(lab.network).hosts())
    assert {ip_address(of.address) for of in found} <= set(inside) - {ip_address(own_address(lab))}


@pytest.mark.parametrize(
    "lab",
    [
        replace(LAB, name="Demo"),
        replace(LAB, name="a-b"),
        replace(LAB, name="ninechars"),
        replace(LAB, name=""),
        replace(LAB, clusters=0),
        replace(LAB, workers=-1),
        replace(LAB, clusters=10, workers=24),
    ],
)
def test_what_cannot_be_a_lab_is_refused(lab: Lab) -> None:
    with pytest.raises(Invalid):
        check(lab)


def test_the_longest_name_fits_a_link() -> None:
    check(replace(LAB, name="12345678"))
    assert len(link("12345678")) <= 15


def test_an_unknown_host_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="root c1 c2 w1 w2 w3 w4"):
        host(LAB, "w5")


def test_labs_are_found_by_whatever_is_left_of_them() -> None:
    found = named_in(
        ["oaklab-a-w1", "oaklab-a-switch", "oak-b-w1", "cni-1"],
        ["lo", "oaklab-c", "eth0"],
        ["default", "lab-d"],
    )
    assert found == {"a", "c", "d"}


# --- networks ----------------------------------------------------------------------------------------------------------


def test_the_first_free_network_is_chosen() -> None:
    assert choose_network([]) == "198.18.0.0/24"
    assert choose_network(["192.0.2.0/24", "10.0.0.0/8", "0.0.0.0/0"]) == "198.18.0.0/24"
    assert choose_network(["198.18.0.0/24"]) == "198.18.1.0/24"
    assert choose_network(["198.18.1.7", "198.18.0.130/25"]) == "198.18.2.0/24"
    assert choose_network(["198.18.0.0/16"]) == "198.19.0.0/24"


def test_without_a_free_network_that_is_said() -> None:
    with pytest.raises(Unavailable, match="oak lab down"):
        choose_network(["198.0.0.0/8"])


# --- programs ----------------------------------------------------------------------------------------------------------


def test_each_host_runs_its_tier_in_its_own_namespace() -> None:
    made = {
        program.name: program
        for program in programs(LAB, python="py", environment={"A": "b"}, revision="7", memory_mib=512)
    }
    assert list(made) == [of.name for of in hosts(LAB)]
    worker = made["w3"]
    assert worker.command == (
        "py", "-m", "oakestra", "worker", "start", "--address=198.18.3.7", "--cluster=198.18.3.4",
        "--installation=lab-demo/w3", "--memory-mib=512", "--name=w3",
    )  # fmt: skip
    assert worker.netns == "/run/netns/oaklab-demo-w3"
    assert worker.log == "/var/log/oakestra/lab-demo/w3/worker.log"
    assert ("A", "b") in worker.environment
    assert made["c2"].command[3:] == (
        "cluster", "start", "--installation=lab-demo/c2", "--listen=0.0.0.0", "--name=c2", "--root=198.18.3.2",
    )  # fmt: skip
    assert flags(host(LAB, "root"), memory_mib=0) == {"installation": "lab-demo/root", "listen": "0.0.0.0"}


def test_a_reboot_changes_what_one_worker_is_told_and_nothing_else() -> None:
    before = programs(LAB, python="py", environment={}, revision="", memory_mib=0)
    booted = replace(LAB, boots={"w1": 1})
    after = with_boot(before, booted, host(LAB, "w1"))
    assert [old.name for old, new in zip(before, after, strict=True) if old != new] == ["w1"]
    assert after == programs(booted, python="py", environment={}, revision="", memory_mib=0)


def test_tiers_learn_their_settings_and_no_login() -> None:
    found = for_tiers(
        {
            "PATH": "/bin",
            "OAKESTRA_ROOT": "http://x",
            "OAKESTRA_TOKEN": "secret",
            "OAKESTRA_INSTALLATION": "other",
            "OAKESTRA_ADMIN_PASSWORD": "p",
            "OAKESTRA_CLUSTER_WORKER_LOST_AFTER_S": "3",
        }
    )
    assert found == {"OAKESTRA_ADMIN_PASSWORD": "p", "OAKESTRA_CLUSTER_WORKER_LOST_AFTER_S": "3"}
