"""A process dies at every point of the code that is marked for it: nothing is lost, restarted or left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from machine import Machine, a_machine, until

from lab_fixture import Admin, microservice
from oakestra.cli.client import Root
from oakestra.control import processes, supervisor
from oakestra.control.failpoints import DIRECTORY, Point
from oakestra.lab.remains import mounts_below
from oakestra.model.errors import OakestraError
from oakestra.runtime.images.build import File, build_archive, build_example
from oakestra.runtime.machine import architecture
from oakestra.runtime.oci.linux.cgroups import hierarchies

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

T = TypeVar("T")
Document = dict[str, Any]
URL = "http://127.0.0.1:10000"
CLONE_NEWNET = 0x40000000
WORKER_PACKAGES = ("worker", "runtime", "network")
AT_WORK: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("root", "cluster", "supervisor")},
    **dict.fromkeys(WORKER_PACKAGES, ("worker",)),
    "transport": ("cluster",),
    "images": ("images",),
}
"""Which process dies at the points of a package; `images` is a child of the worker's."""
SHARED: Mapping[Point, tuple[str, ...]] = {
    Point.STORE_REPLACING: ("worker",),
    Point.STORE_COMMITTING: ("root", "cluster"),
}
CASES = [(point, process) for point in Point for process in SHARED.get(point, AT_WORK.get(point.package, ()))]


@dataclass
class Place:
    """A machine with root, cluster and worker, on which one instance stays and another comes and goes."""

    machine: Machine
    inside: ThreadPoolExecutor
    root: Root = field(init=False)
    armed: Path | None = None

    def __post_init__(self) -> None:
        password = (self.machine.installation.state / "root" / "admin.password").read_text().strip()
        self.root = Root(URL, Admin(URL, password))

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Root], T]) -> T:
        """Ask root until it answers."""
        answer = until(lambda: self._asked(question))
        assert answer is not None
        return answer[0]

    def _asked(self, question: Callable[[Root], T]) -> tuple[T] | None:
        self.go_on()
        try:
            return (self.inside.submit(question, self.root).result(),)
        except OakestraError:
            return None

    def service(self, name: str) -> Document:
        found = self.ask(lambda root: root.get("/api/v1/services/"))
        return next(one for one in found if one["name"].split(".")[2] == name)

    def want(self, name: str, count: int) -> list[int]:
        """Ask for so many instances of a service; return the numbers that were promised."""
        service = self.service(name)["id"]
        answer = self.ask(lambda root: root.post(f"/api/v1/services/{service}/scale", {"instances": count}))
        return list(answer["instances"])

    def have(self, name: str, count: int) -> None:
        """Have so many instances of a service: wait until those that were promised are ready, and no other is there."""
        promised = self.want(name, count)

        def is_so() -> bool:
            found = self.service(name)["instances"]
            return [one["number"] for one in found] == promised and all(one["ready"] for one in found)

        until(is_so)

    # --- dying ----------------------------------------------------------------------------------------------------

    def arm(self, point: Point, pid: int | None = None) -> None:
        """Let whoever reaches the point next, or only one process, die there."""
        armed = Path(self.machine.environment[DIRECTORY]) / point.value
        armed.with_name("beside").write_text("" if pid is None else str(pid))
        armed.with_name("beside").rename(armed)
        self.armed = armed

    def disarm(self) -> None:
        """Let nobody die any more."""
        if self.armed is not None:
            self.armed.unlink(missing_ok=True)
            self.armed = None

    def go_on(self) -> None:
        """Once somebody has died, have what was kept running started again at once, as after a single death."""
        if self.armed is None or self.armed.exists():
            return
        (spent,) = self.armed.parent.glob(f"{self.armed.name}.*")
        if processes.look(int(spent.suffix[1:])) is not None:  # it is about to die
            return
        spent.unlink()
        self.armed = None
        keeper = supervisor.supervisor_of(self.machine.installation.runtime)
        if keeper is not None:
            os.kill(keeper.pid, signal.SIGHUP)
        else:
            self.machine.oak("up", "--installation", self.machine.name)

    def until_reached(self) -> None:
        """Return when the point was reached."""

        def reached() -> bool:
            self.go_on()
            return self.armed is None

        until(reached)

    def kill(self, process: str) -> None:
        os.kill(self.machine.pid(process), signal.SIGKILL)

    def pid(self, process: str) -> int:
        return 0 if process == "images" else self.machine.pid(process)

    def page(self) -> bytes:
        """Return what the instance that stays serves at its service's address."""
        return self.inside.submit(_fetched, "http://10.30.30.31/").result()

    # --- what is there --------------------------------------------------------------------------------------------

    def until_all_run(self) -> None:
        """Return when nobody is dead any more."""
        names = ("supervisor", "root", "cluster", "broker", "worker")
        until(lambda: all(processes.look(self.machine.pid(name)) for name in names))

    def staying(self) -> tuple[dict[int, int], list[tuple[int, int]]]:
        """Return the process of what stays, and the restarts of its slots."""
        instances = self.service("stay")["instances"]
        return self.machine.container_pids(), [(one["number"], one["restart"]) for one in instances]

    def mounts(self) -> Sequence[str]:
        home = self.machine.installation
        return mounts_below(Path("/proc/self/mountinfo").read_text(), (home.state, home.runtime))

    def traces(self) -> dict[str, list[str]]:
        """Return all that this installation has on the machine, as lines to be compared."""
        home, enter = self.machine.installation, self.machine.enter
        state, runtime = home.state / "worker", home.runtime / "worker"
        kept = {running.pid for running in supervisor.read_running(home.runtime).values()}
        commands = {
            pid: processes.arguments(pid) for path in Path("/proc").glob("[0-9]*") if (pid := int(path.name))
        }
        return {
            "mounts": sorted(self.mounts()),
            "cgroups": sorted(_cgroups(home.name)),
            "links and addresses": enter("ip", "-br", "address").stdout.splitlines(),
            "routes": enter("ip", "route").stdout.splitlines(),
            "rules": sorted(re.split(r"[\s,]+", enter("nft", "list", "ruleset").stdout)),
            "processes": sorted(
                f"{' '.join(words)}{' is kept' if pid in kept else ''}"
                for pid, words in commands.items() if any(home.name in word for word in words)
            ),
            "containers": [
                *_names(state, "instances/*"), *_names(runtime, "runc/*"), *_names(runtime, "exits/*"),
                *_names(runtime, "netns/*"), *_names(home.logs, "instances/*"), *_names(state, ".*"),
            ],
            "images": [name for kind in ("names", "images", "layers", "work") for name in _names(state, f"images/{kind}/*")],
            "desired": [str(one["number"]) for one in json.loads((state / "desired.json").read_text())["instances"]],
            "records": [
                f"{tier} {table} {_rows(home.state / tier / f'{tier}.db', table)}"
                for tier in ("root", "cluster") for table in ("services", "slots", "withdrawals")
            ],
            "supervisor": [*_names(home.runtime, "*.new")],
        }  # fmt: skip


