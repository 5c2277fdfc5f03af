"""The fleet that a script acts on, and what things are called there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from oakestra.control.failpoints import Point, heeded
from oakestra.model.errors import Invalid
from oakestra.model.ids import ServiceId
from oakestra.model.instance import Slot
from oakestra.simulation.checkers import Watch
from oakestra.simulation.hosts import Host, WorkerHost
from oakestra.simulation.process import reached
from oakestra.simulation.scripted.telling import Names, Narrator
from oakestra.simulation.world import Shape, World, machine

STEP_S = 0.5
JOINED_WITHIN_S = 30.0
NAMED_MAX = 16
CLUSTERS_MAX, WORKERS_MAX = 5, 200
"""Of each cluster; more would not answer while somebody waits."""
_OFFERS = {"memory": "memory_mib", "vcpus": "vcpus", "arch": "architecture"}


class Stage:
    """One fleet, made when it is first asked for."""

    def __init__(self, group: asyncio.TaskGroup, *, seed: int) -> None:
        self.names = Names()
        self.tell_everything = False
        self._group = group
        self._seed = seed
        self._hearing = ExitStack()
        self._deaths: list[str] = []
        self._world: World | None = None
        self._narrator: Narrator | None = None
        self._watch: Watch | None = None

    @property
    def world(self) -> World:
        """The fleet; a small one is made if nobody asked for another."""
        return self._world if self._world is not None else self._make(1, 2, {})

    async def make(self, clusters: int, workers: int, offers: Mapping[str, Any]) -> float:
        """Make a fleet; return after how long all its workers had joined."""
        if self._world is not None:
            raise Invalid(
                "there is a fleet already: `quit` and begin anew for another, or before the first command"
            )
        if not (1 <= clusters <= CLUSTERS_MAX and 1 <= workers <= WORKERS_MAX):
            raise Invalid(f"expected 1 to {CLUSTERS_MAX} clusters of 1 to {WORKERS_MAX} workers")
        if not offers.keys() <= _OFFERS.keys():
            raise Invalid(f"expected some of {', '.join(_OFFERS)}")
        world = self._make(clusters, workers, offers)
        began_s = world.now_s
        for worker in world.workers.values():
            while not (worker.tier and worker.tier.desired.subnets):
                if world.now_s - began_s > JOINED_WITHIN_S:
                    raise Invalid(f"{worker.name} did not join within {JOINED_WITHIN_S:.0f} s")
                await asyncio.sleep(STEP_S)
        return world.now_s - began_s

    def _make(self, clusters: int, workers: int, offers: Mapping[str, Any]) -> World:
        offered = machine(**{_OFFERS[key]: value for key, value in offers.items()})
        shape = Shape(clusters=((offered,) * workers,) * clusters)
        world = self._world = World(self._seed, shape, group=self._group, vcpu_overcommit=8.0)
        self._narrator = Narrator(world, self.names)
        self._watch = Watch(world)
        self._hearing.enter_context(world.heard())
        self._hearing.enter_context(heeded(reached))
        world.start()
        return world

    async def close(self) -> None:
        """Switch everything off."""
        hosts = self._world.hosts.values() if self._world is not None else ()
        await asyncio.gather(*(host.kill() for host in hosts))
        self._hearing.close()

    def news(self) -> Iterator[str]:
        """Yield what happened since the last time, and what must never happen."""
        if self._world is None or self._narrator is None or self._watch is None:
            return
        yield from self._narrator.news(everything=self.tell_everything)
        yield from self._deaths
        self._deaths.clear()
        yield from (f"! {wrong}" for wrong in self._watch.look())
        yield from (f"! {wrong}" for wrong in self._world.complaints)
        self._world.complaints.clear()

    def doom(self, host: Host, point: Point) -> None:
        """Let the process on a machine die at a point; that it did is news."""
        host.doom(
            point,
            lambda: self._deaths.append(f"{self.world.now_s:8.1f}  {host.name:6}dies at {point.value}"),
        )

    # --- names -------------------------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        """Return the machine of this name. Raises `Invalid` if there is none."""
        host = self.world.hosts.get(name)
        if host is None:
            names = list(self.world.hosts)
            few = ", ".join(names) if len(names) <= NAMED_MAX else f"{', '.join(names[:NAMED_MAX])} and so on"
            raise Invalid(f"there is no machine {name!r}, only {few}")
        return host

    def worker(self, name: str) -> WorkerHost:
        """Return the worker of this name. Raises `Invalid` if there is none."""
        host = self.host(name)
        if not isinstance(host, WorkerHost):
            raise Invalid(f"{name} is no worker")
        return host

    def service(self, name: str) -> ServiceId:
        """Return the service of this name. Raises `Invalid` if there is none."""
        if name not in self.names.ids:
            known = ", ".join(self.names.ids) or "none yet: `deploy NAME COPIES` makes one"
            raise Invalid(f"there is no service {name!r}, only {known}")
        return self.names.ids[name]

    def image(self, name: str) -> str:
        """Return the image of the service of this name. Raises `Invalid` if there is none, or root is away."""
        id, root = self.service(name), self.world.root.tier
        if root is None:
            raise Invalid(f"root is not up, and knows alone which image {name} has")
        return root.state.services[id].spec.image

    def slot(self, text: str) -> Slot:
        """Return the instance that is meant by SERVICE.NUMBER. Raises `Invalid` if that is none."""
        name, dot, number = text.rpartition(".")
        if not dot or not number.isdigit():
            raise Invalid(f"expected an instance as SERVICE.NUMBER, found {text!r}")
        return Slot(self.service(name), int(number))
