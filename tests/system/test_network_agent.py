"""What agents do to the network of a real machine: start, die, take over, mend, refuse, and leave."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from network_bench import (
    PATIENCE_S,
    PORT,
    Fleet,
    Instance,
    Machine,
    Server,
    Worker,
    ask,
    ask_often,
    fleet,
    semantic_address,
    service,
    until,
)
from oakestra.model.address import worker_subnet
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.service import PublishedPort, TransportProtocol
from oakestra.network import Endpoint, Overlay, Publication, namespaces
from oakestra.network.names import Names
from oakestra.network.netlink import NETFILTER, Netlink, conntrack
from oakestra.network.plane import DRAIN_S

pytestmark = pytest.mark.root

_NEIGHBOUR = {28, 29}
"""RTM_NEWNEIGH and RTM_DELNEIGH."""
_STATE_AT, _LASTING = 16 + 8, 0x80 | 0x40
"""Where a neighbour's state is in such a message; NUD_PERMANENT and NUD_NOARP, which nothing but a request makes."""
NEAR, FAR = semantic_address(1001).v4, semantic_address(1002).v4


class Pair:
    """Two workers: a client with a neighbour, and an instance on the other."""

    def __init__(self, made: Fleet) -> None:
        self.fleet = made
        self.w1, self.w2 = made.workers
        self.client = self.w1.attach("client", 1, 1)
        self.near = self.w1.attach("near", 2, 2)
        self.far = self.w2.attach("far", 1, 3)
        made.services = [service(1001, self.near), service(1002, self.far)]
        made.tell()

    def works(self, *, within_s: float = PATIENCE_S) -> bool:
        answers = [self.client.do(lambda: ask(each, "tcp", timeout_s=within_s)) for each in (NEAR, FAR)]  # noqa: B023
        return [answer.split(" ")[0] for answer in answers] == ["near", "far"]

    def tell(self) -> None:
        """Make one pass's calls on the first worker."""
        overlay = self.fleet.overlay(self.w1)
        self.w1.prepare(overlay)
        self.w1.apply(overlay)


@pytest.fixture
def pair(tmp_path: Path, need_program: Callable[[str, str], str]) -> Iterator[Pair]:
    need_program("nft", "nftables")
    with fleet(tmp_path, 2) as made, contextlib.ExitStack() as stack:
        found = Pair(made)
        for instance in (found.near, found.far):
            stack.enter_context(contextlib.closing(Server(instance.name, instance)))
        yield found


def kernel(machine: Machine) -> str:
    """Return all that a machine's kernel holds for us, as text; the first line counts changes of rules.

    It is asked once the kernel has tried out what addresses it gave itself, which adds routes to them.
    """
    until(lambda: "tentative" not in machine.shell("ip", "-6", "addr"), "addresses are tried out")
    listings = (
        ("nft", "-a", "list", "ruleset"),
        ("ip", "-o", "link"),
        ("ip", "addr"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "neigh", "show", "nud", "permanent"),
        ("ip", "-6", "neigh", "show", "nud", "permanent"),
        ("bridge", "fdb"),
    )
    return "\n".join(machine.shell(*command) for command in listings)


# --- taking over ------------------------------------------------------------------------------------------------------


def test_a_new_agent_takes_over_without_a_message_to_the_kernel(pair: Pair) -> None:
    machine = pair.w1.machine
    before = kernel(machine)
    watch = machine.do(_monitor)
    with watch:
        pair.w1.restart()
        pair.tell()
        assert machine.live(pair.w1.network.attached()) == (1, 2)
        assert pair.w1.machine.live(pair.w1.network.attach(_endpoint(pair.client))) == pair.client.path
        assert not _heard(watch), "the kernel told of changes"
        pair.w1.attach("another", 3, 9)
        assert _heard(watch), "so it would have told"
    pair.w1.detach(pair.w1.instances[-1])
    until(lambda: "n3@" not in kernel(machine), "the link goes")
    assert kernel(machine) == before


def _endpoint(instance: Instance) -> Endpoint:
    return Endpoint(number=instance.number, namespace=instance.namespace, tenant=instance.tenant)


def _monitor() -> socket.socket:
    """Return a socket that hears of every change of links, addresses, routes and neighbours (RTMGRP_*)."""
    each = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    each.bind((0, 1 | 4 | 0x10 | 0x40 | 0x100 | 0x400))
    each.setblocking(False)
    return each


