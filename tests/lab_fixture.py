"""A lab for a whole test run: the fixture `fleet` is two clusters of three workers, made when the first test asks.

What a test breaks, it heals, and what it deploys, it deletes: the next one finds the fleet as it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from oakestra.cli.client import Root
from oakestra.cli.client.session import log_in
from oakestra.cli.lab import status
from oakestra.lab import record
from oakestra.model.errors import OakestraError
from prerequisites import cannot_run

CLUSTERS, WORKERS = 2, 3
WAIT_S = 120.0
"""A safety net: processes start and things converge within a few seconds, and on a machine that is short of time, later."""
SETTINGS = {"OAKESTRA_CLUSTER_WORKER_LOST_AFTER_S": "8", "OAKESTRA_ROOT_CLUSTER_LOST_AFTER_S": "8"}
"""Two beats and a little: tests that lose a machine wait for as long."""
IMAGE = "docker.io/oakestra/example:1"
PROGRAMS = {
    "runc": "runc",
    "conmon": "conmon",
    "busybox": "busybox-static",
    "mosquitto": "mosquitto",
    "nft": "nftables",
    "ip": "iproute2",
}
T = TypeVar("T")
Document = dict[str, Any]


@dataclass(frozen=True)
class Oak:
    """Types commands as somebody would who has `home`, in the network namespace at `netns` if there is one."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    netns: str = ""

    def command(self, *words: str) -> tuple[str, ...]:
        """Return what is to be run."""
        inside = ("nsenter", f"--net={self.netns}", "--") if self.netns else ()
        return (*inside, sys.executable, "-m", "oakestra", *words)

    @property
    def variables(self) -> dict[str, str]:
        """Return the whole environment."""
        path = os.environ["PATH"]  # noqa: TID251 - how the tests run is not a tier's configuration
        return {"PATH": path, "HOME": str(self.home), **self.environment}

    def run(
        self, *words: str, check: bool = True, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for its end."""
        done = subprocess.run(
            self.command(*words),
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *words: str, check: bool = True) -> Any:
        """Type a command and read what it prints."""
        return json.loads(self.run(*words, "-o", "json", check=check).stdout)


class Fleet:
    """A lab that is up, and its root's API."""

    def __init__(self, name: str, oak: Oak) -> None:
        self.name = name
        url = oak.run("lab", "env", "--name", name).stdout.partition("=")[2].strip()
        self.oak = Oak(oak.home, {**oak.environment, "OAKESTRA_ROOT": url}, oak.netns)
        self.root_password = (
            Path(f"/var/lib/oakestra/lab-{name}/root/root/admin.password").read_text().strip()
        )
        self.root = Root(url, Admin(url, self.root_password))
        self.asked: dict[str, int] = {}
        """How many instances users want now, by application and service."""

    def home_file(self, name: str, content: str) -> str:
        """Write a file where the user is at home; return its path."""
        path = self.oak.home / name
        path.write_text(content)
        return str(path)

    def lab(self, action: str, *words: str, check: bool = True) -> str:
        """Do something to the lab; return what was said."""
        return self.oak.run("lab", action, "--name", self.name, *words, check=check).stdout

    # --- hosts --------------------------------------------------------------------------------------------------

    def hosts(self) -> dict[str, Document]:
        """Return how every host is, by name."""
        lab = record.read(self.name)
        assert lab is not None
        return {host.host: asdict(host) for host in status.look(lab)}

    def heal(self) -> None:
        """Undo every cut, and wait until all hosts are well and every worker counts as live."""
        self.lab("heal")
        until(lambda: not [host for host in self.hosts().values() if host["trouble"]])
        until(lambda: {worker["name"] for worker in self.live()} == set(self.names("worker")))

    def restore(self) -> None:
        """Make good whatever an earlier test did not come to, and wait until nothing of it is left."""
        self.heal()
        self.oak.run("login", self.root.url, "--password", self.root_password)
        for tier, path in (("cluster", "/api/v1/clusters/"), ("worker", "/api/v1/workers/")):
            there = self.ask(lambda path=path: self.root.get(path))  # type: ignore[misc]
            if drained := [each["name"] for each in there if each["availability"] != "active"]:
                self.oak.run(tier, "uncordon", *drained)
        until(lambda: sum(worker["instances"] for worker in self.live()) == sum(self.asked.values()))

    def names(self, tier: str) -> list[str]:
        """Return the names of the hosts with that tier."""
        return [name for name, host in self.hosts().items() if host["tier"] == tier]

    def live(self) -> list[Document]:
        """Return the workers that root hears of."""
        return [worker for worker in self.ask(lambda: self.root.get("/api/v1/workers/")) if worker["live"]]

    # --- applications -------------------------------------------------------------------------------------------

    @contextmanager
    def application(self, name: str, *services: Document, counts: Mapping[str, int]) -> Iterator[None]:
        """Create an application, have so many instances of its services ready, and delete it afterwards."""
        sla = {"sla_version": "v2.0", "customerID": "Admin", "applications": [_application(name, services)]}
        self.root.post("/api/application/", sla)
        (identity,) = {service["application_id"] for service in self.services(name)}
        try:
            for each, count in counts.items():
                self.scale(f"{name}.{each}", count)
            self.until_ready(name, sum(counts.values()))
            yield
        finally:
            self.ask(lambda: self.root.delete(f"/api/application/{identity}"))
            for asked in [each for each in self.asked if each.startswith(f"{name}.")]:
                del self.asked[asked]
            until(lambda: not self.services(name))

    def scale(self, service: str, count: int) -> None:
        """Ask for so many instances of `application.service`."""
        application, _, name = service.partition(".")
        (found,) = [each for each in self.services(application) if short(each) == name]
        self.ask(lambda: self.root.post(f"/api/v1/services/{found['id']}/scale", {"instances": count}))
        self.asked[service] = count

    def services(self, name: str = "") -> list[Document]:
        """Return the services of an application, or all."""
        found = self.ask(lambda: self.root.get("/api/v1/services/"))
        return [service for service in found if not name or service["name"].split(".")[0] == name]

    def instances(self, name: str) -> list[Document]:
        """Return all instances of an application, each with the short name of its `service`."""
        return [
            {**instance, "service": short(service)}
            for service in self.services(name)
            for instance in service["instances"]
        ]

    def until_ready(self, name: str, count: int, *, timeout_s: float = WAIT_S) -> list[Document]:
        """Wait until so many instances of an application are ready, and none else is there; return them."""

        def all_ready() -> tuple[list[Document]] | None:
            found = self.instances(name)
            return (found,) if len(found) == count and all(one["ready"] for one in found) else None

        try:
            (found,) = until(all_ready, timeout_s) or ([],)
        except AssertionError as error:
            raise AssertionError(f"{error}: {_told(self.instances(name))}") from None
        return found

    def lines(self, service: Document, number: int = 0) -> list[str]:
        """Return what an instance has written."""
        path = f"/api/v1/services/{service['id']}/logs"
        pieces = list(self.root.stream(path, endless=False, instance=str(number)))
        return b"".join(pieces).decode(errors="replace").splitlines()

    def until_greeted(self, name: str, client: str = "client", number: int = 0) -> str:
        """Wait until a client gets another answer than those it has had; return its line."""
        (service,) = [found for found in self.services(name) if short(found) == client]
        before = greetings(self.ask(lambda: self.lines(service, number)))

        def one_more() -> list[str]:
            return greetings(self.ask(lambda: self.lines(service, number)))[len(before) :]

        return until(one_more)[-1]

    def ask(self, question: Callable[[], T]) -> T:
        """Ask root until it answers: a test may just have taken it away."""
        said: list[str] = []

        def once() -> tuple[T] | None:
            try:
                return (question(),)
            except OakestraError as error:
                said[:] = [str(error)]
                return None

        try:
            answer = until(once)
        except AssertionError:
            raise AssertionError(f"root does not answer: {said}") from None
        assert answer is not None
        return answer[0]


@dataclass
class Admin:
    """Logs in again whenever a token is too old."""

    url: str
    password: str
    _token: str = ""

    def token(self) -> str:
        if not self._token:
            self.renew()
        return self._token

    def renew(self) -> None:
        self._token = log_in(self.url, "Admin", self.password).token


def microservice(name: str, command: str = "/bin/serve", **keys: Any) -> Document:
    """Return a service that runs the example's image."""
    return {
        "microserviceID": "",
        "microservice_name": name,
        "microservice_namespace": "t",
        "virtualization": "container",
        "code": IMAGE,
        "cmd": [command],
        "memory": 16,
        "vcpus": 1,
        **keys,
    }


def sleeper(name: str, **keys: Any) -> Document:
    """Return a service that needs next to nothing."""
    return microservice(name) | {"cmd": ["/bin/sleep", "100000"], "memory": 8, "vcpus": 0, **keys}


def server(address: str, **keys: Any) -> Document:
    """Return the example's server, to be reached at a service address."""
    return microservice("server", addresses={"rr_ip": address}, **keys)


def client(address: str, name: str = "client", *, period_s: float = 0.3, **keys: Any) -> Document:
    """Return the example's client, which asks at that address again and again."""
    environment = [f"SERVER=http://{address}/", f"PERIOD={period_s}"]
    return microservice(name, "/bin/client", environment=environment, **keys)


def direct(cluster: str = "", *workers: str) -> list[Document]:
    """Return the constraint that names a place."""
    return [{"type": "direct", "cluster": cluster, "node": ";".join(workers)}]


def short(service: Document) -> str:
    """Return the service's own name."""
    return str(service["name"].split(".")[2])


def greetings(lines: Sequence[str]) -> list[str]:
    """Return the lines that a server's answer made."""
    return [line for line in lines if " greets " in line]


def until(look: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Return what `look` returns once it is true."""
    end_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end_s, f"it did not come true in {timeout_s} s"
        time.sleep(0.05)
    return found


def _application(name: str, services: Sequence[Document]) -> Document:
    return {
        "applicationID": "",
        "application_name": name,
        "application_namespace": "t",
        "application_desc": "",
        "microservices": list(services),
    }


def _told(instances: Sequence[Document]) -> str:
    return "; ".join(
        f"{one['service']}.{one['number']} {one['phase']} at {one['worker'] or 'no worker'} "
        f"({one['reason'] or one['placement_reason']})"
        for one in instances
    )


@contextmanager
def a_lab(name: str, oak: Oak, *, clusters: int, workers: int) -> Iterator[Fleet]:
    """Have a lab up until the block ends."""
    try:
        oak.run("lab", "up", "--name", name, "--clusters", str(clusters), "--workers", str(workers))
        yield Fleet(name, oak)
    finally:
        oak.run("lab", "down", "--name", name, check=False)


@pytest.fixture(scope="session")
def need_lab(need_program: Callable[[str, str], str]) -> None:
    """Ends the test where there can be no lab."""
    if os.geteuid() != 0:
        cannot_run("needs root rights")
    for program, package in PROGRAMS.items():
        need_program(program, package)


@pytest.fixture(scope="session")
def shared_fleet(need_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two clusters of three workers, for all tests that ask."""
    oak = Oak(tmp_path_factory.mktemp("fleet"), SETTINGS)
    with a_lab(f"t{os.getpid() % 10**7}", oak, clusters=CLUSTERS, workers=WORKERS) as made:
        yield made


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Iterator[Fleet]:
    """The lab of the test run, whole before the test and after it, with somebody logged in."""
    shared_fleet.restore()
    yield shared_fleet
    shared_fleet.heal()
