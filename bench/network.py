"""What the overlay costs: TCP and round trips through a service IP against plain routed veth, MTU-size packets on the wire.

Two pairs of machines made of network namespaces, measured by turns: one with workers' networks, one that only routes.
Needs root, nft and iperf3. Leaves out: real network cards, encryption, more than one stream; both ends and all machines
share this machine's cores. Prints JSON lines, then a table.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import fcntl
import json
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from figures import Figures

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from network_bench import ACME, Instance, Machine, Worker, in_namespace, plug, semantic_address, service
from oakestra.model.address import Backend, Route, RouteKind
from oakestra.model.ids import ServiceId
from oakestra.model.service import InstanceAddress
from oakestra.network import Overlay

PORT = 5201
PLAIN_MTU = 1500
SERVICE = 1000
_SIOCETHTOOL = 0x8946
_ETHTOOL_STSO, _ETHTOOL_SGSO = 0x1F, 0x24

ECHO = """
import socket, sys
each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
each.bind(("", 7002))
print("ready", flush=True)
while True:
    said, whom = each.recvfrom(2000)
    each.sendto(said, whom)
"""
PING_PONG = """
import json, socket, sys, time
target, count, fresh = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "fresh"
def opened():
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each.settimeout(2)
    each.connect((target, 7002))
    return each
each, times = opened(), []
for _ in range(count):
    if fresh:
        each.close()
        each = opened()
    begun = time.perf_counter_ns()
    each.send(bytes(64))
    each.recv(100)
    times.append((time.perf_counter_ns() - begun) / 1000)