def _heard(watch: socket.socket) -> bool:
    """Tell whether anything was changed; whom the kernel meets and forgets by itself is nobody's change (rtnetlink(7))."""
    with contextlib.suppress(BlockingIOError):
        while messages := watch.recv(65536):
            while messages:
                length, kind = struct.unpack_from("=IH", messages)
                if kind not in _NEIGHBOUR or struct.unpack_from("=H", messages, _STATE_AT)[0] & _LASTING:
                    return True
                messages = messages[length + 3 & ~3 :]
    return False


def test_connections_outlive_the_agent(pair: Pair) -> None:
    with pair.client.do(lambda: socket.create_connection((FAR, PORT), timeout=PATIENCE_S)) as stream:
        stream.recv(100)
        for _ in range(3):
            pair.w1.restart()
            pair.tell()
            pair.w2.restart()
            stream.sendall(b"still there")
            assert stream.recv(100) == b"still there"


def test_no_request_is_lost_while_agents_come_and_rules_change(pair: Pair) -> None:
    """One after the other: agents that take over, and backends that come and go."""
    answers: Counter[str] = Counter()
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answers.update(ask_often(NEAR, "tcp", 10))

    asking = threading.Thread(target=lambda: pair.client.do(keep_asking))
    asking.start()
    try:
        for backends in ((pair.far,), (pair.near, pair.far), (pair.near,)) * 4:
            pair.fleet.services = [service(1001, *backends)]
            pair.w1.restart()
            pair.tell()
            before = answers.total()
            until(lambda: answers.total() >= before + 20, "requests go on")  # noqa: B023
    finally:
        done.set()
        asking.join()
    assert set(answers) == {"near", "far"}, answers


def test_a_new_agent_forgets_what_is_not_wanted_any_more(pair: Pair) -> None:
    pair.w1.restart()
    pair.fleet.services = []
    overlay = replace(pair.fleet.overlay(pair.w1), peers=())
    pair.w1.prepare(overlay)
    pair.w1.apply(overlay)
    assert not pair.works(within_s=0.3)
    assert Names.of(pair.w1.id).tunnel not in pair.w1.machine.shell("ip", "link"), (
        "nobody to reach, so nothing listens"
    )


def test_an_older_agents_table_is_replaced_as_a_whole(pair: Pair) -> None:
    """Of another version is a table whose comment is another."""
    machine, table = pair.w1.machine, Names.of(pair.w1.id).table
    rules = machine.shell("nft", "list", "table", "inet", table).replace(
        'comment "oakestra ', 'comment "older '
    )
    machine.shell("nft", "-f", "-", feed=f"delete table inet {table}\n{rules}")
    pair.w1.restart()
    pair.w1.prepare(pair.fleet.overlay(pair.w1))
    assert pair.works(), "before anything else was applied"


# --- mending ----------------------------------------------------------------------------------------------------------


def test_a_table_that_somebody_flushed_comes_back(pair: Pair) -> None:
    for _ in range(2):
        pair.w1.machine.shell("nft", "flush", "ruleset")
        assert not pair.works(within_s=0.3)
        pair.w1.prepare(pair.fleet.overlay(pair.w1))
        assert pair.works()


def test_apply_alone_puts_the_table_back_as_well(pair: Pair) -> None:
    pair.w1.machine.shell("nft", "flush", "ruleset")
    pair.w1.apply(pair.fleet.overlay(pair.w1))
    assert pair.works()


@pytest.mark.parametrize(
    "damage",
    [
        ("nft", "flush", "chain", "inet", "{table}", "services"),
        ("nft", "flush", "map", "inet", "{table}", "svc4"),
        ("nft", "delete", "table", "inet", "{table}"),
        ("ip", "link", "del", "{tunnel}"),
        ("ip", "link", "set", "{tunnel}", "down"),
    ],
    ids=" ".join,
)
def test_what_somebody_took_away_comes_back(pair: Pair, damage: tuple[str, ...]) -> None:
    names = Names.of(pair.w1.id)
    assert pair.works()
    pair.w1.machine.shell(*(word.format(table=names.table, tunnel=names.tunnel) for word in damage))
    assert not pair.works(within_s=0.3)
    pair.tell()
    assert pair.works()


