"""Packets between instances, on real kernels: three machines made of network namespaces, joined by a switch."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from network_bench import (
    ACME,
    OTHER,
    OUTSIDE_V4,
    OUTSIDE_V6,
    PATIENCE_S,
    PORT,
    Fleet,
    Instance,
    Server,
    Worker,
    ask,
    ask_often,
    fleet,
    ping,
    semantic_address,
    service,
    until,
)
from oakestra.model.address import RouteKind
from oakestra.model.service import PublishedPort, TransportProtocol
from oakestra.network import Publication
from oakestra.network.names import tunnel_mac
from oakestra.network.netlink import NETFILTER, Netlink, conntrack

pytestmark = pytest.mark.root

FAMILIES = ("v4", "v6")
PROTOCOLS = ("tcp", "udp", "icmp")
SELF, SAME, REMOTE, EACH, CLOSEST, EMPTY, FOREIGN = range(1001, 1008)
"""Numbers of the semantic addresses of services."""


class Town:
    """Three workers: a client with a neighbour, a remote instance, and a stranger on each side."""

    def __init__(self, made: Fleet) -> None:
        self.fleet = made
        self.w1, self.w2, self.w3 = made.workers
        self.client = self.w1.attach("client", 1, 1)
        self.near = self.w1.attach("near", 2, 2)
        self.far = self.w2.attach("far", 1, 3)
        self.third = self.w3.attach("third", 1, 4)
        self.strange_near = self.w1.attach("strange-near", 3, 5, OTHER)
        self.strange_far = self.w2.attach("strange-far", 2, 6, OTHER)
        made.services = [
            service(SELF, self.client),
            service(SAME, self.near),
            service(REMOTE, self.far),
            service(EACH, self.near, self.far, self.third),
            service(CLOSEST, self.far, self.near, kind=RouteKind.CLOSEST),
            service(EMPTY),
            service(FOREIGN, self.strange_near, self.strange_far, tenant=OTHER),
        ]
        made.tell()

    def asks(self, address: str, protocol: str = "tcp", *, port: int = PORT) -> str:
        return self.client.do(lambda: ask(address, protocol, port=port))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, need_tools: None) -> Iterator[Town]:
    with fleet(tmp_path_factory.mktemp("town"), 3) as made, contextlib.ExitStack() as stack:
        found = Town(made)
        for worker in made.workers:
            for instance in worker.instances:
                stack.enter_context(contextlib.closing(Server(instance.name, instance)))
        yield found


@pytest.fixture(scope="session")
def need_tools(need_program: Callable[[str, str], str]) -> None:
    need_program("nft", "nftables")
    need_program("ip", "iproute2")


def address(number: int, family: str) -> str:
    return str(getattr(semantic_address(number), family))


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("number", "name"), [(SELF, "client"), (SAME, "near"), (REMOTE, "far")], ids=["itself", "same", "remote"]
)
def test_a_service_answers_and_sees_the_instance_that_asks(
    town: Town, number: int, name: str, protocol: str, family: str
) -> None:
    expected = "pong" if protocol == "icmp" else f"{name} {address(1, family)}"
    assert town.asks(address(number, family), protocol) == expected


def test_connections_go_to_each_backend_alike(town: Town) -> None:
    """Of 600 at random, each of three gets 200 ± 60: that is five standard deviations."""
    counts = town.client.do(lambda: ask_often(address(EACH, "v4"), "tcp", 600))
    assert set(counts) == {"near", "far", "third"}
    assert all(140 < count < 260 for count in counts.values()), counts


def test_the_closest_is_the_one_on_the_same_machine(town: Town) -> None:
    assert set(town.client.do(lambda: ask_often(address(CLOSEST, "v4"), "tcp", 20))) == {"near"}
    assert set(town.third.do(lambda: ask_often(address(CLOSEST, "v4"), "tcp", 20))) == {"far"}, "the first"


def test_an_instances_own_address_leads_to_it_alone(town: Town) -> None:
    for family in FAMILIES:
        assert set(town.client.do(lambda: ask_often(address(4, family), "udp", 20))) == {"third"}  # noqa: B023


@pytest.mark.parametrize("number", [EMPTY, 9999], ids=["without instances", "nobody's"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_without_instances_refuses_at_once(
    town: Town, number: int, protocol: str, family: str
) -> None:
    assert_refused(town.client, address(number, family), protocol)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_attempts_of_a_slot_get_each_its_own_answers(town: Town, family: str) -> None:
    """One serves, the other starts on another machine; neither has to be ready. Both are seen as the slot."""
    slot = replace(
        service(2001, tenant=ACME),
        kind=RouteKind.INSTANCE,
        senders=(town.near.namespace, town.far.namespace),
    )
    try:
        for worker in town.fleet.workers:
            overlay = town.fleet.overlay(worker)
            others = [
                route
                for route in overlay.routes
                if route.address not in {town.near.semantic, town.far.semantic}
            ]
            worker.apply(replace(overlay, routes=(*others, slot), sources=()))
        for _ in range(5):
            for attempt in (town.near, town.far):
                said = attempt.do(lambda: ask(address(EACH, family), "tcp"))
                assert said.endswith(f" {address(2001, family)}"), said
                said = attempt.do(lambda: ask(address(4, family), "udp"))
                assert said == f"third {address(2001, family)}"
    finally:
        town.fleet.tell()


def test_an_instance_nobody_told_of_is_not_answered_by_other_machines(town: Town) -> None:
    """Nor refused: it may be told of in a moment."""
    overlay = town.fleet.overlay(town.w2)
    own = {town.client.semantic, semantic_address(SELF)}
    routes = tuple(route for route in overlay.routes if route.address not in own)
    town.w2.apply(replace(overlay, routes=routes))
    try:
        assert town.client.do(lambda: ask(address(REMOTE, "v4"), "tcp", timeout_s=0.3)) == "TimeoutError"
        assert town.third.do(lambda: ask(address(REMOTE, "v4"), "tcp")).startswith("far")
    finally:
        town.w2.apply(overlay)


def test_connections_through_the_tunnel_are_kept_track_of_once(town: Town) -> None:
    """Not again as what the machines say to each other: that would cost every packet."""
    assert town.asks(address(REMOTE, "v4"), "udp").startswith("far")
    for worker in (town.w1, town.w2):
        entries = worker.machine.do(tracked)
        assert struct.pack(">H", PORT) in entries, "so it would be seen"
        assert struct.pack(">H", 50103) not in entries


def tracked() -> bytes:
    """Return all tuples of IPv4 connections that this machine keeps track of."""
    with contextlib.closing(Netlink(NETFILTER)) as netlink:
        entries = conntrack._entries(netlink, IPv4Address(0), 1)
        return b"".join(original for original, _ in entries)


def assert_refused(client: Instance, target: str, protocol: str, *, port: int = PORT) -> None:
    """TCP is refused the first time. Of UDP the kernel tells only a few times a second, whoever it was."""
    if protocol == "tcp":
        assert client.do(lambda: ask(target, protocol, port=port)) == "Connection refused", target
    else:
        until(
            lambda: (
                client.do(lambda: ask(target, protocol, port=port, timeout_s=0.2)) == "Connection refused"
            ),
            f"{target} refuses",
        )


def test_refusals_keep_coming_however_many_ask(town: Town) -> None:
    """The kernel sends only a few ICMP errors a second; TCP must not depend on them."""
    answers = town.client.do(lambda: {ask(address(EMPTY, "v4"), "tcp") for _ in range(50)})
    assert answers == {"Connection refused"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_machine_itself_reaches_services(town: Town, family: str) -> None:
    for worker, number, name in ((town.w1, SAME, "near"), (town.w1, REMOTE, "far"), (town.w2, REMOTE, "far")):
        said = worker.machine.do(lambda: ask(address(number, family), "tcp"))  # noqa: B023
        assert said == f"{name} {getattr(worker.gateway, family)}"
    assert town.w1.machine.do(lambda: ask(address(EMPTY, family), "tcp")) == "Connection refused"


def test_large_messages_arrive_whole(town: Town) -> None:
    """Each way more than any buffer, so segments of full size cross the tunnel, which makes them 50 bytes longer."""
    links = town.client.do(lambda: subprocess.check_output(("ip", "link"), text=True))
    assert "mtu 1450 " in links
    content = bytes(range(256)) * 4096
    for family in FAMILIES:

        def repeat(target: str = address(REMOTE, family)) -> bytes:
            with socket.create_connection((target, PORT), timeout=PATIENCE_S) as stream:
                stream.recv(100)
                heard = bytearray()
                for start in range(0, len(content), 65536):
                    stream.sendall(content[start : start + 65536])
                    while len(heard) < start + 65536:
                        heard += stream.recv(65536)
                return bytes(heard)

        assert town.client.do(repeat) == content


def test_an_instance_that_calls_itself_is_not_redirected(town: Town) -> None:
    """Its packets come back where they came from, which makes a router say so to it, and then say little else."""
    for _ in range(3):
        assert town.asks(address(SELF, "v4")).startswith("client")
    table = town.w1.machine.do(lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, values = (line.split() for line in table.splitlines() if line.startswith("Icmp:"))
    assert dict(zip(names, values, strict=True))["OutRedirects"] == "0"


# --- outside ----------------------------------------------------------------------------------------------------------


def test_the_outside_sees_the_machine_and_not_the_instance(town: Town) -> None:
    with contextlib.closing(Server("outside", town.fleet.outside)):
        assert town.asks(OUTSIDE_V4) == f"outside {town.w1.underlay_v4}"
        assert town.asks(OUTSIDE_V4, "udp") == f"outside {town.w1.underlay_v4}"
        assert town.asks(OUTSIDE_V6) == "outside fd31::11"


def test_nobody_outside_reaches_an_instance_by_its_address(town: Town) -> None:
    outside, near = town.fleet.outside, town.near.namespace
    outside.shell("ip", "route", "add", "10.18.0.64/26", "via", town.w1.underlay_v4)
    try:
        assert outside.do(lambda: ask(near.v4, "tcp", timeout_s=0.3)) == "TimeoutError"
    finally:
        outside.shell("ip", "route", "del", "10.18.0.64/26")


@pytest.fixture
def published(town: Town) -> Iterator[Town]:
    """Port 8080 of the first machine leads to `near`."""
    publications = tuple(
        Publication(
            port=PublishedPort(host_port=8080, container_port=PORT, protocol=protocol),
            namespace=town.near.namespace,
        )
        for protocol in TransportProtocol
    )
    overlay = town.fleet.overlay(town.w1)
    assert town.w1.apply(replace(overlay, publications=publications)).refused_ports == ()
    yield town
    town.w1.apply(overlay)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_leads_to_its_instance(published: Town, protocol: str) -> None:
    outside, w1 = published.fleet.outside, published.w1
    for target, seen in ((w1.underlay_v4, OUTSIDE_V4), ("fd31::11", OUTSIDE_V6)):
        assert outside.do(lambda: ask(target, protocol, port=8080)) == f"near {seen}"  # noqa: B023
    assert w1.machine.do(lambda: ask(w1.underlay_v4, protocol, port=8080)) == f"near {w1.underlay_v4}"
    instances = (published.client, published.near, published.strange_near, published.far)
    for instance in instances:
        said = instance.do(lambda: ask(w1.underlay_v4, protocol, port=8080))
        assert said.startswith("near "), f"{instance.name}: {said}"


def test_a_port_that_is_not_published_any_more_is_closed(town: Town) -> None:
    assert town.fleet.outside.do(lambda: ask(town.w1.underlay_v4, "tcp", port=8080)) == "Connection refused"


# --- what instances must not do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tenants_do_not_reach_each_other(town: Town, family: str) -> None:
    """Neither by service, nor by instance, nor by address, here or elsewhere; each reaches its own."""
    foreign = [address(FOREIGN, family), address(5, family), address(6, family)]
    foreign += [getattr(each.namespace, family) for each in (town.strange_near, town.strange_far)]
    for target, protocol in itertools.product(foreign, ("tcp", "udp")):
        assert_refused(town.client, target, protocol)
    assert town.client.do(lambda: ping(foreign[3], timeout_s=0.3)) != "pong"
    assert town.strange_near.do(lambda: ask(address(FOREIGN, family), "tcp")).startswith("strange-")


def test_instances_of_one_tenant_reach_each_other_by_address(town: Town) -> None:
    for family in FAMILIES:
        for instance in (town.near, town.far):
            said = town.asks(getattr(instance.namespace, family))
            assert said == f"{instance.name} {address(1, family)}", "seen by its semantic address, as ever"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_servers_machine_keeps_tenants_apart_whatever_the_clients_does(town: Town, family: str) -> None:
    """The client's machine is told that the stranger is one of its own tenant."""
    forged = service(2000, town.strange_far)
    overlay = town.fleet.overlay(town.w1)
    town.w1.apply(replace(overlay, routes=(*overlay.routes, forged)))
    try:
        for target in (address(2000, family), getattr(town.strange_far.namespace, family)):
            assert town.client.do(lambda: ask(target, "tcp", timeout_s=0.3)) == "TimeoutError"  # noqa: B023
    finally:
        town.w1.apply(overlay)


