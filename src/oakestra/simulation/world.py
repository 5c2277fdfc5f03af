"""A whole fleet in virtual time: the production tiers over a bad network on unreliable machines.

Everything that happens is a line of the story, and the story is the same for the same seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oakestra.cluster.state import Availability
from oakestra.cluster.tier import Tuning as ClusterTuning
from oakestra.control.entropy import Entropy
from oakestra.model.container import ContainerSeen
from oakestra.model.errors import Unavailable
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.model.machine import Capacity
from oakestra.model.service import Resources
from oakestra.root.tier import Tuning as RootTuning
from oakestra.simulation.faults import CALM, Faults
from oakestra.simulation.hosts import ROOT, ClusterHost, Host, RootHost, WorkerHost
from oakestra.simulation.losing import (
    Kept,
    all_of,
    availability,
    held_by_cluster,
    kept_by_cluster,
    kept_by_root,
)
from oakestra.simulation.user import ADMINISTRATOR, User
from oakestra.store.fake import Disk
from oakestra.transport.fake import FakeHub

RESYNC_S = 10.0
STORY_LINES_MAX = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a fleet is: for each cluster what each of its workers has."""

    clusters: tuple[tuple[Capacity, ...], ...]


def machine(*, memory_mib: int = 1024, vcpus: int = 2, architecture: str = "amd64") -> Capacity:
    """Return what a worker of a simulated fleet offers."""
    return Capacity(
        resources=Resources(memory_mib=memory_mib, vcpus=vcpus, storage_mib=10_000),
        architecture=architecture,
        virtualizations=("docker",),
    )


