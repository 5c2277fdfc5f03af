"""The machines of a simulated fleet, each with a production tier on it and fakes for everything below.

What a machine keeps when its processes die (disk, containers, kernel) is here; the tier is made anew at every start.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from random import Random
from typing import Any, ClassVar, Protocol, TypeVar

from oakestra.cluster.tier import Cluster
from oakestra.cluster.tier import Tuning as ClusterTuning
from oakestra.control.clock import LoopClock
from oakestra.control.entropy import Entropy
from oakestra.control.failpoints import Point
from oakestra.model.container import ContainerState
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.model.machine import Capacity, MachineUsage
from oakestra.network.fake import FakeKernel, FakeNetwork
from oakestra.root.addresses import POOL_SIZE
from oakestra.root.operations import Operations
from oakestra.root.tier import Root
from oakestra.root.tier import Tuning as RootTuning
from oakestra.runtime import ContainerSpec
from oakestra.runtime.fake import FakeHost, FakeRuntime
from oakestra.simulation.faults import Faults
from oakestra.simulation.losing import Kept
from oakestra.simulation.process import Process
from oakestra.store.fake import Disk, FakeCell, FakeStore
from oakestra.store.sqlite import SCHEMAS
from oakestra.transport import Link
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import (
    ClusterJoined,
    JoinCluster,
    JoinWorker,
    WorkerJoined,
    decode,
    encode,
)
from oakestra.worker.desired import namespace_address
from oakestra.worker.execute import KEY_LABEL
from oakestra.worker.tier import Worker

T = TypeVar("T")

ROOT = "root"
JOIN_EVERY_S = 2.0
CALL_MAX_S = 0.2
"""How long a request to another machine takes at most, there and back, when it is answered."""
STOP_GRACE_S = 5.0
BEAT_S = 2.0


class Fleet(Protocol):
    """What a machine needs of the world around it."""

    hub: FakeHub
    entropy: Entropy
    faults: Faults
    group: asyncio.TaskGroup

    closed: dict[str, str]
    """Workers and clusters that root said would take nothing new, and in which way."""

    @property
    def workers(self) -> Mapping[str, WorkerHost]:
        """Every worker's machine, by name."""

    def say(self, text: str) -> None:
        """Put a line into the story."""

    def complain(self, text: str) -> None:
        """Report something that must never happen."""

    def reaches(self, a: str, b: str) -> bool:
        """Tell whether a connection between two machines works now, both ways."""


class Host:
    """A machine with one tier on it."""

    TIER: ClassVar[str]
    """Which one; also the package that is at work there."""

    def __init__(self, fleet: Fleet, name: str, *, address: str) -> None:
        self.fleet = fleet
        self.name = name
        self.address = address
        """What its links are called."""
        self.clock = LoopClock()
        self.starts = 0
        self.process = Process(name, self._main, group=fleet.group, complain=fleet.complain)

    @property
    def alive(self) -> bool:
        return self.process.alive

    def start(self) -> None:
        """Start the tier, if it does not run."""
        self.process.start()

    async def kill(self) -> None:
        """Kill the tier's process: nothing reaches it any more, and nothing it was about to do is done."""
        self.fleet.hub.remove(self.address)
        await self.process.kill()

    def doom(self, point: Point, died: Callable[[], None]) -> None:
        """Let the tier be killed the next time it comes to this point of its code; `died` is called then."""

        def dead() -> None:
            self.fleet.hub.remove(self.address)
            died()

        self.process.doom(point, dead)

    @property
    def points(self) -> Sequence[Point]:
        """The points of its code that its tier comes to sooner or later."""
        return [point for point in Point if point.package == self.TIER]

    async def _main(self) -> None:
        self.starts += 1
        await self._run()

    async def _run(self) -> None:
        raise NotImplementedError

    def chance(self, purpose: str) -> Random:
        """Return a source of randomness of this machine, another at each start."""
        return self.fleet.entropy.stream(f"{self.name} {purpose} {self.starts}")


class Keeper(Host):
    """A machine whose tier keeps records."""

    def __init__(self, fleet: Fleet, name: str, *, address: str) -> None:
        super().__init__(fleet, name, address=address)
        self.disk = Disk({table: {} for table in schema_tables(self.TIER)}, epoch=1)
        self.copy: Disk | None = None
        """Its records as they were when somebody last made a copy."""
        self.stores = 1
        """How many it has had."""
        self._epoch = 1
        """The latest that any of them had."""

    def lose_store(self) -> None:
        """Let its records be gone, as after a new disk. Only while its process is dead."""
        assert not self.alive, "a process keeps its file open"
        self._epoch = max(self._epoch, self.disk.epoch) + 1
        self.stores += 1
        self.disk = Disk({table: {} for table in schema_tables(self.TIER)}, epoch=self._epoch)

    def copy_store(self) -> None:
        """Make a copy of its records, as they are on its disk now."""
        self.copy = deepcopy(self.disk)
        self.copy.full = False

    def restore_store(self) -> None:
        """Let it have the records of the last copy. Only while its process is dead."""
        assert not self.alive, "a process keeps its file open"
        assert self.copy is not None, "somebody made a copy before"
        self._epoch = max(self._epoch, self.disk.epoch)
        self.stores += 1
        self.disk = deepcopy(self.copy)


