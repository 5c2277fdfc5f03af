"""Let things go wrong in a fleet for a while, then heal only a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from oakestra.cluster.state import Availability
from oakestra.model.container import ContainerState
from oakestra.model.errors import OakestraError
from oakestra.simulation.faults import CALM, NO_DEVICE, Event, Faults
from oakestra.simulation.hosts import ClusterHost, Host, WorkerHost
from oakestra.simulation.user import IMAGES
from oakestra.simulation.world import World
from oakestra.store.fake import Disk

T = TypeVar("T")

CLOCK_JUMP_MAX_S = 7200.0
SITE_CUT_S = (20.0, 100.0)
"""Root gives a silent cluster up after 15 s, and replaces what it has 20 or 60 s after its last sign of life."""


class Chaos:
    """Makes the events of some faults happen to a world."""

    def __init__(self, world: World, faults: Faults, *, random: Random) -> None:
        self._world = world
        self._faults = faults
        self._random = random
        self._touched: set[str] = set()
        self._undoing: dict[asyncio.Task[None], Callable[[], Awaitable[None]]] = {}

    async def rage(self, lasting_s: float) -> None:
        """Let things go wrong for so long."""
        world, random = self._world, self._random
        world.suffer(self._faults)
        until_s = world.now_s + lasting_s
        while True:
            await asyncio.sleep(random.expovariate(1 / self._faults.every_s))
            if world.now_s >= until_s:
                return
            await self.cause(random.choice(self._faults.events))

    async def heal(self, doomed: set[str]) -> None:
        """Undo everything, but let the doomed machines stay dead for good."""
        world = self._world
        world.suffer(CALM)
        for host in world.hosts.values():
            host.process.spare()
        for task, undo in tuple(self._undoing.items()):
            task.cancel()
            await undo()
        self._undoing.clear()
        for name, host in world.hosts.items():
            if name in doomed:
                world.say(f"{name} stays dead")
                await (host.power_off() if isinstance(host, WorkerHost) else host.kill())
            else:
                host.start()

    async def cause(self, event: Event) -> None:  # noqa: C901 - a table of events
        """Let one thing happen now, and be undone later."""
        match event:
            case Event.CRASH:
                await self._crash(self._any(list(self._world.hosts.values())))
            case Event.CRASH_AT:
                self._doom(self._any(list(self._world.hosts.values())))
            case Event.REBOOT:
                await self._reboot(self._a_worker())
            case Event.CUT:
                self._cut(*self._any(self._world.links()))
            case Event.SITE_CUT:
                self._cut_site(self._any(list(self._world.clusters.values())))
            case Event.ONE_WAY:
                self._cut_one_way(*self._any(self._world.links()))
            case Event.DISK_FULL:
                self._fill(self._any(list(self._world.hosts.values())))
            case Event.STATE_LOST:
                keepers: list[ClusterHost | WorkerHost] = [*self._world.clusters.values()]
                await self._lose(self._any([*keepers, *self._world.workers.values()]))
            case Event.ROOT_COPIED:
                self._world.say("somebody copies root's records")
                self._world.root.copy_store()
            case Event.ROOT_LOST:
                await self._lose_root()
            case Event.CLOCK_JUMP:
                self._jump(self._any(list(self._world.hosts.values())))
            case Event.CLOSED:
                await self._close(self._any([*self._world.clusters.values(), *self._world.workers.values()]))
            case Event.UNABLE:
                self._disable(self._a_worker(), self._any(IMAGES))
            case Event.PROCESS_ENDS | Event.NETWORK_TAKEN | Event.IMAGE_REMOVED:
                self._disturb(event, self._a_worker())

    # --- processes and machines ----------------------------------------------------------------------------------

    async def _crash(self, host: Host) -> None:
        if host.alive:
            self._world.say(f"crash {host.name}")
            await host.kill()
            self._undo_later(lambda: self._started(host))

    def _doom(self, host: Host) -> None:
        point = self._any(host.points)
        self._world.say(f"{host.name} is to die at {point.value}")

        def died() -> None:
            self._world.say(f"{host.name} dies at {point.value}")
            self._undo_later(lambda: self._started(host))

        host.doom(point, died)

    async def _reboot(self, worker: WorkerHost) -> None:
        if worker.powered:
            self._world.say(f"power off {worker.name}")
            await worker.power_off()
            self._undo_later(lambda: self._started(worker))

    async def _lose(self, host: ClusterHost | WorkerHost) -> None:
        self._world.say(f"{host.name} loses its state")
        await host.kill()
        if isinstance(host, ClusterHost):
            host.lose_store()
        else:
            host.lose_state()
        self._undo_later(lambda: self._started(host))

    async def _lose_root(self) -> None:
        world = self._world
        copied = world.root.copy is not None
        await world.lose_root(older=copied and self._random.random() < 0.5)  # noqa: PLR2004 - a coin
        self._undo_later(lambda: self._started(world.root))

    async def _started(self, host: Host) -> None:
        self._world.say(f"start {host.name}")
        host.start()

    # --- links ---------------------------------------------------------------------------------------------------

    def _cut(self, below: Host, above: Host) -> None:
        self._world.cut(below, above)
        self._undo_later(lambda: self._mended(below, above))

    def _cut_site(self, cluster: ClusterHost) -> None:
        root = self._world.root
        self._world.cut(cluster, root)
        self._undo_later(lambda: self._mended(cluster, root), after_s=self._random.uniform(*SITE_CUT_S))

    def _cut_one_way(self, below: Host, above: Host) -> None:
        sender, receiver = (below, above) if self._random.random() < 0.5 else (above, below)  # noqa: PLR2004 - a coin
        self._world.say(f"cut {sender.name} to {receiver.name} one way")
        self._world.hub.weather.one_way.add((sender.address, receiver.address))
        self._undo_later(lambda: self._mended(below, above))

    async def _mended(self, below: Host, above: Host) -> None:
        self._world.mend(below, above)

    # --- disks, clocks, instances ----------------------------------------------------------------------------------

    def _fill(self, host: Host) -> None:
        self._world.say(f"the disk of {host.name} is full")
        self._set_full(host, full=True)
        self._undo_later(lambda: self._emptied(host))

    async def _emptied(self, host: Host) -> None:
        self._world.say(f"the disk of {host.name} has room again")
        self._set_full(host, full=False)

    def _set_full(self, host: Host, *, full: bool) -> None:
        if isinstance(host, WorkerHost):
            host.fill_disk(full=full)
            return
        disk = getattr(host, "disk", None)
        assert isinstance(disk, Disk), "root and clusters have a disk"
        disk.full = full

    def _disable(self, worker: WorkerHost, image: str) -> None:
        """Let a machine be unable to make containers of an image, and the processes of it that run there end."""
        self._world.say(f"{worker.name} is unable to run {image}")
        worker.kept.containers.unmakeable[image] = NO_DEVICE
        for number, spec in sorted(worker.kept.containers.specs.items()):
            if spec.image == image:
                worker.end(number, 1)
        self._undo_later(lambda: self._enabled(worker, image))

    async def _enabled(self, worker: WorkerHost, image: str) -> None:
        self._world.say(f"{worker.name} is able to run {image} again")
        worker.kept.containers.unmakeable.pop(image, None)

    def disable_a_few(self) -> None:
        """Let some machines be unable to run some image for good."""
        for worker in self._world.workers.values():
            if worker.alive and self._random.random() < 0.15:  # noqa: PLR2004 - a few
                self._disable(worker, self._any(IMAGES))
        for task in tuple(self._undoing):
            task.cancel()
        self._undoing.clear()

    def _jump(self, host: Host) -> None:
        by_s = self._random.uniform(-CLOCK_JUMP_MAX_S, CLOCK_JUMP_MAX_S)
        self._world.say(f"the clock of {host.name} jumps by {by_s:.0f} s")
        host.clock.epoch_s += by_s

    def _disturb(self, event: Event, worker: WorkerHost) -> None:
        kept = worker.kept
        if event is Event.IMAGE_REMOVED:
            self._world.say(f"{worker.name} has no images any more")
            kept.containers.images.clear()
            return
        running = [
            number
            for number, seen in sorted(kept.containers.containers.items())
            if seen.state is ContainerState.RUNNING
        ]
        if not running or not worker.powered:
            return
        number = self._any(running)
        if event is Event.NETWORK_TAKEN:
            self._world.say(f"{worker.name} loses the network of {number}")
            kept.kernel.attached.pop(number, None)
            return
        exit_code = self._any([0, 1, 137])
        self._world.say(f"{number} on {worker.name} ends with {exit_code}")
        worker.end(number, exit_code)

    # --- operators -----------------------------------------------------------------------------------------------

    async def _close(self, host: Host) -> None:
        self._touched.add(host.name)
        await self._set(host, self._any([Availability.CORDONED, Availability.DRAINING]))
        self._undo_later(lambda: self._set(host, Availability.ACTIVE))

    async def _set(self, host: Host, word: str) -> None:
        try:
            await self._world.set_availability(host, word)
        except OakestraError as error:
            self._world.say(f"the operator is told: {error}")

    async def reopen(self) -> None:
        """Let what operators closed take instances again, but leave a few drained for good."""
        for name in sorted(self._touched):
            host = self._world.hosts[name]
            cluster = host.cluster if isinstance(host, WorkerHost) else host
            word = Availability.DRAINING if self._random.random() < 0.2 else Availability.ACTIVE  # noqa: PLR2004 - a few
            self._world.closed[name] = ""
            while self._world.closed.get(name, Availability.ACTIVE) != word and cluster.alive and host.alive:
                await self._set(host, word)
                await asyncio.sleep(1.0)

    # --- chance ----------------------------------------------------------------------------------------------------

    def _a_worker(self) -> WorkerHost:
        return self._any(list(self._world.workers.values()))

    def _any(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def _undo_later(self, undo: Callable[[], Awaitable[None]], *, after_s: float | None = None) -> None:
        lasting_s = self._random.expovariate(1 / self._faults.lasting_s) if after_s is None else after_s

        async def later() -> None:
            await asyncio.sleep(lasting_s)
            del self._undoing[task]
            await undo()

        task = self._world.group.create_task(later())
        self._undoing[task] = undo
