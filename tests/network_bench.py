"""Machines made of network namespaces, joined by a switch, and instances that speak through sockets in theirs.

Each machine is a thread that lives in a namespace of its own: what is called in it, and every child process, sees that
machine's network. Nothing here starts a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oakestra.model.address import Backend, Peer, Route, RouteKind, Subnet, host_address, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId, WorkerId
from oakestra.model.service import InstanceAddress
from oakestra.network import Endpoint, Overlay, Source
from oakestra.network.linux import LinuxNetwork

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
OWN = "/proc/thread-self/ns/net"
PATIENCE_S = 30.0
PORT = 8000
ACME = OrganizationId("acme")
OTHER = OrganizationId("other")
OUTSIDE_V4, OUTSIDE_V6 = "198.18.0.9", "fd31::9"


def enter(fd: int) -> None:
    """Move the calling thread into a network namespace."""
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """A network namespace with a thread in it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.tid = self._thread.submit(self._leave_home).result()

    @staticmethod
    def _leave_home() -> int:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        return threading.get_native_id()

    def do(self, work: Callable[[], T]) -> T:
        """Call `work` on this machine."""
        return self._thread.submit(work).result()

    def live(self, story: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this machine."""
        return self.do(lambda: asyncio.run(story))

    def shell(self, *command: str, feed: str | None = None) -> str:
        """Run a program on this machine; return what it printed. Raises if it failed."""
        done = self.do(
            lambda: subprocess.run(command, input=feed, capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def close(self) -> None:
        self._thread.shutdown()


@dataclass
class Instance:
    """An instance's place: who it is and the path of its namespace."""

    name: str
    number: int
    namespace: InstanceAddress
    semantic: InstanceAddress
    tenant: OrganizationId
    path: str = ""

    def do(self, work: Callable[[], T]) -> T:
        """Call `work` in the instance's namespace."""
        return in_namespace(self.path, work)


def in_namespace(path: str, work: Callable[[], T]) -> T:
    """Call `work` in a thread that was moved into a namespace."""
    result: list[T] = []
    raised: list[BaseException] = []

    def there() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(fd)
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it belongs
            raised.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return result[0]


class Worker:
    """A machine with a worker's network on it."""

    def __init__(self, index: int, folder: Path, *, machine: Machine | None = None) -> None:
        self.index = index
        self.machine = machine or Machine()
        self._shares_machine = machine is not None
        self.id = WorkerId(f"{index:024x}")
        self.folder = folder / f"w{index}"
        self.subnet: Subnet = worker_subnet(index)
        self.underlay_v4 = f"198.18.0.{10 + index}"
        self.instances: list[Instance] = []
        self.uptime_s = 0.0
        self.network = self.agent()

    def agent(self) -> LinuxNetwork:
        """Return the network of a new agent."""
        return LinuxNetwork(self.id, runtime_dir=self.folder, uptime_s=lambda: self.uptime_s)

    def restart(self) -> None:
        """Let a new agent take over."""
        self.network.close()
        self.network = self.agent()

    def overlay(self, routes: Sequence[Route] = (), peers: Sequence[Peer] = (), **more: Any) -> Overlay:
        """Return what this worker's kernel should do."""
        return Overlay(
            subnets=(self.subnet,),
            subnet_index=self.index,
            routes=tuple(routes),
            sources=tuple(
                Source(namespace=each.namespace, instance=each.semantic, tenant=each.tenant)
                for each in self.instances
            ),
            peers=tuple(peers),
            underlay_v4=self.underlay_v4,
            **more,
        )

    def prepare(self, overlay: Overlay | None = None) -> None:
        self.machine.live(self.network.prepare(overlay or self.overlay()))

    def apply(self, overlay: Overlay) -> Any:
        return self.machine.live(self.network.apply(overlay))

    def attach(self, name: str, number: int, semantic: int, tenant: OrganizationId = ACME) -> Instance:
        """Attach an instance; its semantic address is number `semantic` of all."""
        instance = Instance(
            name=name,
            number=number,
            namespace=host_address(self.subnet, 1 + number),
            semantic=semantic_address(semantic),
            tenant=tenant,
        )
        endpoint = Endpoint(number=number, namespace=instance.namespace, tenant=tenant)
        instance.path = self.machine.live(self.network.attach(endpoint))
        self.instances.append(instance)
        return instance

    @property
    def peer(self) -> Peer:
        return Peer(subnet_index=self.index, subnets=(self.subnet,), host=self.underlay_v4)

    @property
    def gateway(self) -> InstanceAddress:
        """This machine's own address in the overlay."""
        return host_address(self.subnet, 1)

    def detach(self, instance: Instance) -> None:
        self.machine.live(self.network.detach(instance.number))
        self.instances.remove(instance)

    def close(self) -> None:
        self.machine.live(self.network.remove())
        self.network.close()
        if not self._shares_machine:
            self.machine.close()


def semantic_address(number: int) -> InstanceAddress:
    return InstanceAddress(v4=f"10.30.{number >> 8}.{number & 255}", v6=f"fdff::{number:x}")


@dataclass
class Fleet:
    """Workers on one switch, and a machine outside of the overlay."""

    workers: list[Worker]
    outside: Machine
    services: list[Route] = field(default_factory=list)

    def instance_routes(self) -> list[Route]:
        """Return the route of every instance's own semantic address."""
        return [
            Route(
                service=ServiceId(instance.name),
                kind=RouteKind.INSTANCE,
                address=instance.semantic,
                backends=(Backend(slot=0, address=instance.namespace),),
                tenant=instance.tenant,
                senders=(instance.namespace,),
            )
            for worker in self.workers
            for instance in worker.instances
        ]

    def tell(self) -> None:
        """Have every worker apply all routes of the tenants it has instances of."""
        for worker in self.workers:
            worker.apply(self.overlay(worker))

    def overlay(self, worker: Worker) -> Overlay:
        tenants = {instance.tenant for instance in worker.instances}
        here = {instance.namespace for instance in worker.instances}
        routes = [
            replace(
                route, backends=tuple(replace(each, local=each.address in here) for each in route.backends)
            )
            for route in (*self.instance_routes(), *self.services)
            if route.tenant in tenants
        ]
        peers = [other.peer for other in self.workers if other is not worker]
        return worker.overlay(routes, peers)


def service(
    semantic: int, *backends: Instance, kind: RouteKind = RouteKind.ROUND_ROBIN, tenant: OrganizationId = ACME
) -> Route:
    """Return the route from semantic address number `semantic` to these instances."""
    return Route(
        service=ServiceId(f"s{semantic}"),
        kind=kind,
        address=semantic_address(semantic),
        backends=tuple(
            Backend(slot=slot, address=instance.namespace) for slot, instance in enumerate(backends)
        ),
        tenant=tenant,
    )


@contextlib.contextmanager
def fleet(folder: Path, size: int, *, sysctl: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """Make `size` workers, joined by a switch, with these settings; take everything away afterwards."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(contextlib.closing(Machine()))
        switch.shell("ip", "link", "add", "br0", "type", "bridge")
        switch.shell("ip", "link", "set", "br0", "up")
        outside = stack.enter_context(contextlib.closing(Machine()))
        plug(switch, outside, OUTSIDE_V4, OUTSIDE_V6, "p9")
        workers = []
        for index in range(1, size + 1):
            worker = stack.enter_context(contextlib.closing(Worker(index, folder)))
            plug(switch, worker.machine, worker.underlay_v4, f"fd31::{10 + index}", f"p{index}")
            worker.machine.shell("ip", "route", "add", "default", "via", OUTSIDE_V4)
            for key, value in (sysctl or {}).items():
                worker.machine.do(partial(_set, key, value))
            worker.prepare()
            workers.append(worker)
        yield Fleet(workers, outside)


def _set(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value)


def plug(switch: Machine, machine: Machine, v4: str, v6: str, port: str) -> None:
    """Join a machine to the switch by a cable."""
    cable = ("type", "veth", "peer", "name", port, "netns", str(switch.tid))
    machine.shell("ip", "link", "add", "eth0", *cable)
    switch.shell("ip", "link", "set", port, "master", "br0", "up")
    machine.shell("ip", "link", "set", "eth0", "up")
    for end, name in ((switch, port), (machine, "eth0")):
        until(lambda: "state UP" in end.shell("ip", "link", "show", "dev", name), f"{name} carries")  # noqa: B023
    machine.shell("ip", "addr", "add", f"{v4}/24", "dev", "eth0")
    machine.shell("ip", "addr", "add", f"{v6}/64", "dev", "eth0", "nodad")


# --- what instances say -----------------------------------------------------------------------------------------------


class Place(Protocol):
    """A machine or an instance: somewhere with a network of its own."""

    def do(self, work: Callable[[], T]) -> T: ...


class Server:
    """Answers on TCP and UDP, IPv4 and IPv6, with its name and whom it saw; on TCP it then repeats what it hears."""

    def __init__(self, name: str, place: Place, *, port: int = PORT) -> None:
        self._name = name
        self._sockets = place.do(lambda: _listening(port))
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        streams: list[socket.socket] = []
        while True:
            ready, _, _ = select.select([*self._sockets, *streams, self._ended], [], [])
            for each in ready:
                if each is self._ended:
                    for stream in streams:
                        stream.close()
                    return
                if each in streams:
                    if not _echo(each):
                        streams.remove(each)
                        each.close()
                elif each.type == socket.SOCK_DGRAM:
                    _, whom = each.recvfrom(2000)
                    each.sendto(self._greeting(whom[0]), whom)
                else:
                    stream, whom = each.accept()
                    stream.sendall(self._greeting(whom[0]))
                    streams.append(stream)

    def _greeting(self, whom: str) -> bytes:
        return f"{self._name} {whom}\n".encode()

    def close(self) -> None:
        self._end.send(b"x")
        self._thread.join()
        for each in (*self._sockets, self._end, self._ended):
            each.close()


def _echo(stream: socket.socket) -> bool:
    try:
        said = stream.recv(2000)
        stream.sendall(said)
    except OSError:
        return False
    return bool(said)


def _listening(port: int) -> list[socket.socket]:
    made = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            each = socket.socket(family, kind)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("", port))
            if kind == socket.SOCK_STREAM:
                each.listen(128)
            made.append(each)
    return made


def ask(address: str, protocol: str, *, port: int = PORT, timeout_s: float = PATIENCE_S) -> str:
    """Return what answers at an address, as `name seen-address`; or what went wrong, in one word."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "icmp":
        return ping(address, timeout_s=timeout_s)
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as each:
        each.settimeout(timeout_s)
        try:
            each.connect((address, port))
            if protocol == "udp":
                each.send(b"?")
            return each.recv(200).decode().strip()
        except OSError as error:
            return type(error).__name__ if error.errno is None else os.strerror(error.errno)


def ask_often(address: str, protocol: str, times: int, *, port: int = PORT) -> Counter[str]:
    """Return how often each name answered."""
    return Counter(ask(address, protocol, port=port).split(" ")[0] for _ in range(times))


def ping(address: str, *, timeout_s: float = PATIENCE_S) -> str:
    """Return `pong` if an echo request is answered, else what went wrong."""
    six = ":" in address
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    with socket.socket(family, socket.SOCK_RAW, protocol) as each:
        each.settimeout(timeout_s)
        identifier = threading.get_native_id() & 0xFFFF
        head = struct.pack(">BBHHH", 128 if six else 8, 0, 0, identifier, 1)
        body = head + b"echo"
        if not six:
            body = body[:2] + struct.pack(">H", _checksum(body)) + body[4:]
        try:
            each.connect((address, 0))
            each.send(body)
            until_s = time.monotonic() + timeout_s
            while time.monotonic() < until_s:
                answer = each.recv(200)
                answer = answer if six else answer[(answer[0] & 15) * 4 :]
                if answer[0] == (129 if six else 0) and answer[4:6] == struct.pack(">H", identifier):
                    return "pong"
        except OSError as error:
            return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "TimeoutError"


def _checksum(body: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(body) // 2}H", body))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def until(predicate: Callable[[], T], what: str, *, patience_s: float = PATIENCE_S) -> T:
    """Return the first true value of `predicate`, asked again and again."""
    end_s = time.monotonic() + patience_s
    while True:
        found = predicate()
        if found:
            return found
        assert time.monotonic() < end_s, f"waited in vain: {what}"
        threading.Event().wait(0.01)