class RootHost(Keeper):
    """Root's machine."""

    TIER = "root"

    def __init__(self, fleet: Fleet, tuning: RootTuning) -> None:
        super().__init__(fleet, ROOT, address=ROOT)
        self.tier: Root | None = None
        self.operations: Operations | None = None
        self.owed: dict[str, Kept] = {}
        """What users want back of it, as it lost its records, and each cluster has still written down."""
        self._tuning = tuning

    async def ask(self, request: Callable[[Operations], Awaitable[T]]) -> T:
        """Let root do what a user asks. Raises what it answers, or `Unavailable`."""

        async def asked() -> T:
            if self.operations is None:
                raise Unavailable("root is not up")
            return await request(self.operations)

        return await self.process.call(asked())

    async def _run(self) -> None:
        store = FakeStore(
            (), disk=self.disk, flush_s=self.fleet.faults.flush_max_s, random=self.chance("disk")
        )
        link = self.fleet.hub.link(ROOT, parent=None)
        tier = Root(
            store,
            link,
            clock=self.clock,
            ids=self.chance("ids"),
            first_address=0 if self.starts == 1 else self.chance("addresses").randrange(POOL_SIZE),
            tuning=self._tuning,
        )
        self.operations = Operations(
            tier.state, tier.events, clock=self.clock, random=self.chance("services"), wake=tier.wake
        )
        self.tier = tier
        try:
            await tier.run()
        finally:
            self.tier = self.operations = None


class ClusterHost(Keeper):
    """A cluster's machine."""

    TIER = "cluster"

    def __init__(self, fleet: Fleet, name: str, root: RootHost, tuning: ClusterTuning) -> None:
        self.id = ClusterId(_id_of(name))
        super().__init__(fleet, name, address=self.id)
        self.new_store = True
        self.forgot = False
        """It lost its records once: until all its workers are back, it may give subnets away that somebody has."""
        self.tier: Cluster | None = None
        self._root = root
        self._tuning = tuning

    def lose_store(self) -> None:
        super().lose_store()
        self.new_store = True
        self._forget()

    def restore_store(self) -> None:
        super().restore_store()
        self._forget()

    def _forget(self) -> None:
        self.forgot = True
        for worker in self.fleet.workers.values():
            if worker.cluster is self:
                self.fleet.closed.pop(worker.name, None)

    async def _run(self) -> None:
        store = FakeStore(
            (), disk=self.disk, flush_s=self.fleet.faults.flush_max_s, random=self.chance("disk")
        )
        beats = SimulatedBeats(self.fleet, self.address)
        tier = Cluster(
            store,
            self.fleet.hub.link(self.address, parent=ROOT),
            self.fleet.hub.link(self.address, parent=None),
            name=self.name,
            mqtt_port=10003,
            new_store=self.new_store,
            clock=self.clock,
            ids=self.chance("ids"),
            tuning=self._tuning,
            beats=beats,
        )
        self.new_store = False
        self.tier = tier
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tier.run())
                group.create_task(self._belong_to_root(tier))
        finally:
            self.tier = None

    async def _belong_to_root(self, tier: Cluster) -> None:
        """Do what the production link does: join whenever root does not know this cluster's key."""
        random = self.chance("join")
        while True:
            root = self._root.tier
            reached = root is not None and self.fleet.reaches(self.address, ROOT)
            if reached and root is not None and (root.identify(self.name) is None or not tier.id):
                await self._join(tier, random)
            await asyncio.sleep(JOIN_EVERY_S)

    async def _join(self, tier: Cluster, random: Random) -> None:
        await asyncio.sleep(random.uniform(0, CALL_MAX_S))
        root = self._root
        if root.tier is None or not self.fleet.reaches(self.address, ROOT):
            return
        request = JoinCluster(
            key=self.name, name=self.name, id=tier.id or self.id, subnet_lease=tier.subnet_lease
        )
        try:
            answer = await root.process.call(root.tier.join(encode(request), self.name))
        except Unavailable:
            return
        if self.fleet.reaches(self.address, ROOT):
            tier.joined(decode(answer, ClusterJoined))