def _cgroups(installation: str) -> Iterator[str]:
    for point in hierarchies(Path("/proc/self/mountinfo").read_text()).mount_points:
        yield from (directory for directory, _, _ in os.walk(point / "oakestra" / installation))


def _names(directory: Path, pattern: str) -> Iterator[str]:
    yield from sorted(str(path.relative_to(directory)) for path in directory.glob(pattern))


def _rows(database: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


def _enter(name: str) -> None:
    """Have the calling thread see the machine's network."""
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert ctypes.CDLL(None).setns(fd, CLONE_NEWNET) == 0
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, need_mosquitto: None) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    points = home / "fail-points"
    points.mkdir()
    name = f"oakf-{os.getpid()}"
    with (
        a_machine(name, home, **{DIRECTORY: str(points)}) as machine,
        ThreadPoolExecutor(1, initializer=_enter, initargs=(name,)) as inside,
    ):
        machine.oak("up", "--installation", name)
        build_example(home / "example.tar")
        machine.oak("worker", "image", "load", str(home / "example.tar"))
        place = Place(machine, inside)
        stay = microservice("stay", addresses={"rr_ip": "10.30.30.31"}, port="8081:80")
        go = microservice("go", addresses={"rr_ip": "10.30.30.32"}, port="8082:80")
        application = {"application_name": "fp", "application_namespace": "t", "microservices": [stay, go]}
        sla = {"sla_version": "v2.0", "customerID": "Admin", "applications": [application]}
        place.ask(lambda root: root.post("/api/application/", sla))
        place.have("stay", 1)
        come_and_go(place)
        yield place


@pytest.fixture
def settled(place: Place) -> Place:
    """The place as it was at first, whatever an earlier test did not come to do."""
    place.disarm()
    place.have("go", 0)
    return place


@pytest.fixture(scope="module")
def traces(place: Place) -> dict[str, list[str]]:
    """What is there when only what stays is there, and nobody is about to take anything away."""
    found = [place.traces()]

    def rest() -> bool:
        found.append(place.traces())
        return found[-1] == found[-2] and all(
            f"{tier} withdrawals 0" in found[-1]["records"] for tier in ("root", "cluster")
        )

    until(rest)
    return found[-1]


# --- what leads to a point -----------------------------------------------------------------------------------------


def come_and_go(place: Place) -> None:
    """Let an instance come and go; what runs has nothing mounted on the machine, which would slow every other mount."""
    place.have("go", 1)
    assert not [target for target in place.mounts() if target.endswith("/rootfs")]
    place.have("go", 0)


def lose_agent(place: Place) -> None:
    place.kill("worker")


def lose_cluster(place: Place) -> None:
    place.kill("cluster")


def lose_broker(place: Place) -> None:
    place.kill("broker")


def fetch(place: Place) -> None:
    """Let an agent that has not seen any image start something."""
    place.kill("worker")
    come_and_go(place)