class _Ear(logging.Handler):
    """Hears of exceptions that nobody expected."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._complain(f"{record.name}: {self.format(record)}")


class World:
    """A fleet: its machines, the network between them, and somebody who uses it. Made inside a running loop."""

    def __init__(self, seed: int, shape: Shape, *, group: asyncio.TaskGroup, vcpu_overcommit: float) -> None:
        self.seed = seed
        self.entropy = Entropy(seed)
        self.hub = FakeHub(self.entropy.stream("network"))
        self._loop = asyncio.get_running_loop()
        self.faults = CALM
        self.group = group
        self.story: list[str] = []
        self.complaints: list[str] = []
        self.vcpu_overcommit = vcpu_overcommit
        self.closed: dict[str, str] = {}
        self.root = RootHost(self, RootTuning(resync_s=RESYNC_S))
        self.clusters: dict[str, ClusterHost] = {}
        self.workers: dict[str, WorkerHost] = {}
        for c, capacities in enumerate(shape.clusters, start=1):
            tuning = ClusterTuning(vcpu_overcommit=vcpu_overcommit, resync_s=RESYNC_S)
            cluster = self.clusters[f"c{c}"] = ClusterHost(self, f"c{c}", self.root, tuning)
            for w, capacity in enumerate(capacities, start=1):
                name = f"{cluster.name}w{w}"
                self.workers[name] = WorkerHost(self, name, cluster, capacity, resync_s=RESYNC_S)
        self.user = User(self.root, random=self.entropy.stream("user"), say=self.say)
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def hosts(self) -> dict[str, Host]:
        """Return every machine by name, those above first."""
        return {ROOT: self.root, **self.clusters, **self.workers}

    @property
    def now_s(self) -> float:
        return self._loop.time()

    def start(self) -> None:
        """Switch everything on."""
        for host in self.hosts.values():
            host.start()

    # --- the story -------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Put a line into the story."""
        line = f"{self.now_s:9.3f} {text}"
        self._digest.update(line.encode())
        if len(self.story) < STORY_LINES_MAX:
            self.story.append(line)

    def complain(self, text: str) -> None:
        """Report something that must never happen."""
        self.say(f"WRONG: {text}")
        self.complaints.append(f"at {self.now_s:.3f} s: {text}")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Let what the tiers log as their own bug count as wrong, and nothing else they log be seen."""
        logger, ear = logging.getLogger("oakestra"), _Ear(self.complain)
        logger.addHandler(ear)
        propagates, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.removeHandler(ear)
            logger.propagate = propagates

    @property
    def digest(self) -> str:
        """Return a digest of the story so far."""
        return self._digest.hexdigest()

    # --- how bad it is ---------------------------------------------------------------------------------------

    def suffer(self, faults: Faults) -> None:
        """Let the world be as bad as these faults say, from now on."""
        self.faults = faults
        weather = self.hub.weather
        weather.loss_ratio = faults.loss_ratio
        weather.repeat_ratio = faults.repeat_ratio
        weather.delay_max_s = faults.delay_max_s
        for disk in self.disks():
            disk.failure_ratio = faults.commit_failure_ratio
        for worker in self.workers.values():
            worker.suffer(faults)

    def disks(self) -> Iterator[Disk]:
        """Yield the disks of root and clusters."""
        yield self.root.disk
        for cluster in self.clusters.values():
            yield cluster.disk

    def reaches(self, a: str, b: str) -> bool:
        """Tell whether a connection between two machines works now, both ways."""
        weather = self.hub.weather
        pair = frozenset((a, b))
        return not (pair in weather.cut or (a, b) in weather.one_way or (b, a) in weather.one_way)

    def links(self) -> list[tuple[Host, Host]]:
        """Return the pairs of machines that speak to each other, the lower one first."""
        pairs: list[tuple[Host, Host]] = [(cluster, self.root) for cluster in self.clusters.values()]
        return [*pairs, *((worker, worker.cluster) for worker in self.workers.values())]

    def cut(self, below: Host, above: Host) -> None:
        """Let nothing pass between two machines."""
        self.say(f"cut {below.name} from {above.name}")
        self.hub.cut(below.address, above.address)

    def mend(self, below: Host, above: Host) -> None:
        """Let everything pass between two machines again."""
        self.say(f"mend {below.name} to {above.name}")
        self.hub.weather.one_way -= {(below.address, above.address), (above.address, below.address)}
        self.hub.heal(below.address, above.address)

    async def lose_root(self, *, older: bool = False) -> None:
        """Let root lose its records, or get an older copy of them. It is dead afterwards."""
        self.say("root gets an older copy of its state" if older else "root loses its state")
        await self.root.kill()
        if older:
            self.root.restore_store()
        else:
            self.root.lose_store()
        kept = [kept_by_cluster(cluster.disk) for cluster in self.clusters.values()]
        owed = self.user.owed()
        self.root.owed = {
            name: all_of((self.user.missing(self.root.owed.get(name, Kept())), owed)).both(
                held_by_cluster(cluster.disk)
            )
            for name, cluster in self.clusters.items()
        }
        self.user.doubt(all_of((kept_by_root(self.root.disk), *kept)))
        for name, cluster in self.clusters.items():
            self._note_availability(name, availability(self.root.disk, cluster.disk))

    def has_told(self, cluster: ClusterHost) -> bool:
        """Tell whether a cluster has told root, since that has its present records, what it holds."""
        view = self.root.tier.state.views.get(cluster.id) if self.root.tier is not None else None
        report = view.report if view is not None else None
        return report is not None and report.applied.epoch == self.root.disk.epoch

    # --- what operators do ---------------------------------------------------------------------------------------

    async def set_availability(self, host: Host, word: str) -> None:
        """Let a worker or cluster take instances, no new ones, or none at all. Raises what root answers."""
        if isinstance(host, ClusterHost):
            await self.root.ask(lambda root: root.set_cluster(ADMINISTRATOR, host.id, word))
        elif isinstance(host, WorkerHost):
            await self.call_cluster(host, "availability", {"worker": host.id, "availability": word})
        self._note_availability(host.name, word)
        self.say(f"{host.name} is {word}")

    def _note_availability(self, name: str, word: str) -> None:
        self.closed[name] = word
        if word == Availability.ACTIVE:
            del self.closed[name]

    async def call_cluster(self, worker: WorkerHost, method: str, arguments: Mapping[str, Any]) -> None:
        """Let root ask a worker's cluster something. Raises what is answered, or `Unavailable`."""
        tier = self.root.tier
        if tier is None:
            raise Unavailable("root does not answer")

        async def asked() -> None:
            async for _ in tier.call_worker(worker.cluster.id, WorkerId(""), method, arguments):
                pass

        await self.root.process.call(asked())

    # --- what is there ---------------------------------------------------------------------------------------

    def containers(self) -> Iterator[tuple[WorkerHost, ContainerSeen]]:
        """Yield every container on every machine that has power."""
        for worker in self.workers.values():
            if worker.powered:
                for _, seen in sorted(worker.kept.containers.containers.items()):
                    yield worker, seen

    def worker_of(self, id: WorkerId) -> WorkerHost | None:
        return next((worker for worker in self.workers.values() if worker.id == id), None)

    def cluster_of(self, id: ClusterId) -> ClusterHost | None:
        return next((cluster for cluster in self.clusters.values() if cluster.id == id), None)