class SimulatedBeats:
    """Implements `Beats` with datagrams of the simulated network."""

    def __init__(self, fleet: Fleet, address: str) -> None:
        self._fleet = fleet
        self._address = address

    def probe(self, worker: WorkerId) -> None:
        asked = next((host for host in self._fleet.workers.values() if host.id == worker), None)
        if asked is not None and self._fleet.faults.datagrams:
            self._fleet.hub.datagram(self._address, worker, asked.probed)

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass(slots=True)
class FakeMachine:
    """Implements `Machine`: has what it is said to have."""

    offered: Capacity
    full: bool = False

    def capacity(self) -> Capacity:
        return self.offered

    def usage(self) -> MachineUsage:
        return MachineUsage(cpu_ratio=0.1, memory_ratio=0.1, memory_available_mib=100, disk_ratio=0.1)

    def trouble(self) -> str:
        return "its disk is full" if self.full else ""


EXITS = "SIM_EXIT="
EXITS_AFTER_S = 0.3
TRIED_AGAIN_S = 0.3
"""A step that failed is not repeated sooner, however often the agent is woken."""


class WatchedRuntime(FakeRuntime):
    """A runtime that tells whenever the agent ends a process that runs, or repeats at once what failed."""

    stopping: Callable[[int], None] | None = None
    hasty: Callable[[str], None] | None = None

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self._failed_s: dict[tuple[int, str, str], float] = {}

    async def create(self, spec: ContainerSpec) -> None:
        await self._patiently(spec.number, "create", super().create(spec), whose=spec.labels[KEY_LABEL])

    async def start(self, number: int) -> None:
        """Start a process; with SIM_EXIT=CODE in its environment it ends a moment later."""
        seen = self.host.containers.get(number)
        whose = seen.labels[KEY_LABEL] if seen is not None else ""
        await self._patiently(number, "start", super().start(number), whose=whose)
        spec = self.host.specs.get(number)
        codes = [text for text in spec.environment if text.startswith(EXITS)] if spec is not None else []
        for text in codes:
            asyncio.get_running_loop().call_later(EXITS_AFTER_S, self.exit, number, int(text[len(EXITS) :]))

    async def delete(self, number: int) -> None:
        await self._patiently(number, "delete", super().delete(number))

    async def _patiently(
        self, number: int, what: str, call: Coroutine[Any, Any, None], *, whose: str = ""
    ) -> None:
        """Do a step of an instance; a number may be given to another one at once, which has not failed yet."""
        step = (number, whose, what)
        now_s = asyncio.get_running_loop().time()
        if self.hasty is not None and now_s - self._failed_s.get(step, -1.0) < TRIED_AGAIN_S:
            self.hasty(f"{what} of {number}")
        try:
            await call
        except OakestraError:
            self._failed_s[step] = asyncio.get_running_loop().time()
            raise

    async def stop(self, number: int, *, grace_s: float) -> None:
        seen = self.host.containers.get(number)
        if self.stopping is not None and seen is not None and seen.state is ContainerState.RUNNING:
            self.stopping(number)
        await super().stop(number, grace_s=grace_s)


@dataclass(slots=True)
class Belongings:
    """What a worker's machine keeps when its agent dies."""

    containers: FakeHost = field(default_factory=FakeHost)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    cell: FakeCell = field(default_factory=FakeCell)


