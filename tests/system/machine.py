"""A machine of the test's own: a network namespace with loopback, and an installation that nobody else uses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from oakestra.control import supervisor
from oakestra.control.installation import Installation
from oakestra.runtime.images.build import build_example
from oakestra.transport.broker import recorded_broker

EXAMPLE = Path(__file__).parents[2] / "examples" / "web.json"
WAIT_S = 90.0
"""A safety net; most of what is waited for takes a second or two."""
T = TypeVar("T")


@dataclass
class Machine:
    """Runs `oak` as a user of this machine would."""

    name: str
    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    installation: Installation = field(init=False)

    def __post_init__(self) -> None:
        self.installation = Installation(self.name)

    def enter(
        self, *command: str, check: bool = True, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the machine's network."""
        own = {"HOME": str(self.home), "OAKESTRA_INSTALLATION": self.name, **self.environment}
        environment = {"PATH": os.environ["PATH"], **own}  # noqa: TID251
        done = subprocess.run(
            ("nsenter", f"--net=/run/netns/{self.name}", "--", *command),
            capture_output=True, text=True, timeout=timeout_s, check=False, env=environment,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def oak(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Type a command."""
        return self.enter(sys.executable, "-m", "oakestra", *words, check=check)

    def json(self, *words: str) -> Any:
        """Type a command and read what it prints."""
        return json.loads(self.oak(*words, "-o", "json").stdout)

    def instances(self, service: str) -> list[dict[str, Any]]:
        return list(self.json("service", "inspect", service)["instances"])

    def ready(self, service: str, count: int) -> list[dict[str, Any]]:
        """Wait until so many instances are ready, and none else is there; return them."""

        def all_ready() -> list[dict[str, Any]]:
            found = self.instances(service)
            return found if len(found) == count and all(one["ready"] for one in found) else []

        return until(all_ready)

    def pid(self, tier: str) -> int:
        """Return the process of a tier, or that of the broker or the supervisor."""
        if tier == "broker":
            broker = recorded_broker(self.installation.runtime / "cluster" / "broker")
            assert broker is not None
            return broker.pid
        if tier == "supervisor":
            keeper = supervisor.supervisor_of(self.installation.runtime)
            assert keeper is not None
            return keeper.pid
        running = until(lambda: supervisor.read_running(self.installation.runtime).get(tier))
        assert running is not None
        return running.pid

    def container_pids(self) -> dict[int, int]:
        """Return the first process of every container, by local number."""
        found = {}
        for state in (self.installation.runtime / "worker" / "runc").glob("*/state.json"):
            with contextlib.suppress(FileNotFoundError):  # it goes while one looks
                number = int(state.parent.name.rpartition("-")[2])
                found[number] = int(json.loads(state.read_text())["init_process_pid"])
        return found

    def deploy_example(self, servers: int) -> None:
        """Load the example's image, create the application and wait until all of it is ready."""
        archive = self.home / "example.tar"
        build_example(archive)
        self.oak("worker", "image", "load", str(archive))
        self.oak("app", "create", str(EXAMPLE))
        self.oak("service", "scale", "example.server", str(servers), "--wait")
        self.oak("service", "scale", "example.client", "1", "--wait")

    def pages(self, url: str = "http://10.30.30.30/", count: int = 1) -> list[str]:
        """Fetch a page so often from inside the machine, each over a connection of its own; failures are left out."""
        return self.enter(sys.executable, "-c", _FETCH, url, str(count)).stdout.splitlines()

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """Have another program listen on a port of this machine."""
        code = f"import socket; s = socket.create_server(('', {port})); print('up', flush=True); s.accept()"
        command = ("nsenter", f"--net=/run/netns/{self.name}", "--", sys.executable, "-c", code)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            program.stdout.readline()
            yield
            program.kill()


_FETCH = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode().strip())
    except OSError:
        pass
"""


def until(look: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Return what `look` returns once it is true."""
    end_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end_s, f"it did not come true in {timeout_s} s"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Traces:
    """What a machine shows of us."""

    processes: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    tables: str

    @classmethod
    def of(cls, machine: Machine) -> Traces:
        name = machine.name
        commands = {
            entry.parent.name: entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for entry in _readable("/proc/[0-9]*/cmdline")
        }
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        directories = [
            str(path)
            for parent in ("/var/lib", "/run", "/var/log")
            for path in Path(parent).glob(f"oakestra/{name}")
        ]
        return cls(
            processes=frozenset(
                pid for pid, line in commands.items() if name in line and pid != str(os.getpid())
            ),
            mounts=frozenset(line for line in mounts if f"/{name}/" in line and "/run/netns/" not in line),
            namespaces=frozenset(directories),
            cgroups=frozenset(map(str, cgroups_of(name))),
            links=frozenset(machine.enter("ip", "-br", "link").stdout.split("\n")),
            tables=machine.enter("nft", "list", "tables").stdout,
        )


def cgroups_of(name: str) -> list[Path]:
    """Return every cgroup of that name, and those below it; others come and go meanwhile."""
    found = (Path(directory) for directory, _, _ in os.walk("/sys/fs/cgroup"))
    return sorted(path for path in found if name in path.parts)


def _readable(pattern: str) -> Iterator[Path]:
    for path in Path("/").glob(pattern.lstrip("/")):
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


@contextmanager
def a_machine(name: str, home: Path, **environment: str) -> Iterator[Machine]:
    """Make a machine, and leave nothing of it."""
    subprocess.run(("ip", "netns", "add", name), check=True)
    machine = Machine(name, home, environment)
    try:
        machine.enter("ip", "link", "set", "lo", "up")
        yield machine
    finally:
        machine.oak("down", "--purge", "--installation", name, check=False)
        subprocess.run(("ip", "netns", "del", name), check=True)
        for directory in (
            machine.installation.state,
            machine.installation.runtime,
            machine.installation.logs,
        ):
            shutil.rmtree(directory, ignore_errors=True)