times.sort()
print(json.dumps([times[len(times) // 2], times[len(times) * 99 // 100]]))
"""


@dataclass(frozen=True)
class Way:
    """Where a client is, and what it calls to reach the server of its pair."""

    name: str
    client: str
    server: str
    target: str


def cut_into_packets(machine: Machine, device: str) -> None:
    """Have a device send packets of its MTU, as a network card does, instead of handing large ones on."""

    def there() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
            for command in (_ETHTOOL_STSO, _ETHTOOL_SGSO):
                value = array.array("B", struct.pack("II", command, 0))
                request = struct.pack("16sP8x", device.encode(), value.buffer_info()[0])
                fcntl.ioctl(each, _SIOCETHTOOL, request)

    machine.do(there)


@contextlib.contextmanager
def pairs(folder: Path) -> Iterator[tuple[list[Worker], Way, Way]]:
    """Make both pairs of machines on one switch."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(contextlib.closing(Machine()))
        switch.shell("ip", "link", "add", "br0", "type", "bridge")
        switch.shell("ip", "link", "set", "br0", "up")
        workers = []
        for index in (1, 2):
            worker = stack.enter_context(contextlib.closing(Worker(index, folder)))
            join(switch, worker.machine, worker.underlay_v4, index)
            worker.prepare()
            workers.append(worker)
        client, server = (
            worker.attach(name, 1, index)
            for index, (worker, name) in enumerate(zip(workers, ("client", "server"), strict=True), 1)
        )
        for worker in workers:
            worker.apply(overlay(worker, workers, [service(SERVICE, server)]))
        overlaid = Way("service IP", client.path, server.path, semantic_address(SERVICE).v4)
        plain = stack.enter_context(routed_pair(switch))
        yield workers, plain, overlaid


def join(switch: Machine, machine: Machine, v4: str, number: int) -> None:
    plug(switch, machine, v4, f"fd31::{number}", f"p{number}")
    cut_into_packets(machine, "eth0")
    cut_into_packets(switch, f"p{number}")


def overlay(worker: Worker, workers: Sequence[Worker], services: Sequence[Route]) -> Overlay:
    instances = [
        Route(
            service=ServiceId(instance.name),
            kind=RouteKind.INSTANCE,
            address=instance.semantic,
            backends=(Backend(slot=0, address=instance.namespace),),
            tenant=ACME,
            senders=(instance.namespace,),
        )
        for other in workers
        for instance in other.instances
    ]
    peers = [other.peer for other in workers if other is not worker]
    return worker.overlay([*instances, *services], peers)


@contextlib.contextmanager
def routed_pair(switch: Machine) -> Iterator[Way]:
    """Make two machines that only route, each with one namespace behind a veth."""
    with contextlib.ExitStack() as stack:
        places = []
        for number in (3, 4):
            machine = stack.enter_context(contextlib.closing(Machine()))
            inside = stack.enter_context(contextlib.closing(Machine()))
            join(switch, machine, f"198.18.0.{10 + number}", number)
            machine.do(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
            cable = ("type", "veth", "peer", "name", "c0", "netns", str(machine.tid))
            inside.shell("ip", "link", "add", "eth0", "mtu", str(PLAIN_MTU), *cable)
            for place, device, address in ((machine, "c0", 1), (inside, "eth0", 2)):
                place.shell("ip", "addr", "add", f"172.31.{number}.{address}/24", "dev", device)
                place.shell("ip", "link", "set", device, "up")
            inside.shell("ip", "route", "add", "default", "via", f"172.31.{number}.1")
            other = 7 - number
            machine.shell("ip", "route", "add", f"172.31.{other}.0/24", "via", f"198.18.0.{10 + other}")
            places.append(f"/proc/self/task/{inside.tid}/ns/net")
        yield Way("plain routed veth", places[0], places[1], "172.31.4.2")


@contextlib.contextmanager
def running(place: str, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    child = in_namespace(
        place,
        lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True),
    )
    with child:
        yield child
        child.terminate()


def answer(place: str, command: Sequence[str]) -> str:
    run = partial(subprocess.run, command, capture_output=True, text=True, check=False)
    done = in_namespace(place, run)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:3])}: {done.stderr or done.stdout}")
    return done.stdout


def throughput(way: Way, seconds: float) -> float:
    """Return Gbit/s of one TCP stream."""
    with running(way.server, ("iperf3", "-s", "-1", "-p", str(PORT), "--forceflush")) as server:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            pass
        said = answer(way.client, ("iperf3", "-c", way.target, "-p", str(PORT), "-t", str(seconds), "-J"))
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def round_trips(way: Way, count: int, *, fresh: bool = False) -> tuple[float, float]:
    """Return median and 99th percentile in µs, on one socket or on a fresh one for each."""
    with running(way.server, (sys.executable, "-c", ECHO)) as server:
        assert server.stdout is not None
        server.stdout.readline()
        mode = "fresh" if fresh else "same"
        said = answer(way.client, (sys.executable, "-c", PING_PONG, way.target, str(count), mode))
    median, late = json.loads(said)
    return median, late


def many_services(count: int, server: Instance) -> list[Route]:
    """Return this many services more, three backends each."""
    addresses = [str(IPv4Address("10.18.32.2") + number) for number in range(3)]
    backends = tuple(Backend(slot=0, address=InstanceAddress(v4=each)) for each in addresses)
    others = (replace(service(SERVICE + 1 + number), backends=backends) for number in range(count - 1))
    return [service(SERVICE, server), *others]


def measure(figures: Figures, folder: Path, *, rounds: int, seconds: float) -> None:
    with pairs(folder) as (workers, plain, overlaid):
        speeds: list[tuple[float, float]] = []
        trips: list[tuple[float, float]] = []
        for _ in range(rounds):
            speeds.append((throughput(plain, seconds), throughput(overlaid, seconds)))
            trips.append((round_trips(plain, 3000)[0], round_trips(overlaid, 3000)[0]))
        tell_pair(figures, "TCP", "Gbit/s", plain, overlaid, speeds)
        share = statistics.median(there / bare for bare, there in speeds)
        figures.tell("TCP through a service IP, share of plain", "%", 100 * share, runs=rounds, target="≥ 70")
        tell_pair(figures, "round trip of 64 bytes, p50", "µs", plain, overlaid, trips)
        added = statistics.median(there - bare for bare, there in trips)
        figures.tell("added round trip, p50", "µs", added, runs=rounds, target="≤ 25")
        cost_of_many(figures, workers, overlaid, rounds)


def tell_pair(
    figures: Figures, what: str, unit: str, plain: Way, overlaid: Way, found: Sequence[tuple[float, float]]
) -> None:
    for number, way in enumerate((plain, overlaid)):
        median = statistics.median(pair[number] for pair in found)
        figures.tell(f"{what}, {way.name}", unit, median, runs=len(found))


def cost_of_many(figures: Figures, workers: Sequence[Worker], overlaid: Way, rounds: int) -> None:
    server = workers[1].instances[0]
    few, many = (overlay(workers[0], workers, many_services(count, server)) for count in (10, 10_000))
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        pair = []
        for wanted in (few, many):
            workers[0].apply(wanted)
            pair.append(round_trips(overlaid, 2000, fresh=True)[0])
        found.append((pair[0], pair[1]))
    for name, number in (("10", 0), ("10 000", 1)):
        median = statistics.median(pair[number] for pair in found)
        figures.tell(f"first round trip of a connection, {name} services", "µs", median, runs=rounds)
    ratio = statistics.median(pair[1] / pair[0] for pair in found)
    figures.tell("10 000 services, times the cost of 10", "×", ratio, runs=rounds, target="0.9-1.1")
    changed = replace(many, routes=(*many.routes[:-1], replace(many.routes[-1], backends=())))
    times = [timed(partial(workers[0].apply, wanted)) for wanted in (changed, many) * 3]
    figures.tell("one of 10 000 services changed", "ms", 1000 * statistics.median(times), runs=len(times))


def timed(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each TCP stream")
    arguments = parser.parse_args()
    for program in ("iperf3", "nft", "ip"):
        if shutil.which(program) is None:
            sys.exit(
                f"{program} is missing; install it (Debian: apt-get install iperf3 nftables iproute2) and try again"
            )
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        measure(figures, Path(folder), rounds=arguments.rounds, seconds=arguments.seconds)
    figures.table()


if __name__ == "__main__":
    main()