def test_an_instance_whose_link_is_gone_is_not_attached(pair: Pair) -> None:
    """And one whose making was cut off is made again."""
    machine, names = pair.w1.machine, Names.of(pair.w1.id)
    machine.shell("ip", "link", "del", names.instance(1))
    machine.shell("ip", "link", "add", names.unfinished(1), "type", "veth", "peer", "name", "left")
    assert machine.live(pair.w1.network.attached()) == (2,)
    machine.live(pair.w1.network.attach(_endpoint(pair.client)))
    assert machine.live(pair.w1.network.attached()) == (1, 2)
    assert pair.works()


def test_what_a_dead_agent_left_half_done_goes_though_nobody_asks_for_that_number_again(pair: Pair) -> None:
    names, path = Names.of(pair.w1.id), Path(pair.client.path).with_name("7")
    before = kernel(pair.w1.machine)
    pair.w1.machine.shell("ip", "link", "add", names.unfinished(7), "type", "veth", "peer", "name", "left")
    pair.w1.machine.do(lambda: namespaces.make(path, lambda _: None).close())
    assert namespaces.is_bound(path)
    pair.w1.restart()
    pair.tell()
    assert not path.exists()
    assert kernel(pair.w1.machine) == before
    assert pair.works()


def test_a_link_goes_though_something_holds_on_to_the_namespace_of_its_instance(pair: Pair) -> None:
    """A connection that waits for its last packet does, for minutes, long after its process has ended."""
    unfinished = Names.of(pair.w1.id).unfinished(pair.near.number)
    with open(pair.near.path) as held:  # noqa: PTH123 - it is the open file that matters
        pair.w1.detach(pair.near)
        assert unfinished in kernel(pair.w1.machine)
        pair.tell()
        assert unfinished not in kernel(pair.w1.machine)
        assert held.name == pair.near.path


# --- instances that go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["near", "far"])
def test_connections_to_an_instance_end_with_it(pair: Pair, place: str) -> None:
    """At once and with a reset, so its clients do not wait for somebody who is not there."""
    target, worker = (NEAR, pair.w1) if place == "near" else (FAR, pair.w2)
    with pair.client.do(lambda: socket.create_connection((target, PORT), timeout=PATIENCE_S)) as stream:
        stream.recv(100)
        worker.detach(getattr(pair, place))
        until(lambda: is_reset(stream), "the connection is reset")


def is_reset(stream: socket.socket) -> bool:
    """Say something; tell whether the connection is over."""
    stream.settimeout(0.1)
    try:
        stream.sendall(b"anybody?")
        return stream.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("role", ["client", "server"])
def test_an_older_kernel_is_asked_to_forget_one_connection_after_the_other(pair: Pair, role: str) -> None:
    """It cannot be told to compare an address alone, so all are read and each is named."""
    instance = pair.client if role == "client" else pair.near
    direction = conntrack._TUPLE_ORIGINAL if role == "client" else conntrack._TUPLE_REPLY

    def entries(netlink: Netlink) -> list[bytes | None]:
        return [source for _, source in conntrack._entries(netlink, IPv4Address(0), direction)]

    def forget() -> tuple[int, int, int]:
        own = IPv4Address(instance.namespace.v4)
        with contextlib.closing(Netlink(NETFILTER)) as netlink:
            before = entries(netlink)
            conntrack._forget_one_by_one(netlink, own, direction)
            after = entries(netlink)
            return before.count(own.packed), after.count(own.packed), len(after)

    assert pair.works()
    before, after, others = pair.w1.machine.do(forget)
    assert before > 0
    assert after == 0
    if role == "server":
        assert others > 0, "the client's call to the other machine stays"


def test_connections_to_a_lost_machine_end_after_a_while(pair: Pair) -> None:
    """While no route leads to an instance it may finish what it does; then its clients are told."""
    pair.w1.uptime_s = 100.0
    with pair.client.do(lambda: socket.create_connection((FAR, PORT), timeout=PATIENCE_S)) as stream:
        stream.recv(100)
        pair.fleet.services = pair.fleet.services[:1]
        without = pair.fleet.overlay(pair.w1)
        without = replace(
            without, routes=tuple(each for each in without.routes if each.address != pair.far.semantic)
        )
        pair.w1.apply(without)
        pair.w1.uptime_s += DRAIN_S - 1
        pair.w1.apply(without)
        stream.sendall(b"finishing")
        assert stream.recv(100) == b"finishing"
        pair.w1.uptime_s += 1
        pair.w1.apply(without)
        until(lambda: is_reset(stream), "the connection is reset")