def forget(place: Place) -> None:
    """Let the agent lose its state: it takes over what runs, and the cluster writes down that it is another one."""
    (place.machine.installation.state / "worker" / "desired.json").unlink()
    place.kill("worker")


def go_back(place: Place) -> None:
    """Let root have an older copy of its records, from before something came and went."""
    records = place.machine.installation.state / "root" / "root.db"
    copy = records.with_name("copy.db")
    with contextlib.closing(sqlite3.connect(records)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    come_and_go(place)
    for name in ("root.db-wal", "root.db-shm"):
        records.with_name(name).unlink()
    copy.rename(records)
    place.kill("root")


def lose_table(place: Place) -> None:
    """Let somebody take all rules away."""
    place.machine.enter("nft", "flush", "ruleset")
    come_and_go(place)


def load_image(place: Place) -> None:
    """Load an image of which nothing is there; the command may be repeated, and the image is removed again."""
    archive = place.machine.home / "more.tar"
    reference = "docker.io/oakestra/more:1"
    layer = {"file": File(content=os.urandom(16))}
    build_archive(archive, reference, [layer], architecture=architecture())
    load = ("worker", "image", "load", str(archive))
    until(lambda: place.machine.oak(*load, check=False).returncode == 0)
    assert reference in place.machine.oak("worker", "image", "ls").stdout
    place.machine.oak("worker", "image", "rm", reference)


def renew(place: Place) -> None:
    """Have every program started anew."""
    wanted = supervisor.programs_file(place.machine.installation)
    programs = supervisor.read_programs(wanted)
    changed = tuple(replace(program, revision=f"{program.revision}+") for program in programs)
    supervisor.write_programs(wanted, changed)
    os.kill(place.machine.pid("supervisor"), signal.SIGHUP)


DEEDS: Mapping[tuple[Point, str], Callable[[Place], None]] = {
    (Point.ROOT_CLUSTER_KEPT, "root"): lose_cluster,
    (Point.ROOT_BEGUN_ANEW, "root"): go_back,
    (Point.CLUSTER_WORKER_KEPT, "cluster"): lose_agent,
    (Point.WORKER_JOINED, "worker"): lose_agent,
    (Point.WORKER_ADOPTED, "worker"): forget,
    (Point.WORKER_PULLED, "worker"): fetch,
    (Point.NETWORK_GATEWAY_MADE, "worker"): lose_agent,
    (Point.NETWORK_TABLE_LOADED, "worker"): lose_table,
    (Point.IMAGES_LAYER_UNPACKED, "images"): load_image,
    (Point.IMAGES_LAYER_KEPT, "images"): load_image,
    (Point.IMAGES_IMAGE_KEPT, "images"): load_image,
    (Point.STORE_COMMITTING, "cluster"): forget,
    (Point.TRANSPORT_BROKER_STARTED, "cluster"): lose_broker,
    (Point.SUPERVISOR_STARTED, "supervisor"): lose_agent,
    (Point.SUPERVISOR_REMEMBERING, "supervisor"): lose_agent,
    (Point.SUPERVISOR_STOPPED, "supervisor"): renew,
}
"""What leads to a point, where an instance that comes and goes does not."""


@pytest.mark.parametrize(("point", "process"), CASES, ids=lambda value: getattr(value, "value", value))
def test_a_process_may_die_here(
    settled: Place, traces: dict[str, list[str]], point: Point, process: str
) -> None:
    """Goal: no acknowledged write is lost, no container restarted, and nothing left. Method: a file arms the point."""
    staying, dead = settled.staying(), settled.pid(process)
    settled.arm(point, pid=dead if point in SHARED else None)
    DEEDS.get((point, process), come_and_go)(settled)
    settled.until_reached()
    if process != "images":
        until(lambda: settled.pid(process) != dead)  # or somebody else has died
    check(settled, traces, staying)


HALF_MADE = (Point.RUNTIME_ROOTFS_MOUNTED, Point.RUNTIME_CREATED, Point.NETWORK_NAMESPACE_BOUND)


@pytest.mark.parametrize("point", HALF_MADE, ids=lambda point: point.value)
def test_what_was_half_made_goes_when_it_is_not_wanted_any_more(
    settled: Place, traces: dict[str, list[str]], point: Point
) -> None:
    staying = settled.staying()
    settled.arm(point)
    settled.want("go", 1)
    settled.until_reached()
    settled.have("go", 0)
    check(settled, traces, staying)


def check(place: Place, traces: dict[str, list[str]], staying: object) -> None:
    """See that what stays never noticed, and that nothing else is left."""
    place.until_all_run()
    there: dict[str, list[str]] = {}

    def are_as_before() -> bool:
        with contextlib.suppress(OSError, sqlite3.Error):  # what is just being replaced cannot be read
            there.update(place.traces())
        return there == traces

    with contextlib.suppress(AssertionError):
        until(are_as_before)
    assert there == traces
    assert place.staying() == staying
    assert place.page()


def test_every_point_belongs_to_a_process() -> None:
    assert {point for point, _ in CASES} == set(Point)