class WorkerHost(Host):
    """A worker's machine."""

    TIER = "worker"

    def __init__(
        self, fleet: Fleet, name: str, cluster: ClusterHost, capacity: Capacity, *, resync_s: float
    ) -> None:
        self.id = WorkerId(_id_of(name))
        super().__init__(fleet, name, address=self.id)
        self.cluster = cluster
        self.machine = FakeMachine(capacity)
        self.kept = Belongings()
        self.forgot = False
        """It lost its state once: logs of what had gone already are known to nobody."""
        self.powered = True
        self.tier: Worker | None = None
        self.runtime: WatchedRuntime | None = None
        self.network: FakeNetwork | None = None
        self._resync_s = resync_s

    @property
    def reachable(self) -> bool:
        """Whether agent and cluster are both alive: what root wants can be had here."""
        return self.alive and self.cluster.alive

    def fill_disk(self, *, full: bool) -> None:
        """Leave no room on the disk, or have some again."""
        self.kept.cell.full = self.kept.containers.full = self.machine.full = full

    async def power_off(self) -> None:
        """Let the machine lose power: processes and the kernel's state are gone, the disk stays."""
        await self.kill()
        self.powered = False
        self.kept.containers.power_cut(now_s=self.clock.wall_s())
        self.kept.kernel = FakeKernel(ports_taken=self.kept.kernel.ports_taken)

    def start(self) -> None:
        self.powered = True
        super().start()

    def lose_state(self) -> None:
        """Let the agent's file be gone. Only while its process is dead."""
        assert not self.alive, "a process has read its file"
        self.kept.cell = FakeCell(flush_s=self.kept.cell.flush_s)
        self.forgot = True

    async def _run(self) -> None:
        faults = self.fleet.faults
        self.kept.cell.flush_s = self.chance("cell").uniform(0, faults.flush_max_s)
        self.runtime = WatchedRuntime(self.kept.containers, clock=self.clock, random=self.chance("runtime"))
        self.network = FakeNetwork(self.kept.kernel, random=self.chance("network"))
        self.suffer(faults)
        tier = Worker(
            self.kept.cell,
            self.runtime,
            self.network,
            self.machine,
            join=self._join,
            connect=self._connect,
            beat=self._beat_forever,
            request=JoinWorker(
                key=self.name, name=self.name, capacity=self.machine.capacity(), id=self.id, host=self.name
            ),
            underlay_v4="192.0.2.1",
            clock=self.clock,
            resync_s=self._resync_s,
            stop_grace_s=STOP_GRACE_S,
        )
        self.tier = tier
        self.runtime.stopping = self._stopping
        self.runtime.hasty = lambda what: self.fleet.complain(f"{self.name} repeats at once: {what}")
        try:
            await tier.run()
        finally:
            self.tier = self.runtime = self.network = None

    def end(self, number: int, exit_code: int) -> None:
        """Let an instance's process end by itself; an agent that is there is told."""
        if self.runtime is not None:
            self.runtime.exit(number, exit_code)
        else:
            self.kept.containers.end(number, exit_code, now_s=self.clock.wall_s())

    def suffer(self, faults: Faults) -> None:
        """Let runtime and kernel be as bad as these faults say."""
        if self.runtime is not None and self.network is not None:
            self.runtime.failure_ratio = faults.step_failure_ratio
            self.runtime.latency_s = faults.step_max_s
            self.runtime.pull_s = faults.pull_max_s
            self.network.failure_ratio = faults.network_failure_ratio
            self.network.latency_s = faults.step_max_s

    async def _join(self, request: JoinWorker) -> WorkerJoined:
        random = self.chance(f"join {asyncio.get_running_loop().time()}")
        await asyncio.sleep(random.uniform(0, CALL_MAX_S))
        cluster = self.cluster
        if cluster.tier is None or not self.fleet.reaches(self.address, cluster.address):
            raise Unavailable(f"{cluster.name} does not answer")
        request = decode(encode(request), JoinWorker)
        answer = await cluster.process.call(cluster.tier.join(request, peer=self.name))
        if not self.fleet.reaches(self.address, cluster.address):
            raise Unavailable(f"the answer of {cluster.name} did not arrive")
        return decode(encode(answer), WorkerJoined)

    def _connect(self, joined: WorkerJoined) -> Link:
        if joined.id != self.address:
            self.fleet.complain(f"{self.name} was given another id: {joined.id}")
        return self.fleet.hub.link(joined.id, parent=self.cluster.address)

    async def _beat_forever(self, joined: WorkerJoined) -> None:
        while self.fleet.faults.datagrams:
            self._sign_of_life(joined.id)
            await asyncio.sleep(BEAT_S)

    def _sign_of_life(self, id: WorkerId) -> None:
        """Be heard by the cluster, if it is up when this arrives."""

        def arrive() -> None:
            if self.cluster.tier is not None:
                self.cluster.tier.heard(id)

        self.fleet.hub.datagram(self.address, self.cluster.address, arrive)

    def probed(self) -> None:
        """Answer a question of the cluster, if the agent runs."""
        if self.tier is not None:
            self._sign_of_life(self.id)

    def _stopping(self, number: int) -> None:
        """A process that runs may be ended only if its instance is withdrawn, or is to be made anew."""
        assert self.tier is not None, "its agent stops it"
        instance = self.tier.desired.by_number.get(number)
        seen = self.kept.containers.containers[number]
        self.fleet.say(f"{self.name} stops {number}")
        if instance is None or instance.withdrawn or instance.outcome is not None:
            return
        if number not in self.kept.kernel.attached or instance.spec.disconnect.stop_after_s is not None:
            return
        same_run = seen.labels.get("oakestra.restart") == str(instance.restart)
        address = namespace_address(self.tier.desired, number)
        same_network = address == self.kept.kernel.attached[number].namespace
        if same_run and same_network:
            self.fleet.complain(f"{self.name} stopped {instance.key}, which is wanted and was well")


def schema_tables(schema: str) -> tuple[str, ...]:
    """Return the names of a schema's tables."""
    folder = resources.files("oakestra.store") / "schema"
    scripts = [(folder / name).read_text() for name in SCHEMAS[schema]]
    return tuple(name for script in scripts for name in re.findall(r"CREATE TABLE (\w+)", script))


def _id_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]