def test_an_instances_place_can_be_taken_at_once(pair: Pair) -> None:
    for round in range(3):
        pair.w1.detach(pair.client)
        pair.client = pair.w1.attach(f"client{round}", 1, 1)
        pair.fleet.tell()
        assert pair.works()


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["10.20.0.0/16", "10.30.128.0/24", "10.0.0.0/8"])
def test_a_machine_that_uses_the_overlays_addresses_is_refused(tmp_path: Path, network: str) -> None:
    with fleet(tmp_path, 1) as made:
        worker = made.workers[0]
        worker.machine.shell("ip", "route", "add", network, "via", "198.18.0.9")
        with pytest.raises(Rejected, match=f"route to {network} .on eth0."):
            worker.prepare()
        worker.machine.shell("ip", "route", "del", network)
        worker.machine.shell("ip", "route", "add", "0.0.0.0/1", "via", "198.18.0.9")
        worker.prepare()


def _publication(instance: Instance, port: int, protocol: TransportProtocol) -> Publication:
    return Publication(
        port=PublishedPort(host_port=port, container_port=PORT, protocol=protocol),
        namespace=instance.namespace,
    )


def test_a_port_that_another_program_has_is_refused_naming_it(pair: Pair) -> None:
    taken = _publication(pair.near, 8081, TransportProtocol.TCP)
    tunnel = _publication(pair.near, 50103, TransportProtocol.UDP)
    free = _publication(pair.near, 8082, TransportProtocol.TCP)
    overlay = replace(pair.fleet.overlay(pair.w1), publications=(taken, tunnel, free))
    with contextlib.closing(Server("somebody", pair.w1.machine, port=8081)):
        refused = dict(pair.w1.apply(overlay).refused_ports)
        assert set(refused) == {taken.port, tunnel.port}
        assert "8081/tcp" in refused[taken.port]
        assert f"(pid {os.getpid()})" in refused[taken.port]
        assert "the tunnel" in refused[tunnel.port]
        assert pair.fleet.outside.do(lambda: ask(pair.w1.underlay_v4, "tcp", port=8081)).startswith(
            "somebody"
        )
        assert pair.fleet.outside.do(lambda: ask(pair.w1.underlay_v4, "tcp", port=8082)).startswith("near")
    assert set(dict(pair.w1.apply(overlay).refused_ports)) == {tunnel.port}
    assert pair.fleet.outside.do(lambda: ask(pair.w1.underlay_v4, "tcp", port=8081)).startswith("near")


def test_a_published_port_stays_published_whoever_comes_later(pair: Pair) -> None:
    overlay = replace(
        pair.fleet.overlay(pair.w1), publications=(_publication(pair.near, 8081, TransportProtocol.TCP),)
    )
    pair.w1.apply(overlay)
    with contextlib.closing(Server("somebody", pair.w1.machine, port=8081)):
        pair.w1.restart()
        pair.w1.prepare(overlay)
        assert pair.w1.apply(overlay).refused_ports == ()
        pair.w1.machine.shell("nft", "flush", "ruleset")
        assert pair.w1.apply(overlay).refused_ports == ()