def test_an_instance_cannot_take_anothers_address(town: Town) -> None:
    """It gives itself its neighbour's address, as a privileged one could, and speaks from there."""
    thief, victim = town.strange_near, town.client.namespace.v4

    def speak(source: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
            each.bind((source, 0))
            each.sendto(source.encode(), (OUTSIDE_V4, 7777))

    def change(verb: str) -> None:
        subprocess.run(("ip", "addr", verb, f"{victim}/32", "dev", "lo"), check=True)

    thief.do(lambda: change("add"))
    try:
        with town.fleet.outside.do(lambda: listener(7777)) as heard:
            thief.do(lambda: speak(victim))
            thief.do(lambda: speak(thief.namespace.v4))
            assert heard.recv(100).decode() == thief.namespace.v4, "the first to arrive"
    finally:
        thief.do(lambda: change("del"))


def listener(port: int) -> socket.socket:
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each.settimeout(PATIENCE_S)
    each.bind(("", port))
    return each


def hears_nothing(listening: socket.socket) -> bool:
    """Tell whether nothing comes for a moment."""
    listening.settimeout(0.5)
    try:
        listening.recv(100)
    except TimeoutError:
        return True
    return False


def test_of_its_machine_an_instance_sees_name_server_and_echo_alone(town: Town) -> None:
    addresses = (town.w1.gateway.v4, town.w1.gateway.v6, town.w1.underlay_v4, "fd31::11")
    with contextlib.ExitStack() as stack:
        for port in (53, 2222):
            stack.enter_context(contextlib.closing(Server("machine", town.w1.machine, port=port)))
        assert town.asks(town.w1.gateway.v4, "udp", port=53).startswith("machine ")
        for target in addresses:
            assert town.asks(target, port=53).startswith("machine "), target
            for protocol in ("tcp", "udp"):
                assert_refused(town.client, target, protocol, port=2222)
            assert town.client.do(lambda: ping(target)) == "pong"  # noqa: B023
            assert town.far.do(lambda: ask(town.w1.gateway.v4, "tcp", port=53)) == "Connection refused"


def test_the_machines_metadata_is_not_for_instances(town: Town) -> None:
    machine = town.w1.machine
    machine.shell("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
    try:
        with contextlib.closing(Server("metadata", machine, port=80)):
            assert town.asks("169.254.169.254", port=80) == "Connection refused"
    finally:
        machine.shell("ip", "addr", "del", "169.254.169.254/32", "dev", "lo")
    assert town.asks("169.254.169.254", port=80) == "Connection refused"


def test_only_peers_put_packets_into_the_tunnel(town: Town) -> None:
    """The same packet, from another worker's machine, from a stranger, and from an instance on that machine."""
    forged = _tunnelled(to=town.client.namespace.v4, by=town.far.namespace.v4)
    with town.client.do(lambda: listener(7777)) as heard:
        town.w2.machine.do(lambda: send_into_tunnel(forged, town.w1))
        assert heard.recv(100) == b"forged", "so the packet is well formed"
        town.fleet.outside.do(lambda: send_into_tunnel(forged, town.w1))
        town.far.do(lambda: send_into_tunnel(forged, town.w1))
        assert hears_nothing(heard)


def test_a_peer_cannot_speak_for_instances_here_nor_send_through_this_machine(town: Town) -> None:
    posing = _tunnelled(to=town.client.namespace.v4, by=town.near.namespace.v4)
    passing = _tunnelled(to=OUTSIDE_V4, by=town.w2.gateway.v4)
    own = _tunnelled(to=town.client.namespace.v4, by=town.w2.gateway.v4)
    with (
        town.client.do(lambda: listener(7777)) as heard,
        town.fleet.outside.do(lambda: listener(7777)) as outside,
    ):
        for packet in (posing, passing, own):
            town.w2.machine.do(lambda: send_into_tunnel(packet, town.w1))  # noqa: B023
        assert heard.recvfrom(100)[1][0] == town.w2.gateway.v4, "the last one, and only that"
        assert hears_nothing(outside)


def send_into_tunnel(packet: bytes, worker: Worker) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        each.sendto(packet, (worker.underlay_v4, 50103))


def _tunnelled(*, to: str, by: str) -> bytes:
    """Return the UDP payload that the second worker's VXLAN device sends to the first for a small datagram."""
    datagram = struct.pack(">HHHH", 1234, 7777, 8 + 6, 0) + b"forged"
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
    head += socket.inet_aton(by) + socket.inet_aton(to)
    total = sum(struct.unpack(">10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
    frame = tunnel_mac(1) + tunnel_mac(2) + b"\x08\x00" + head + datagram
    return struct.pack(">II", 0x08000000, 1 << 8) + frame


# --- other settings of the machine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strictness", ["1", "2"])
def test_checking_where_packets_come_from_does_not_hurt(
    tmp_path: Path, need_tools: None, strictness: str
) -> None:
    """Distributions ship rp_filter 0, 1 and 2."""
    settings = {f"net/ipv4/conf/{name}/rp_filter": strictness for name in ("all", "default")}
    with fleet(tmp_path, 2, sysctl=settings) as made:
        w1, w2 = made.workers
        client, near, far = w1.attach("client", 1, 1), w1.attach("near", 2, 2), w2.attach("far", 1, 3)
        made.services = [service(SAME, near), service(REMOTE, far)]
        made.tell()
        with contextlib.closing(Server("near", near)), contextlib.closing(Server("far", far)):
            assert client.do(lambda: ask(address(SAME, "v4"), "tcp")).startswith("near")
            assert client.do(lambda: ask(address(REMOTE, "v4"), "tcp")).startswith("far")


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_firewall_that_drops_what_it_forwards_is_asked_to_let_instances_through(
    tmp_path: Path, need_tools: None, need_program: Callable[[str, str], str], backend: str
) -> None:
    """As Docker and ufw set it."""
    commands = [need_program(f"{name}-{backend}", "iptables") for name in ("iptables", "ip6tables")]
    with fleet(tmp_path, 2) as made:
        w1, w2 = made.workers
        client, far = w1.attach("client", 1, 1), w2.attach("far", 1, 3)
        made.services = [service(REMOTE, far)]
        made.tell()
        for worker, command in itertools.product(made.workers, commands):
            worker.machine.shell(command, "-P", "FORWARD", "DROP")
        with contextlib.closing(Server("far", far)):
            assert client.do(lambda: ask(address(REMOTE, "v4"), "tcp", timeout_s=0.2)) == "TimeoutError"
            for _ in range(2):
                for worker in made.workers:
                    worker.prepare()
            for family in FAMILIES:
                assert client.do(lambda: ask(address(REMOTE, family), "tcp")).startswith("far")  # noqa: B023
            rules = w1.machine.shell(commands[0], "-S", "FORWARD")
            assert rules.count("ACCEPT") == 2, rules
            w1.machine.live(w1.network.remove())
            assert w1.machine.shell(commands[0], "-S", "FORWARD").count("ACCEPT") == 0