def test_a_tunnels_port_that_is_taken_is_said_and_this_machine_works_on(tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as made:
        w1 = made.workers[0]
        with w1.machine.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as rival:
            rival.bind(("", 50103))
            pair_ = (w1.attach("client", 1, 1), w1.attach("near", 2, 2))
            made.workers[1].attach("far", 1, 3)
            made.services = [service(1001, pair_[1])]
            with pytest.raises(Unavailable, match="UDP port 50103"):
                w1.apply(made.overlay(w1))
            with contextlib.closing(Server("near", pair_[1])):
                assert pair_[0].do(lambda: ask(NEAR, "tcp")).startswith("near")
        w1.apply(made.overlay(w1))
        assert Names.of(w1.id).tunnel in w1.machine.shell("ip", "link")


def test_a_machine_without_ipv6_does_without(tmp_path: Path) -> None:
    settings = {f"net/ipv6/conf/{name}/disable_ipv6": "1" for name in ("all", "default")}
    with fleet(tmp_path, 2) as made:
        for worker in made.workers:
            worker.machine.do(lambda: [Path("/proc/sys", key).write_text("1") for key in settings])
            worker.prepare()
        w1, w2 = made.workers
        client, far = w1.attach("client", 1, 1), w2.attach("far", 1, 3)
        made.services = [service(1002, far)]
        made.tell()
        with contextlib.closing(Server("far", far)):
            assert client.do(lambda: ask(FAR, "tcp")).startswith("far")


def test_a_machine_that_lives_by_router_advertisements_goes_on_heeding_them(tmp_path: Path) -> None:
    """A machine that forwards ignores them unless told twice. Those of instances are never heeded."""
    with fleet(tmp_path, 1, sysctl={"net/ipv6/conf/all/forwarding": "0"}) as made:
        worker = made.workers[0]
        worker.attach("instance", 1, 1)

        def heeds(device: str) -> str:
            return Path("/proc/sys/net/ipv6/conf", device, "accept_ra").read_text().strip()

        assert worker.machine.do(lambda: heeds("eth0")) == "2"
        assert worker.machine.do(lambda: heeds(Names.of(worker.id).instance(1))) == "1"
        assert worker.machine.do(lambda: heeds("default")) == "1"


def test_a_worker_may_have_several_subnets(tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as made, contextlib.ExitStack() as stack:
        w1, w2 = made.workers
        first, second = w1.subnet, worker_subnet(40)
        client = w1.attach("client", 1, 1)
        w1.subnet = second
        more = w1.attach("more", 61, 2)
        far = w2.attach("far", 1, 3)
        made.services = [service(1001, more), service(1002, far)]
        overlay = replace(made.overlay(w1), subnets=(first, second))
        w1.prepare(overlay)
        w1.apply(overlay)
        elsewhere = made.overlay(w2)
        peer = replace(w1.peer, subnets=(first, second))
        w2.apply(replace(elsewhere, peers=(peer,)))
        for instance in (client, more, far):
            stack.enter_context(contextlib.closing(Server(instance.name, instance)))
        for instance in (client, more, far):
            for target, name in ((NEAR, "more"), (FAR, "far")):
                assert instance.do(lambda: ask(target, "tcp")).startswith(name)  # noqa: B023
        assert client.do(lambda: ask(more.namespace.v4, "tcp")).startswith("more")


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_removing_leaves_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as made:
        worker = made.workers[0]
        worker.machine.live(worker.network.remove())
        before = kernel(worker.machine)
        worker.prepare()
        pair = Pair(made)
        overlay = replace(
            made.overlay(worker), publications=(_publication(pair.near, 8081, TransportProtocol.TCP),)
        )
        worker.apply(overlay)
        assert kernel(worker.machine) != before
        worker.restart()  # also an agent that has just begun can do it
        worker.machine.live(worker.network.remove())
        assert _without_numbers(kernel(worker.machine)) == _without_numbers(before)
        assert not list(worker.folder.glob("netns/*"))
        worker.machine.live(worker.network.remove())


def _without_numbers(listing: str) -> str:
    return "\n".join(line for line in listing.splitlines() if "valid_lft" not in line)


def test_workers_of_two_fleets_share_a_machine(tmp_path: Path) -> None:
    """Their services may even have the same addresses. One's going does not touch the other."""
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(contextlib.closing(Machine()))
        first, second = (Worker(index, tmp_path, machine=machine) for index in (1, 300))
        for worker in (first, second):
            stack.enter_context(contextlib.closing(worker))
            worker.prepare()
            _, server = worker.attach("client", 1, 1), worker.attach(f"server{worker.index}", 2, 2)
            worker.apply(worker.overlay([service(1001, server)]))
            stack.enter_context(contextlib.closing(Server(server.name, server)))
        for worker in (first, second):
            said = worker.instances[0].do(lambda: ask(NEAR, "tcp"))
            assert said == f"server{worker.index} 10.30.0.1"
            others = first if worker is second else second
            target = others.instances[1].namespace.v4
            said = worker.instances[0].do(lambda: ask(target, "tcp", timeout_s=0.3))  # noqa: B023
            assert said in {"Connection refused", "TimeoutError"}
            worker.prepare()
        machine.live(first.network.remove())
        assert second.instances[0].do(lambda: ask(NEAR, "tcp")) == "server300 10.30.0.1"


def test_workers_with_the_same_addresses_do_not_share_a_machine(tmp_path: Path) -> None:
    with contextlib.closing(Machine()) as machine:
        first, second = (Worker(index, tmp_path, machine=machine) for index in (1, 2))
        second.subnet = worker_subnet(1)
        with contextlib.closing(first), contextlib.closing(second):
            first.prepare()
            with pytest.raises(Rejected, match="another worker on this machine"):
                second.prepare(Overlay(subnets=(second.subnet,), subnet_index=1))
